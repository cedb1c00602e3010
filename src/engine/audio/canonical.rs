//! Which of many variants of a recording is the one to keep and to fetch.
//!
//! Statistics are kept per recording and codec profile. They are built from observations, local or a peer's, and an
//! identity has one vote per variant: a peer who repeats a claim, or makes many, counts no more than one who made it
//! once. What a peer claims counts in how often a variant was seen; quality is taken from local measurements where there
//! are any.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::gossip::Mode;
use crate::model::id::ContentHash;
use crate::model::variant::Codec;

/// Who observed: this box, or one identity of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Observer {
    /// This box measured the file itself.
    Local,
    /// The key of a peer.
    Peer([u8; 32]),
}

/// One variant as one observer sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Who says it.
    pub observer: Observer,
    /// Which bytes.
    pub variant: ContentHash,
    /// How they are coded.
    pub codec: Codec,
    /// kbit/s.
    pub bitrate_kbps: u32,
    /// Hz.
    pub sample_rate_hz: u32,
    /// 0..=1; anything else is brought there.
    pub quality: f32,
    /// The verdict was transcode.
    pub suspect: bool,
}

/// Variants kept per profile; when full, a new one replaces the least seen of the peers' if that was seen once, else
/// it is not taken up.
pub const VARIANTS_MAX: usize = 64;
/// Identities counted per variant; further ones do not raise its count.
pub const OBSERVERS_MAX: usize = 256;

/// What is known of one variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which bytes.
    pub variant: ContentHash,
    /// How they are coded.
    pub codec: Codec,
    /// kbit/s.
    pub bitrate_kbps: u32,
    /// Hz.
    pub sample_rate_hz: u32,
    /// Local measurement, else the median of the claims, 0..=1.
    pub quality: f32,
    /// The local verdict, else that of more than half of the observers.
    pub suspect: bool,
    /// Distinct identities that saw it.
    pub seen: u32,
    /// 0..=1.
    pub canonicality: f32,
}

/// The statistics of one recording in one codec profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Distinct variants.
    pub variant_count: u32,
    /// Sum of the variants' seen counts.
    pub total_seen: u32,
    /// Mean quality.
    pub quality_mean: f32,
    /// Best quality.
    pub quality_max: f32,
    /// Share of the variants that are suspects, 0..=1.
    pub suspect_share: f32,
    /// Variants per codec.
    pub codecs: BTreeMap<Codec, u32>,
    /// Variants per 32 kbit/s: the key is the lower bound.
    pub bitrates_kbps: BTreeMap<u32, u32>,
    /// Variants per sample rate, Hz.
    pub sample_rates_hz: BTreeMap<u32, u32>,
    /// Best first.
    pub candidates: Vec<Candidate>,
}

impl Statistics {
    /// The best variant and its canonicality.
    pub fn best(&self) -> Option<&Candidate> {
        self.candidates.first()
    }
}

/// Observations of one recording in one profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    variants: BTreeMap<ContentHash, Sightings>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sightings {
    codec: Codec,
    bitrate_kbps: u32,
    sample_rate_hz: u32,
    /// Each identity's last word.
    words: BTreeMap<Observer, (f32, bool)>,
}

impl Ledger {
    /// Takes an observation; the same observer's earlier word on the same variant is replaced. Returns whether it was
    /// taken up.
    pub fn observe(&mut self, seen: &Observation) -> bool {
        if !self.variants.contains_key(&seen.variant) && self.variants.len() >= VARIANTS_MAX && !self.make_room() {
            return false;
        }
        let sightings = self.variants.entry(seen.variant).or_insert_with(|| Sightings {
            codec: seen.codec,
            bitrate_kbps: seen.bitrate_kbps,
            sample_rate_hz: seen.sample_rate_hz,
            words: BTreeMap::new(),
        });
        if seen.observer == Observer::Local {
            // What was measured here outranks what was told.
            sightings.codec = seen.codec;
            sightings.bitrate_kbps = seen.bitrate_kbps;
            sightings.sample_rate_hz = seen.sample_rate_hz;
        }
        let known = sightings.words.contains_key(&seen.observer);
        if !known && sightings.words.len() >= OBSERVERS_MAX && seen.observer != Observer::Local {
            return false;
        }
        let quality = if seen.quality.is_nan() { 0.0 } else { seen.quality.clamp(0.0, 1.0) };
        sightings.words.insert(seen.observer, (quality, seen.suspect));
        true
    }

