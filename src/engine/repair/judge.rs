//! Whether a finished file may take the place of the files it was fetched for: the recording is proven, and it is no
//! worse than any of them. What decodes, lasts as long and is no transcode was decided before, by `engine::jobs::judge`.

use crate::engine::audio::fingerprint::Verdict as Likeness;
use crate::engine::jobs::judge::Verdict;
use crate::model::id::ContentHash;
use crate::model::job::Proof;
use crate::model::repair::{OldFile, Strategy};

/// Scores closer than this are equal: they are kept as `f32`.
const EQUAL: f32 = 1e-4;

/// A file that is to be replaced.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Its bytes.
    pub content: ContentHash,
    /// A copy must score this, 0..=1.
    pub score_min: f32,
    /// Its sound is whole: what does not sound like it is another recording.
    pub is_whole: bool,
}

impl Bar {
    /// What a repair asks of a copy. `improvement_min` is `audio.canonical_scoring.min_quality_improvement`, 0..=1.
    pub fn of(strategy: Strategy, old: &OldFile, improvement_min: f32) -> Self {
        // The best there is scores 1: what is nearly that good is replaced by what is no worse.
        let score_min = match (strategy, old.score) {
            (_, None) => 0.0,
            (Strategy::ReplaceWithCanonical, Some(score)) => (score + improvement_min).min(1.0),
            (Strategy::RedownloadTracks | Strategy::CompleteAlbum, Some(score)) => score,
        };
        Self { content: old.content, score_min, is_whole: old.score.is_some() }
    }
}

/// Whether a file is another recording than the copy, by its sound: it is not replaced by it, whatever it is called.
pub fn is_another(bar: &Bar, sound: Option<Likeness>) -> bool {
    bar.is_whole && sound == Some(Likeness::Different)
}

