//! What our copies and the words of peers come to for one recording, over all codec profiles (SPEC-FACTS 4).
//!
//! Every key has one vote on a copy, however often it speaks. A key agrees with the copy that comes first, in the common
//! order, among those it has. What a copy is like is as measured here, else as most of those say who have it.

use std::collections::BTreeMap;

use sha1::{Digest as _, Sha1};

use crate::engine::audio::canonical::{Candidate, Ledger, Observation, Observer};
use crate::engine::audio::quality::flac_key;
use crate::model::gossip::{Badge, Claim, Consensus, Known, Offered, Told};
use crate::model::health::Variant;
use crate::model::id::{ContentHash, PeerId};
use crate::model::limits;
use crate::model::time::UnixMs;

/// A lossy copy of at least this score is a good one: an MP3 of preset V2 has it.
pub const GOOD_LOSSY: f32 = 0.7;
/// Seconds by which lengths may differ that were rounded in their own ways.
const SECONDS: u64 = 1;

/// A text as it may be told: without control characters and spaces around it, cut at a character.
pub fn tellable(text: Option<&String>, length_max: usize) -> Option<String> {
    let mut text: String = text?.trim().chars().filter(|c| !c.is_control()).collect();
    if text.len() > length_max {
        let at = (0..=length_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(at);
    }
    Some(text).filter(|text| !text.is_empty())
}

/// A copy of ours as it is told.
pub fn claim_of(variant: &Variant) -> Claim {
    let measured = &variant.measured;
    Claim {
        content: measured.content_hash,
        file_sha256: measured.file_sha256,
        flac_key: flac_key(measured),
        size: measured.file_size_bytes,
        codec: measured.codec,
        container: measured.container,
        lossless: measured.codec.is_lossless(),
        sample_rate_hz: measured.sample_rate_hz,
        bit_depth: measured.bit_depth.filter(|_| measured.codec.is_lossless()),
        channels: measured.channels,
        duration_ms: measured.duration_ms,
        bitrate_kbps: measured.bitrate_kbps,
        transcode_suspect: variant.judged.is_suspect(),
        quality_score: variant.judged.quality_score,
        dynamic_range_dr: measured.loudness.dynamic_range_dr,
        loudness_lufs: measured.loudness.integrated_lufs,
        has_clipping: measured.loudness.clipping_runs > 0,
        encoder_signature: tellable(measured.encoder.as_ref(), limits::GOSSIP_ENCODER),
    }
}

/// SHA-1 of a fingerprint's words, little-endian: for telling that two are the very same, not that they sound alike.
pub fn sha1_of(words: &[u32]) -> [u8; 20] {
    let mut hash = Sha1::new();
    for word in words {
        hash.update(word.to_le_bytes());
    }
    hash.finalize().into()
}

/// A claim as a vote.
pub(super) fn vote(observer: Observer, claim: &Claim) -> Observation {
    Observation {
        observer,
        variant: claim.content,
        codec: claim.codec,
        bitrate_kbps: claim.bitrate_kbps,
        sample_rate_hz: claim.sample_rate_hz,
        quality: claim.quality_score,
        suspect: claim.transcode_suspect,
    }
}

/// What a copy is like, as most say who have it.
fn described(content: ContentHash, told: &[(PeerId, Told)]) -> Option<Claim> {
    let of_it = told.iter().flat_map(|(_, told)| &told.claims).filter(|claim| claim.content == content);
    let mut alike: BTreeMap<_, (u32, &Claim)> = BTreeMap::new();
    for claim in of_it {
        let looks = (claim.size, claim.codec, claim.sample_rate_hz, claim.bit_depth, claim.duration_ms / 1_000);
        alike.entry(looks).or_insert((0, claim)).0 += 1;
    }
    alike.into_values().max_by_key(|(count, _)| *count).map(|(_, claim)| claim.clone())
}

/// What is known of a recording; `None` when nobody has a copy of it.
pub fn consensus(id: u128, copies: &[&Variant], told: &[(PeerId, Told)], now: UnixMs) -> Option<Consensus> {
    let ours: Vec<Claim> = copies.iter().map(|copy| claim_of(copy)).collect();
    let mut ledger = Ledger::default();
    for claim in &ours {
        ledger.observe(&vote(Observer::Local, claim));
    }
    for (peer, told) in told {
        for claim in &told.claims {
            ledger.observe(&vote(Observer::Peer(peer.0), claim));
        }
    }
    let statistics = ledger.statistics();
    let agrees = |candidates: &[Candidate], told: &Told| {
        candidates.iter().position(|c| told.claims.iter().any(|claim| claim.content == c.variant))
    };
    let mut agreeing: BTreeMap<usize, u32> = BTreeMap::new();
    for (_, told) in told {
        if let Some(at) = agrees(&statistics.candidates, told) {
            *agreeing.entry(at).or_default() += 1;
        }
    }
    // The copies are in the common order, so our own best is the first of them that is ours.
    let own_best = statistics.candidates.iter().position(|c| ours.iter().any(|claim| claim.content == c.variant));
    let known = |(at, candidate): (usize, &Candidate)| {
        let own = ours.iter().find(|claim| claim.content == candidate.variant);
        let claim = own.cloned().or_else(|| described(candidate.variant, told))?;
        Some(Known {
            claim: Claim { transcode_suspect: candidate.suspect, quality_score: candidate.quality, ..claim },
            local: own.is_some(),
            seen: candidate.seen,
            peers_agreeing: agreeing.get(&at).copied().unwrap_or(0),
            keys_agreeing: agreeing.get(&at).copied().unwrap_or(0) + u32::from(own_best == Some(at)),
            canonicality: candidate.canonicality,
        })
    };
    let listed = statistics.candidates.iter().enumerate().take(limits::CONSENSUS_VARIANTS);
    let variants: Vec<Known> = listed.filter_map(known).collect();
    (!variants.is_empty()).then_some(Consensus {
        recording_id: id,
        peers: u32::try_from(told.len()).unwrap_or(u32::MAX),
        variant_count: statistics.variant_count,
        variants,
        updated_at: now,
    })
}

/// Whether an offered file is this copy, as far as can be seen: the same size and codec, and something else that is the
/// same while nothing else differs. A size alone is not enough.
pub fn is_it(offered: &Offered, claim: &Claim) -> bool {
    if offered.size != claim.size || !offered.codecs.contains(&claim.codec) {
        return false;
    }
    let length = offered.duration_s.map(|s| (u64::from(s) * 1_000).abs_diff(claim.duration_ms) <= SECONDS * 1_000);
    // Mean bit rates are computed in many ways.
    let rate = offered.bitrate_kbps.map(|kbps| kbps.abs_diff(claim.bitrate_kbps) <= 8 + claim.bitrate_kbps / 20);
    let sample_rate = offered.sample_rate_hz.map(|hz| hz == claim.sample_rate_hz);
    let depth = claim.bit_depth.and_then(|bits| offered.bit_depth.map(|told| told == u32::from(bits)));
    // Sample rate and depth are those of almost every file.
    let (telling, all) = ([length, rate], [length, rate, sample_rate, depth]);
    telling.contains(&Some(true)) && !all.contains(&Some(false))
}

/// What is said of an offered file, from what is known of the recordings that have a copy of its size. `None` when it
/// matches none, or several that say different things.
pub fn badge(offered: &Offered, known: &[Consensus]) -> Option<Badge> {
    let mut found: Option<Badge> = None;
    for consensus in known {
        for (at, variant) in consensus.variants.iter().enumerate() {
            if !is_it(offered, &variant.claim) {
                continue;
            }
            let says = if variant.claim.transcode_suspect {
                Badge::LikelyTranscode
            } else if at == 0 {
                Badge::Canonical { score: variant.canonicality, peers: variant.peers_agreeing }
            } else if !variant.claim.lossless && variant.claim.quality_score >= GOOD_LOSSY {
                Badge::GoodLossy
            } else {
                return None;
            };
            match found {
                Some(other) if other != says => return None,
                _ => found = Some(says),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::library::fixtures::variant;
    use crate::model::variant::Codec;
    use crate::model::verdict::Verdict;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn told(claims: &[&Claim]) -> Told {
        Told { at: UnixMs(1), claims: claims.iter().map(|claim| (*claim).clone()).collect() }
    }

    fn mp3(mut claim: Claim) -> Claim {
        claim.content = ContentHash([3; 32]);
        (claim.codec, claim.lossless, claim.bit_depth) = (Codec::Mp3, false, None);
        (claim.size, claim.bitrate_kbps, claim.quality_score) = (7_000_000, 320, 0.8);
        claim
    }

    #[test]
    fn three_boxes_come_to_the_same() {
        let copy = variant("/flac", 0.95);
        let (flac, lossy) = (claim_of(&copy), mp3(claim_of(&copy)));
        let other = Claim { content: ContentHash([5; 32]), quality_score: 0.6, ..flac.clone() };
        // One box has the FLAC itself, one an MP3, one both and another FLAC.
        let here =
            consensus(1, &[&copy], &[(peer(2), told(&[&lossy])), (peer(3), told(&[&other, &flac, &lossy]))], UnixMs(9));
        let there = consensus(
            1,
            &[],
            &[(peer(1), told(&[&flac])), (peer(2), told(&[&lossy])), (peer(3), told(&[&flac, &lossy, &other]))],
            UnixMs(9),
        );
        let (here, there) = (here.unwrap(), there.unwrap());
        for (consensus, agreeing) in [(&here, 1), (&there, 2)] {
            let best = consensus.best().unwrap();
            assert_eq!((best.claim.content, best.seen, best.peers_agreeing), (flac.content, 2, agreeing));
            assert_eq!((consensus.variant_count, best.keys_agreeing), (3, 2));
        }
        assert_eq!((here.peers, there.peers), (2, 3));
        assert!(here.variants[0].local && !there.variants[0].local);
        assert!((here.variants[0].canonicality - there.variants[0].canonicality).abs() < 1e-6);
        assert_eq!(here.variants[2].peers_agreeing, 1, "whoever has only the MP3 has it as its best");
        assert!(consensus(1, &[], &[], UnixMs(9)).is_none());
    }

    #[test]
    fn a_copy_is_like_most_say() {
        let truth = claim_of(&variant("/flac", 0.9));
        let lie = Claim { size: 5, ..truth.clone() };
        let words = [(peer(1), told(&[&lie])), (peer(2), told(&[&truth])), (peer(3), told(&[&truth]))];
        let known = consensus(1, &[], &words, UnixMs(9)).unwrap();
        assert_eq!(known.variants[0].claim.size, truth.size);
        assert_eq!(known.variants.len(), 1);
    }

    #[test]
    fn an_offered_file_is_matched_by_more_than_its_size() {
        let claim = Claim { size: 30_000_000, ..claim_of(&variant("/flac", 0.9)) };
        let offered = Offered {
            size: 30_000_000,
            codecs: &[Codec::Flac],
            duration_s: Some(180),
            bitrate_kbps: None,
            sample_rate_hz: Some(44_100),
            bit_depth: Some(16),
        };
        assert!(is_it(&offered, &claim));
        assert!(is_it(&Offered { duration_s: Some(181), bitrate_kbps: Some(905), ..offered }, &claim));
        assert!(!is_it(&Offered { duration_s: None, ..offered }, &claim), "size, rate and depth alone");
        assert!(!is_it(&Offered { duration_s: Some(182), ..offered }, &claim));
        assert!(!is_it(&Offered { bit_depth: Some(24), ..offered }, &claim));
        assert!(!is_it(&Offered { sample_rate_hz: Some(48_000), ..offered }, &claim));
        assert!(!is_it(&Offered { bitrate_kbps: Some(700), ..offered }, &claim));
        assert!(!is_it(&Offered { size: 30_000_001, ..offered }, &claim));
        assert!(!is_it(&Offered { codecs: &[Codec::Mp3], ..offered }, &claim));
    }

    #[test]
    fn badges_say_what_is_known_and_nothing_when_two_recordings_disagree() {
        let mut copy = variant("/flac", 0.95);
        copy.measured.file_size_bytes = 30_000_000;
        let (flac, lossy) = (claim_of(&copy), mp3(claim_of(&copy)));
        let mut words = vec![(peer(1), told(&[&flac])), (peer(2), told(&[&lossy]))];
        let known = consensus(1, &[&copy], &words, UnixMs(9)).unwrap();
        let of = |claim: &Claim| Offered {
            size: claim.size,
            codecs: &[Codec::Flac, Codec::Mp3],
            duration_s: Some(180),
            bitrate_kbps: None,
            sample_rate_hz: None,
            bit_depth: None,
        };
        let score = known.variants[0].canonicality;
        let canonical = badge(&of(&flac), std::slice::from_ref(&known)).unwrap();
        assert_eq!(canonical, Badge::Canonical { score, peers: 1 });
        assert_eq!(canonical.to_string(), format!("Canonical variant (score {score:.2}, 1 peer agrees)"));
        let many = Badge::Canonical { score: 0.938, peers: 80 };
        assert_eq!(many.to_string(), "Canonical variant (score 0.94, 80 peers agree)");
        assert_eq!(badge(&of(&lossy), std::slice::from_ref(&known)), Some(Badge::GoodLossy));
        // The same size in another recording, where it is not the best.
        let mut better = variant("/better", 0.99);
        better.measured.file_size_bytes = 40_000_000;
        let other = consensus(2, &[&better], &[(peer(3), told(&[&flac]))], UnixMs(9)).unwrap();
        assert_eq!(badge(&of(&flac), &[known.clone(), other]), None);
        // Suspects are told as such, even alone.
        copy.judged.judgement.verdict = Verdict::Transcode;
        words.clear();
        let suspect = consensus(1, &[&copy], &words, UnixMs(9)).unwrap();
        assert_eq!(badge(&of(&flac), &[suspect]), Some(Badge::LikelyTranscode));
        assert_eq!(badge(&of(&flac), &[]), None);
    }

    #[test]
    fn what_is_told_has_no_control_characters_and_is_short() {
        assert_eq!(tellable(Some(&" a\u{7}b ".to_owned()), 9).as_deref(), Some("ab"));
        assert_eq!(tellable(Some(&"äää".to_owned()), 3).as_deref(), Some("ä"));
        assert_eq!((tellable(Some(&"\n".to_owned()), 9), tellable(None, 9)), (None, None));
    }
}