    /// Forgets what an observer said about a variant: the file is gone.
    pub fn withdraw(&mut self, observer: Observer, variant: &ContentHash) {
        if let Some(sightings) = self.variants.get_mut(variant) {
            sightings.words.remove(&observer);
            if sightings.words.is_empty() {
                self.variants.remove(variant);
            }
        }
    }

    /// Drops a variant only one peer ever claimed.
    fn make_room(&mut self) -> bool {
        let lone = self
            .variants
            .iter()
            .find(|(_, sightings)| sightings.words.len() == 1 && !sightings.words.contains_key(&Observer::Local));
        let Some(variant) = lone.map(|(variant, _)| *variant) else {
            return false;
        };
        self.variants.remove(&variant);
        true
    }

    /// The statistics as they stand.
    #[expect(clippy::cast_precision_loss, reason = "counts are bounded by VARIANTS_MAX and OBSERVERS_MAX")]
    pub fn statistics(&self) -> Statistics {
        let mut statistics = Statistics {
            variant_count: u32::try_from(self.variants.len()).unwrap_or(u32::MAX),
            ..Statistics::default()
        };
        if self.variants.is_empty() {
            return statistics;
        }
        let mut suspects = 0_usize;
        for (variant, sightings) in &self.variants {
            let (quality, suspect) = sightings.opinion();
            let seen = u32::try_from(sightings.words.len()).unwrap_or(u32::MAX);
            statistics.total_seen = statistics.total_seen.saturating_add(seen);
            statistics.quality_mean += quality;
            statistics.quality_max = statistics.quality_max.max(quality);
            suspects += usize::from(suspect);
            *statistics.codecs.entry(sightings.codec).or_default() += 1;
            *statistics.bitrates_kbps.entry(sightings.bitrate_kbps / 32 * 32).or_default() += 1;
            *statistics.sample_rates_hz.entry(sightings.sample_rate_hz).or_default() += 1;
            statistics.candidates.push(Candidate {
                variant: *variant,
                codec: sightings.codec,
                bitrate_kbps: sightings.bitrate_kbps,
                sample_rate_hz: sightings.sample_rate_hz,
                quality,
                suspect,
                seen,
                canonicality: 0.0,
            });
        }
        let count = self.variants.len() as f32;
        statistics.quality_mean /= count;
        statistics.suspect_share = suspects as f32 / count;
        for candidate in &mut statistics.candidates {
            candidate.canonicality = canonicality(
                candidate.quality,
                candidate.seen,
                statistics.total_seen,
                candidate.suspect,
                statistics.variant_count,
            );
        }
        order(&mut statistics.candidates);
        statistics
    }

    /// Distinct peers that observed anything here.
    pub fn peers(&self) -> usize {
        let all: BTreeSet<&Observer> = self.variants.values().flat_map(|sightings| sightings.words.keys()).collect();
        all.iter().filter(|observer| ***observer != Observer::Local).count()
    }
}

impl Sightings {
    /// Quality and suspicion: our own, else the median claim and the majority.
    fn opinion(&self) -> (f32, bool) {
        if let Some(own) = self.words.get(&Observer::Local) {
            return *own;
        }
        let mut claims: Vec<f32> = self.words.values().map(|(quality, _)| *quality).collect();
        claims.sort_by(f32::total_cmp);
        let suspecting = self.words.values().filter(|(_, suspect)| *suspect).count();
        (claims.get(claims.len() / 2).copied().unwrap_or(0.0), suspecting * 2 > self.words.len())
    }
}

/// `0.4 quality + 0.3 seen/total + 0.2 not suspect + 0.1 min(1, 1/ln(variants + 1))`, 0..=1.
#[expect(clippy::cast_precision_loss, reason = "counts are bounded by VARIANTS_MAX and OBSERVERS_MAX")]
pub fn canonicality(quality: f32, seen: u32, total_seen: u32, suspect: bool, variants: u32) -> f32 {
    let share = if total_seen == 0 { 0.0 } else { seen as f32 / total_seen as f32 };
    // 1/ln(2) is 1.44: one variant alone must not score more than certainty.
    let consensus = if variants == 0 { 0.0 } else { (1.0 / (variants as f32 + 1.0).ln()).min(1.0) };
    (0.4 * quality + 0.3 * share + if suspect { 0.0 } else { 0.2 } + 0.1 * consensus).clamp(0.0, 1.0)
}