/// Judges a file that the job found to be right or poor, `sounds` being its likeness to each file of `bars`, where
/// both could be compared. Files that are [another](is_another) recording have no say, unless all are.
pub fn judge(verdict: Verdict, content: ContentHash, score: f32, bars: &[Bar], sounds: &[Option<Likeness>]) -> Verdict {
    let (proof, doubt) = match verdict {
        Verdict::Right(proof) => (proof, None),
        Verdict::Poor(proof, why) => (proof, Some(why)),
        Verdict::Wrong(why) => return Verdict::Wrong(why),
    };
    if bars.iter().any(|bar| bar.content == content) {
        return Verdict::Wrong("it is the very file that is to be replaced".to_owned());
    }
    let heeded: Vec<_> = bars.iter().zip(sounds).filter(|(bar, sound)| !is_another(bar, **sound)).collect();
    if heeded.is_empty() {
        return Verdict::Wrong("it does not sound like the file it would replace".to_owned());
    }
    let alike = heeded.iter().any(|(_, sound)| **sound == Some(Likeness::Same));
    let proof = match (proof, doubt) {
        (Proof::Sound, None) => Proof::Sound,
        _ if alike => Proof::Sound,
        (_, Some(why)) => return Verdict::Wrong(why),
        (Proof::Length, None) => {
            return Verdict::Wrong(
                "nothing but its length says that it is the recording, which is too little to replace a file"
                    .to_owned(),
            );
        }
        (proof, None) => proof,
    };
    let wanted = heeded.iter().map(|(bar, _)| bar.score_min).fold(0.0, f32::max);
    if score + EQUAL < wanted {
        return Verdict::Wrong(format!("it scores {score:.2}, at least {wanted:.2} is wanted"));
    }
    Verdict::Right(proof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::LocalPath;

    const OLD: ContentHash = ContentHash([1; 32]);
    const NEW: ContentHash = ContentHash([2; 32]);

    fn bar(strategy: Strategy, score: Option<f32>) -> Bar {
        Bar::of(strategy, &OldFile { path: LocalPath::from("/m/a.flac"), content: OLD, size: 1, score }, 0.1)
    }

    fn check(verdict: &Verdict, score: f32, bars: &[Bar], sound: Option<Likeness>, expect: Result<Proof, &str>) {
        let sounds = vec![sound; bars.len()];
        match (judge(verdict.clone(), NEW, score, bars, &sounds), expect) {
            (Verdict::Right(proof), Ok(expected)) => assert_eq!(proof, expected, "{verdict:?} {bars:?}"),
            (Verdict::Wrong(why), Err(word)) => assert!(why.contains(word), "{why} / {word}"),
            (got, expected) => panic!("{verdict:?} {score} {bars:?} {sound:?}: {got:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_copy_is_no_worse_than_what_it_replaces() {
        let right = || Verdict::Right(Proof::AcoustId);
        let again = |score| vec![bar(Strategy::RedownloadTracks, score)];
        check(&right(), 0.9, &again(Some(0.6)), None, Ok(Proof::AcoustId));
        check(&right(), 0.6, &again(Some(0.6)), None, Ok(Proof::AcoustId));
        check(&right(), 0.59, &again(Some(0.6)), None, Err("0.60 is wanted"));
        check(&right(), 0.1, &again(None), None, Ok(Proof::AcoustId));
        let better = |score| vec![bar(Strategy::ReplaceWithCanonical, Some(score))];
        check(&right(), 0.85, &better(0.8), None, Err("0.90 is wanted"));
        check(&right(), 0.9, &better(0.8), None, Ok(Proof::AcoustId));
        check(&right(), 1.0, &better(0.95), None, Ok(Proof::AcoustId));
        let both = [again(Some(0.6)), better(0.8)].concat();
        check(&right(), 0.85, &both, None, Err("0.90 is wanted"));
    }

    #[test]
    fn the_recording_is_proven() {
        let old = vec![bar(Strategy::RedownloadTracks, Some(0.5))];
        let damaged = vec![bar(Strategy::RedownloadTracks, None)];
        let poor = || Verdict::Poor(Proof::Length, "its tags name another recording".to_owned());
        for (verdict, bars, sound, expect) in [
            (Verdict::Right(Proof::Length), &old, None, Err("nothing but its length")),
            (Verdict::Right(Proof::Length), &old, Some(Likeness::Unsure), Err("nothing but its length")),
            (Verdict::Right(Proof::Length), &old, Some(Likeness::Same), Ok(Proof::Sound)),
            (Verdict::Right(Proof::Tags), &old, None, Ok(Proof::Tags)),
            (Verdict::Right(Proof::Tags), &old, Some(Likeness::Different), Err("does not sound like")),
            (Verdict::Right(Proof::AcoustId), &old, Some(Likeness::Different), Err("does not sound like")),
            (Verdict::Right(Proof::Tags), &damaged, Some(Likeness::Different), Ok(Proof::Tags)),
            (poor(), &old, None, Err("tags name another")),
            (poor(), &old, Some(Likeness::Same), Ok(Proof::Sound)),
            (Verdict::Wrong("w".to_owned()), &old, Some(Likeness::Same), Err("w")),
        ] {
            check(&verdict, 0.9, bars, sound, expect);
        }
    }

    #[test]
    fn a_file_of_another_sound_keeps_no_other_from_being_mended() {
        let bars = [bar(Strategy::RedownloadTracks, Some(0.5)), bar(Strategy::RedownloadTracks, Some(0.95))];
        let judged = |sounds: [Option<Likeness>; 2]| judge(Verdict::Right(Proof::Tags), NEW, 0.9, &bars, &sounds);
        let (same, other) = (Some(Likeness::Same), Some(Likeness::Different));
        assert_eq!(judged([same, other]), Verdict::Right(Proof::Sound), "the other one's score counts no more");
        assert_eq!(judged([None, other]), Verdict::Right(Proof::Tags));
        assert!(matches!(judged([other, other]), Verdict::Wrong(_)));
        assert!(matches!(judged([other, same]), Verdict::Wrong(why) if why.contains("0.95 is wanted")));
        assert!(is_another(&bars[0], other) && !is_another(&bars[0], same) && !is_another(&bars[0], None));
    }

    #[test]
    fn the_same_bytes_mend_nothing() {
        let old = [bar(Strategy::RedownloadTracks, None)];
        let again = judge(Verdict::Right(Proof::Sound), OLD, 1.0, &old, &[None]);
        assert!(matches!(again, Verdict::Wrong(why) if why.contains("very file")));
    }
}
