//! What rescue may do: guardrails (SPEC-FACTS 7, C3), and which copy of a recording may be joined to the bytes that are
//! there (DESIGN 5, "Which root may be followed").

use crate::engine::audio::fingerprint::{Verdict, compare};
use crate::model::config::Guardrails;
use crate::model::rescue::{Guardrail, Manner};

/// What is known before a rescue begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// The download is not over.
    pub origin: bool,
    /// The file or recording was met on Soulseek.
    pub seen: bool,
    /// The recording is known.
    pub recording: bool,
    /// Rescues under way, this one left out.
    pub jobs: usize,
    /// Bytes that rescues brought within 24 hours.
    pub today: u64,
}

/// The guardrails that forbid a rescue; none where it may begin.
pub fn forbidden(case: &Case, rails: &Guardrails) -> Vec<Guardrail> {
    let mut hit = Vec::new();
    if rails.soulseek_origin && !rails.overlay_only && !case.origin {
        hit.push(Guardrail::SoulseekOrigin);
    }
    if rails.seen_on_soulseek && !case.seen {
        hit.push(Guardrail::SeenOnSoulseek);
    }
    if rails.fingerprint && !case.recording {
        hit.push(Guardrail::FingerprintVerification);
    }
    if case.jobs >= rails.jobs_max {
        hit.push(Guardrail::ConcurrentJobs);
    }
    if case.today >= rails.daily {
        hit.push(Guardrail::DailyCap);
    }
    hit
}

/// How the ratio stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatioState {
    /// Within it, or there is nothing to compare with.
    Within,
    /// Over it: half the speed.
    Over,
    /// Over it, and the owner allows that.
    Allowed,
}

/// Whether the mesh brought too much for what Soulseek brought. While Soulseek brought nothing nothing is compared.
pub fn ratio(overlay: u64, soulseek: u64, rails: &Guardrails) -> RatioState {
    if soulseek == 0 || u128::from(overlay) * 1_000 <= u128::from(soulseek) * u128::from(rails.ratio_milli) {
        RatioState::Within
    } else if rails.overlay_only {
        RatioState::Allowed
    } else {
        RatioState::Over
    }
}

/// A copy that mesh peers offer, laid beside the bytes that came from Soulseek.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// The sizes are equal, or that of the download is not known.
    pub size_fits: bool,
    /// What the file is rests on less than a known recording and a known size: only equal bytes tell then.
    pub guessed: bool,
    /// Whole pieces that are equal, from the first on.
    pub equal: usize,
    /// A piece differs.
    pub differs: bool,
    /// This node had the file, or a peer that the owner named says that this is the recording.
    pub vouched: bool,
    /// Files of this kind carry checksums of their own.
    pub checkable: bool,
}

/// Whether a copy may be joined to what is there, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Join {
    /// Freely: (a).
    Free,
    /// If the whole file passes its container's check afterwards: (b).
    Checked,
    /// Not at all; it may be fetched as a file of its own: (c).
    Apart,
}

/// The head and one more whole piece must be equal before a stranger's word counts.
const PIECES_MIN: usize = 2;

/// How this copy may be used.
pub fn join(beside: &Beside) -> Join {
    if beside.differs || !beside.size_fits {
        Join::Apart
    } else if beside.vouched && (beside.equal >= PIECES_MIN || !beside.guessed) {
        Join::Free
    } else if beside.equal >= PIECES_MIN && beside.checkable {
        Join::Checked
    } else {
        Join::Apart
    }
}

/// Milliseconds by which copies of one recording differ at most (SPEC-FACTS 1).
pub const DURATION_APART_MS: u64 = 7_000;
/// Words by which two fingerprints of one recording may lie apart: about 3 s of leading silence.
const OFFSET_MAX: usize = 24;

/// How a file sounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sound<'a> {
    /// Milliseconds; `None`: it is not known.
    pub duration_ms: Option<u64>,
    /// Fingerprint; empty where there is none.
    pub print: &'a [u32],
}

/// Whether another copy may be the recording that was wanted: it plays about as long as that should, and sounds like the
/// bytes that are there.
///
/// # Errors
/// Why not, in one sentence.
pub fn alike(copy: Sound<'_>, wanted: Sound<'_>) -> Result<(), String> {
    if let (Some(plays), Some(should)) = (copy.duration_ms, wanted.duration_ms)
        && plays.abs_diff(should) > DURATION_APART_MS
    {
        let seconds = |ms: u64| ms.saturating_add(500) / 1_000;
        return Err(format!("it plays for {} s instead of {}", seconds(plays), seconds(should)));
    }
    match compare(copy.print, wanted.print, OFFSET_MAX) {
        Some(likeness) if likeness.verdict() == Verdict::Different => Err(format!(
            "it sounds otherwise: {:.0} % of its fingerprint differ from that of the bytes that are there",
            likeness.error_rate * 100.0
        )),
        Some(_) | None => Ok(()),
    }
}