/// Puts candidates in order: suspects last, lossless first, then canonicality, quality, seen; ties by hash.
pub fn order(candidates: &mut [Candidate]) {
    candidates.sort_by(|a, b| {
        a.suspect
            .cmp(&b.suspect)
            .then(b.codec.is_lossless().cmp(&a.codec.is_lossless()))
            .then(b.canonicality.total_cmp(&a.canonicality))
            .then(b.quality.total_cmp(&a.quality))
            .then(b.seen.cmp(&a.seen))
            .then(a.variant.cmp(&b.variant))
    });
}

/// Whether a download is pointless: the local copy is good (`enough`, 0.85 by default) and the offered one better by
/// less than `gain` (0.1).
pub fn skip_download(local_quality: f32, offered_quality: f32, (enough, gain): (f32, f32)) -> bool {
    local_quality >= enough && offered_quality - local_quality < gain
}

/// Whether a search result may be the best variant: its codec, its sample rate, and its bit rate within 50 kbit/s
/// (where both are lossless the rate of packing says nothing).
pub fn matches(best: &Candidate, codec: Codec, sample_rate_hz: u32, bitrate_kbps: u32) -> bool {
    best.codec == codec
        && best.sample_rate_hz == sample_rate_hz
        && (codec.is_lossless() || best.bitrate_kbps.abs_diff(bitrate_kbps) <= 50)
}

/// Sources that must offer a candidate before it is chosen over the next one.
pub const MATCHING_SOURCES_MIN: usize = 2;

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its place among the candidates.
    pub at: usize,
    /// Too few offer any candidate, so the sources of one and the same content are what counts.
    pub by_hash: bool,
}

