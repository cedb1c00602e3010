//! Whether a finished file is the recording that was wanted.
//!
//! A sound that is known here goes before AcoustID, and both go before tags, which are its last owner's word
//! (SPEC-FACTS C27). What nothing contradicts is taken, and it is kept how little speaks for it.

use super::TOLERANCE_MS;
use super::deed::Deed;
use crate::model::id::RecordingId;
use crate::model::job::{Constraints, JobTrack, Proof};
use crate::model::variant::Codec;

/// `AcoustID`'s scores below this are ambiguous.
pub const SURE: f64 = 0.9;
/// Below this they say nothing.
pub const LIKELY: f64 = 0.5;

/// What `AcoustID` said of a sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// 0 to 1.
    pub score: f64,
    /// Recordings linked to it, as they stand after merges.
    pub recordings: Vec<RecordingId>,
}

/// What was found out about a finished file.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Compared with copies of the recording that are known here; `None`: there are none, or it cannot be told.
    pub same_sound: Option<bool>,
    /// What `AcoustID` knows, best first; `None`: it could not be asked.
    pub heard: Option<Vec<Heard>>,
    /// The recording that its tags name.
    pub tagged: Option<RecordingId>,
    /// Measured.
    pub duration_ms: u64,
    /// Measured.
    pub codec: Codec,
    /// It was made of a lossy copy, as far as can be heard.
    pub is_transcode: bool,
    /// It decodes from the beginning to the end.
    pub is_whole: bool,
    /// 0 to 1.
    pub score: f32,
}

/// What is to be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the one.
    Right(Proof),
    /// The right recording, but a worse copy than is wanted: taken when no other is found.
    Poor(Proof, String),
    /// Not the one, or no use; why.
    Wrong(String),
}

/// Judges a file, and says what it says of the user it came from.
pub fn judge(track: &JobTrack, found: &Found, constraints: &Constraints) -> (Verdict, Option<Deed>) {
    let untrue = |why| (Verdict::Wrong(why), Some(Deed::Untrue));
    if !found.is_whole {
        return untrue("it does not decode to its end".to_owned());
    }
    if let Some(wanted) = track.duration_ms
        && wanted.abs_diff(found.duration_ms) > TOLERANCE_MS
    {
        let seconds = |ms: u64| ms / 1_000;
        return untrue(format!("it lasts {} s instead of {} s", seconds(found.duration_ms), seconds(wanted)));
    }
    let (proof, doubt) = match identity(track, found) {
        Ok(proof) => proof,
        Err(why) => return untrue(why),
    };
    if found.is_transcode {
        let why = "it was made of a lossy copy".to_owned();
        return if constraints.allow_lossy { (Verdict::Poor(proof, why), Some(Deed::Untrue)) } else { untrue(why) };
    }
    if !found.codec.is_lossless() && !constraints.allow_lossy {
        return (Verdict::Wrong(format!("it is {}, and lossy copies are not wanted", found.codec.name())), None);
    }
    match doubt {
        Some(why) => (Verdict::Poor(proof, why), None),
        None => (Verdict::Right(proof), Some(Deed::Kept)),
    }
}

