//! What the copies of one recording here come to (SPEC-FACTS 4).

use super::consensus::{claim_of, vote};
use super::detect::best_of;
use crate::engine::audio::canonical::{Ledger, Observer};
use crate::model::gossip::Told;
use crate::model::health::{CanonicalStats, Variant};
use crate::model::id::PeerId;
use crate::model::time::UnixMs;

/// Statistics of the copies of one recording in one profile; `None` without copies. This box is one observer, however
/// often it saw a copy: what peers tell joins it in the same ledger.
pub fn of_copies(
    recording_id: u128,
    profile: &str,
    copies: &[&Variant],
    told: &[(PeerId, Told)],
    now: UnixMs,
) -> Option<CanonicalStats> {
    let mut ledger = Ledger::default();
    for copy in copies {
        ledger.observe(&vote(Observer::Local, &claim_of(copy)));
    }
    for (peer, told) in told {
        for claim in told.claims.iter().filter(|claim| claim.profile() == profile) {
            ledger.observe(&vote(Observer::Peer(peer.0), claim));
        }
    }
    let statistics = ledger.statistics();
    let best = statistics.best()?;
    let (best_variant, canonicality_score) = (best.variant, best.canonicality);
    Some(CanonicalStats {
        recording_id,
        profile: profile.to_owned(),
        variant_count: statistics.variant_count,
        total_seen_count: u64::from(statistics.total_seen),
        avg_quality: statistics.quality_mean,
        max_quality: statistics.quality_max,
        percent_transcode_suspect: 100.0 * statistics.suspect_share,
        codecs: statistics.codecs.into_iter().collect(),
        bitrates_kbps: statistics.bitrates_kbps.into_iter().collect(),
        sample_rates_hz: statistics.sample_rates_hz.into_iter().collect(),
        best_variant,
        canonicality_score,
        updated_at: now,
    })
}

/// The copies of a recording, the one to keep first.
pub fn best_first(mut variants: Vec<Variant>) -> Vec<Variant> {
    let mut sorted = Vec::with_capacity(variants.len());
    while let Some(best) = best_of(&variants.iter().collect::<Vec<_>>()).map(Variant::hash) {
        let at = variants.iter().position(|variant| variant.hash() == best).unwrap_or(0);
        sorted.push(variants.swap_remove(at));
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::library::fixtures::variant;
    use crate::model::verdict::Verdict;

    #[test]
    fn the_best_copy_and_how_sure_it_is() {
        let (a, mut b) = (variant("/a", 0.9), variant("/b", 0.8));
        b.measured.bitrate_kbps = 1_000;
        let stats = of_copies(1, "p", &[&b, &a], &[], UnixMs(5)).unwrap();
        assert_eq!((stats.best_variant, stats.variant_count, stats.total_seen_count), (a.hash(), 2, 2));
        assert_eq!(stats.bitrates_kbps, [(896, 1), (992, 1)]);
        assert!((stats.avg_quality - 0.85).abs() < 1e-6);
        assert!(of_copies(1, "p", &[], &[], UnixMs(5)).is_none());
    }

    #[test]
    fn suspects_come_last() {
        let (mut a, b, c) = (variant("/a", 0.9), variant("/b", 0.5), variant("/c", 0.7));
        a.judged.judgement.verdict = Verdict::Transcode;
        let order: Vec<_> = best_first(vec![a.clone(), b.clone(), c.clone()]).iter().map(Variant::hash).collect();
        assert_eq!(order, [c.hash(), b.hash(), a.hash()]);
    }

    #[test]
    fn profiles_are_those_of_the_scores() {
        let variant = variant("/a", 0.9);
        assert_eq!(variant.profile(), crate::engine::audio::quality::profile_key(&variant.measured));
    }
}