/// Chooses among candidates in their common order. A candidate with fewer
/// than [`MATCHING_SOURCES_MIN`] gives way to the next; where all have fewer, the first that anybody offers is taken.
///
/// `candidates`: whether each is a suspect, and how many offer it.
///
/// | Mode | Order | Suspects |
/// |---|---|---|
/// | Any | most sources, then the common one | last, as there |
/// | Canonical Master | the common one | never |
/// | No Transcodes | most sources, then the common one | never |
pub fn choose(mode: Mode, candidates: &[(bool, usize)]) -> Option<Choice> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    if mode != Mode::CanonicalMaster {
        order.sort_by_key(|at| std::cmp::Reverse(candidates[*at].1));
    }
    let may = |at: &&usize| mode == Mode::Any || !candidates[**at].0;
    let of = |min: usize| order.iter().filter(may).find(|at| candidates[**at].1 >= min).copied();
    let enough = of(MATCHING_SOURCES_MIN).map(|at| Choice { at, by_hash: false });
    enough.or_else(|| of(1).map(|at| Choice { at, by_hash: true }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> ContentHash {
        ContentHash([n; 32])
    }

    fn seen(observer: Observer, variant: u8, codec: Codec, quality: f32, suspect: bool) -> Observation {
        let bitrate_kbps = if codec.is_lossless() { 900 } else { 320 };
        Observation { observer, variant: hash(variant), codec, bitrate_kbps, sample_rate_hz: 44_100, quality, suspect }
    }

    fn peer(n: u8) -> Observer {
        Observer::Peer([n; 32])
    }

    #[test]
    fn canonicality_is_the_formula_and_one_variant_does_not_exceed_it() {
        // 0.4 * 0.9 + 0.3 * 8/10 + 0.2 + 0.1 / ln 4
        assert!((canonicality(0.9, 8, 10, false, 3) - (0.36 + 0.24 + 0.2 + 0.1 / 4.0_f32.ln())).abs() < 1e-6);
        assert!((canonicality(1.0, 5, 5, false, 1) - 1.0).abs() < 1e-6, "1/ln 2 is capped");
        assert!((canonicality(0.9, 8, 10, true, 3) - canonicality(0.9, 8, 10, false, 3) + 0.2).abs() < 1e-6);
        assert!(canonicality(0.0, 0, 0, true, 0).abs() < 1e-6);
    }

    #[test]
    fn suspects_come_last_and_lossless_first() {
        let mut ledger = Ledger::default();
        for n in 1..9 {
            ledger.observe(&seen(peer(n), 1, Codec::Flac, 0.95, true));
            ledger.observe(&seen(peer(n), 2, Codec::Mp3, 0.8, false));
        }
        ledger.observe(&seen(Observer::Local, 3, Codec::Flac, 0.9, false));
        let statistics = ledger.statistics();
        let order: Vec<_> = statistics.candidates.iter().map(|candidate| candidate.variant).collect();
        assert_eq!(order, [hash(3), hash(2), hash(1)]);
        assert_eq!((statistics.variant_count, statistics.total_seen), (3, 17));
        assert!((statistics.suspect_share - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(statistics.bitrates_kbps.get(&320), Some(&1));
        assert_eq!(statistics.bitrates_kbps.get(&896), Some(&2));
    }

    #[test]
    fn an_identity_has_one_vote() {
        let mut ledger = Ledger::default();
        for _ in 0..50 {
            ledger.observe(&seen(peer(1), 1, Codec::Flac, 1.0, false));
        }
        ledger.observe(&seen(peer(2), 1, Codec::Flac, 0.5, false));
        ledger.observe(&seen(peer(3), 1, Codec::Flac, 0.6, false));
        let statistics = ledger.statistics();
        assert_eq!(statistics.total_seen, 3);
        assert!((statistics.candidates[0].quality - 0.6).abs() < 1e-6, "the median, not the loudest");
        assert_eq!(ledger.peers(), 3);
    }

    #[test]
    fn what_was_measured_here_outranks_claims() {
        let mut ledger = Ledger::default();
        for n in 0..9 {
            ledger.observe(&seen(peer(n), 1, Codec::Flac, 1.0, false));
        }
        ledger.observe(&seen(Observer::Local, 1, Codec::Flac, 0.45, true));
        let best = ledger.statistics().candidates[0].clone();
        assert!(best.suspect && (best.quality - 0.45).abs() < 1e-6 && best.seen == 10);
        ledger.withdraw(Observer::Local, &hash(1));
        assert!(!ledger.statistics().candidates[0].suspect);
    }

    #[test]
    fn a_flood_of_variants_stays_bounded_and_keeps_ours() {
        let mut ledger = Ledger::default();
        ledger.observe(&seen(Observer::Local, 0, Codec::Flac, 0.9, false));
        for n in 1..=255 {
            ledger.observe(&seen(peer(1), n, Codec::Flac, 1.0, false));
        }
        let statistics = ledger.statistics();
        assert_eq!(statistics.candidates.len(), VARIANTS_MAX);
        assert!(statistics.candidates.iter().any(|candidate| candidate.variant == hash(0)));
    }

    #[test]
    fn a_good_copy_is_kept_unless_the_gain_is_a_tenth() {
        assert!(skip_download(0.85, 0.94, (0.85, 0.1)));
        assert!(!skip_download(0.85, 0.96, (0.85, 0.1)));
        assert!(!skip_download(0.84, 0.85, (0.85, 0.1)));
    }

    #[test]
    fn each_mode_chooses_its_own() {
        let check =
            |mode, candidates: &[(bool, usize)]| choose(mode, candidates).map(|choice| (choice.at, choice.by_hash));
        // The best with two sources, a lesser one with five, a suspect with nine.
        let all = [(false, 2), (false, 5), (true, 9)];
        assert_eq!(check(Mode::CanonicalMaster, &all), Some((0, false)));
        assert_eq!(check(Mode::NoTranscodes, &all), Some((1, false)));
        assert_eq!(check(Mode::Any, &all), Some((2, false)));
        // One source is too few while another candidate has two.
        assert_eq!(check(Mode::CanonicalMaster, &[(false, 1), (false, 2)]), Some((1, false)));
        assert_eq!(check(Mode::CanonicalMaster, &[(false, 0), (false, 1), (true, 9)]), Some((1, true)));
        assert_eq!(check(Mode::NoTranscodes, &[(true, 9)]), None);
        assert_eq!(check(Mode::Any, &[(false, 0)]), None);
    }

    #[test]
    fn a_result_matches_within_fifty_kilobits() {
        let mut ledger = Ledger::default();
        ledger.observe(&seen(Observer::Local, 1, Codec::Mp3, 0.8, false));
        let best = ledger.statistics().best().cloned().unwrap();
        assert!(matches(&best, Codec::Mp3, 44_100, 270));
        assert!(!matches(&best, Codec::Mp3, 44_100, 269));
        assert!(!matches(&best, Codec::Mp3, 48_000, 320));
        assert!(!matches(&best, Codec::Aac, 44_100, 320));
    }
}