/// What says that it is the one, and what says that it is not, if that is not enough to refuse it.
fn identity(track: &JobTrack, found: &Found) -> Result<(Proof, Option<String>), String> {
    match found.same_sound {
        Some(true) => return Ok((Proof::Sound, None)),
        Some(false) => return Err("it does not sound like the copies known here".to_owned()),
        None => {}
    }
    let heard = found.heard.as_deref().unwrap_or_default();
    let likely = || heard.iter().filter(|heard| heard.score >= LIKELY && !heard.recordings.is_empty());
    if likely().any(|heard| heard.recordings.contains(&track.recording)) {
        return Ok((Proof::AcoustId, None));
    }
    if likely().any(|heard| heard.score >= SURE) {
        return Err("AcoustID knows it as another recording".to_owned());
    }
    match found.tagged {
        Some(tagged) if tagged == track.recording => Ok((Proof::Tags, None)),
        // Another edition's, another take's, or wrong: others may have a better one.
        Some(_) => Ok((Proof::Length, Some("its tags name another recording".to_owned()))),
        None => Ok((Proof::Length, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::jobs::fixtures::track;

    fn found() -> Found {
        Found {
            same_sound: None,
            heard: None,
            tagged: None,
            duration_ms: 100_000,
            codec: Codec::Flac,
            is_transcode: false,
            is_whole: true,
            score: 0.9,
        }
    }

    fn check(found: &Found, constraints: &Constraints) -> Verdict {
        judge(&track(1, 1, "T", "A", 100), found, constraints).0
    }

    #[test]
    fn the_strongest_witness_decides() {
        let (any, wanted) = (Constraints::default(), track(1, 1, "T", "A", 100).recording);
        let other = RecordingId(99);
        let heard = |score, id| Some(vec![Heard { score, recordings: vec![id] }]);
        for (found, verdict) in [
            (found(), Ok(Proof::Length)),
            (Found { tagged: Some(wanted), ..found() }, Ok(Proof::Tags)),
            (Found { heard: heard(0.95, wanted), tagged: Some(other), ..found() }, Ok(Proof::AcoustId)),
            (Found { heard: heard(0.95, other), tagged: Some(wanted), ..found() }, Err("AcoustID knows")),
            (Found { heard: heard(0.7, other), tagged: Some(wanted), ..found() }, Ok(Proof::Tags)),
            (Found { heard: heard(0.4, wanted), ..found() }, Ok(Proof::Length)),
            (Found { same_sound: Some(true), heard: heard(0.95, other), ..found() }, Ok(Proof::Sound)),
            (Found { same_sound: Some(false), heard: heard(0.95, wanted), ..found() }, Err("sound")),
            (Found { duration_ms: 103_001, same_sound: Some(true), ..found() }, Err("lasts")),
            (Found { is_whole: false, same_sound: Some(true), ..found() }, Err("decode")),
        ] {
            match (check(&found, &any), verdict) {
                (Verdict::Right(proof), Ok(expected)) => assert_eq!(proof, expected, "{found:?}"),
                (Verdict::Wrong(why), Err(word)) => assert!(why.contains(word), "{why} / {word}"),
                (got, expected) => panic!("{found:?}: {got:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn a_transcode_is_second_best_and_lossy_may_be_unwanted() {
        let any = Constraints::default();
        let strict = Constraints { allow_lossy: false, ..any.clone() };
        let transcode = Found { is_transcode: true, ..found() };
        assert!(matches!(check(&transcode, &any), Verdict::Poor(Proof::Length, _)));
        assert!(matches!(check(&transcode, &strict), Verdict::Wrong(_)));
        let other = Found { tagged: Some(RecordingId(99)), ..found() };
        assert!(matches!(check(&other, &any), Verdict::Poor(Proof::Length, why) if why.contains("tags")));
        let lossy = Found { codec: Codec::Mp3, ..found() };
        assert_eq!(check(&lossy, &any), Verdict::Right(Proof::Length));
        assert!(matches!(check(&lossy, &strict), Verdict::Wrong(_)));
    }

    #[test]
    fn only_what_the_user_is_to_blame_for_is_the_users_deed() {
        let any = Constraints::default();
        let strict = Constraints { allow_lossy: false, ..any.clone() };
        let deed = |found: Found, constraints: &Constraints| judge(&track(1, 1, "T", "A", 100), &found, constraints).1;
        assert_eq!(deed(found(), &any), Some(Deed::Kept));
        for untrue in [
            Found { is_whole: false, ..found() },
            Found { duration_ms: 200_000, ..found() },
            Found { same_sound: Some(false), ..found() },
            Found { is_transcode: true, ..found() },
        ] {
            assert_eq!(deed(untrue.clone(), &any), Some(Deed::Untrue), "{untrue:?}");
            assert_eq!(deed(untrue, &strict), Some(Deed::Untrue));
        }
        let lossy = Found { codec: Codec::Mp3, ..found() };
        assert_eq!((deed(lossy.clone(), &any), deed(lossy, &strict)), (Some(Deed::Kept), None), "the owner's wish");
        assert_eq!(deed(Found { tagged: Some(RecordingId(99)), ..found() }, &any), None, "nothing is proven");
    }
}