impl Join {
    /// What comes of it.
    pub fn manner(self) -> Manner {
        match self {
            Self::Free | Self::Checked => Manner::Splice,
            Self::Apart => Manner::WholeVariant,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::resolve;

    fn rails() -> Guardrails {
        resolve(&[]).unwrap().config.rescue.guardrails
    }

    #[test]
    fn each_guardrail_forbids_by_itself() {
        let good = Case { origin: true, seen: true, recording: true, jobs: 4, today: 0 };
        assert_eq!(forbidden(&good, &rails()), []);
        for (case, hit) in [
            (Case { origin: false, ..good }, Guardrail::SoulseekOrigin),
            (Case { seen: false, ..good }, Guardrail::SeenOnSoulseek),
            (Case { recording: false, ..good }, Guardrail::FingerprintVerification),
            (Case { jobs: 5, ..good }, Guardrail::ConcurrentJobs),
            (Case { today: rails().daily, ..good }, Guardrail::DailyCap),
        ] {
            assert_eq!(forbidden(&case, &rails()), [hit]);
        }
        let open = Guardrails { soulseek_origin: false, seen_on_soulseek: false, fingerprint: false, ..rails() };
        assert_eq!(forbidden(&Case { jobs: 0, ..Case::default() }, &open), []);
        let danger = Guardrails { overlay_only: true, ..rails() };
        assert_eq!(forbidden(&Case { origin: false, ..good }, &danger), []);
    }

    #[test]
    fn the_ratio_throttles_and_means_nothing_without_soulseek_bytes() {
        let rails = rails();
        for (overlay, soulseek, state) in [
            (1 << 40, 0, RatioState::Within),
            (200, 100, RatioState::Within),
            (201, 100, RatioState::Over),
            (u64::MAX, 1, RatioState::Over),
        ] {
            assert_eq!(ratio(overlay, soulseek, &rails), state, "{overlay} {soulseek}");
        }
        assert_eq!(ratio(300, 100, &Guardrails { overlay_only: true, ..rails.clone() }), RatioState::Allowed);
    }

    #[test]
    fn only_what_is_vouched_for_or_proven_is_joined() {
        let near =
            Beside { size_fits: true, guessed: false, equal: 2, differs: false, vouched: false, checkable: true };
        for (beside, wanted) in [
            (near, Join::Checked),
            (Beside { equal: 1, ..near }, Join::Apart),
            (Beside { checkable: false, ..near }, Join::Apart),
            (Beside { equal: 0, vouched: true, ..near }, Join::Free),
            (Beside { checkable: false, vouched: true, ..near }, Join::Free),
            (Beside { differs: true, vouched: true, ..near }, Join::Apart),
            (Beside { size_fits: false, vouched: true, ..near }, Join::Apart),
            // A size that nobody knows, a recording that was guessed: bytes must tell, even where somebody vouches.
            (Beside { guessed: true, vouched: true, ..near }, Join::Free),
            (Beside { guessed: true, equal: 1, vouched: true, ..near }, Join::Apart),
            (Beside { guessed: true, ..near }, Join::Checked),
        ] {
            assert_eq!(join(&beside), wanted, "{beside:?}");
        }
        assert_eq!((Join::Checked.manner(), Join::Apart.manner()), (Manner::Splice, Manner::WholeVariant));
    }

    #[test]
    fn another_copy_plays_as_long_and_sounds_like_the_bytes_that_are_there() {
        let print: Vec<u32> = (1..200_u32).map(|n| n.wrapping_mul(2_654_435_761)).collect();
        let other: Vec<u32> = (1..200_u32).map(|n| n.wrapping_mul(2_246_822_519) ^ 0x5bd1_e995).collect();
        let sound = |duration_ms, print| Sound { duration_ms, print };
        let copy = sound(Some(200_000), &print);
        for (wanted, words) in [
            (Sound::default(), None),
            (sound(Some(206_000), &print[..60]), None),
            (sound(None, &[]), None),
            (sound(Some(208_000), &print), Some("200 s instead of 208")),
            (sound(None, &other[..80]), Some("sounds otherwise")),
            // Too short to say anything.
            (sound(None, &other[..20]), None),
        ] {
            let told = alike(copy, wanted);
            assert_eq!(told.as_ref().err().is_some(), words.is_some(), "{told:?}");
            assert!(words.is_none_or(|words| told.unwrap_err().contains(words)));
        }
    }
}
