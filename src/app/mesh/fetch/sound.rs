//! Whether a finished file is the recording it was fetched as.
//!
//! That its bytes are those of its hash is proven by then; that they sound as they should is what somebody said. A worker
//! of the Doctor decodes the file, and its fingerprint is compared with those of the copies of the recording that were
//! measured here. What cannot be decoded, or sounds like something else, is not put among the finished files: whoever
//! told of it under this recording is not believed in that any more.

use super::{Stop, Work, partial_name};
use crate::app::doctor::Outcome;
use crate::engine::audio::fingerprint::{Likeness, Verdict, compare};
use crate::model::mesh::FetchState;
use crate::model::trace::TraceKind;
use crate::model::variant::Measured;

/// Words by which two fingerprints of one recording may lie apart: about 3 s of leading silence.
const OFFSET_MAX: usize = 24;

/// How the copies that are here compare with the new one.
#[derive(Clone, Copy, Debug, Default)]
struct Compared {
    /// Copies with a fingerprint.
    copies: usize,
    /// Of the likest.
    best: Option<Likeness>,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// Nothing speaks against it; how that is known.
    Right(String),
    /// It is not what was wanted.
    Wrong(String),
    /// It has to be looked at later.
    Later(String),
}

fn judge(outcome: &Outcome, compared: Compared) -> Found {
    match (outcome, compared) {
        (Outcome::Broken(why), _) => Found::Wrong(format!("it cannot be decoded: {why}")),
        (Outcome::Unsupported(why), _) => Found::Wrong(format!("it is no audio file that can be decoded: {why}")),
        // Its bytes are right, and the machine may have been short of something: not worth losing it.
        (Outcome::GaveUp(why), _) | (Outcome::NotTried(why), Compared { copies: 0, .. }) => {
            Found::Right(format!("what it is could not be looked at: {why}"))
        }
        (Outcome::NotTried(why), _) => Found::Later(why.clone()),
        (Outcome::Measured(_), Compared { best: Some(best), .. }) => {
            let differ =
                format!("{:.0} % of its fingerprint differ from that of the copy here", best.error_rate * 100.0);
            match best.verdict() {
                Verdict::Same => Found::Right(format!("it is the recording that was wanted: {differ}")),
                Verdict::Unsure => Found::Right(format!("it may be the recording that was wanted: {differ}")),
                Verdict::Different => Found::Wrong(format!("it is another recording: {differ}")),
            }
        }
        (Outcome::Measured(_), Compared { copies: 0, .. }) => {
            Found::Right("it can be decoded; no copy of the recording is here to compare it with".to_owned())
        }
        (Outcome::Measured(_), _) => Found::Right("it can be decoded; it is too short to be compared".to_owned()),
    }
}

impl Work {
    /// Looks at what was fetched, if it was fetched as a recording; what was measured, if it could be.
    pub(super) async fn check_sound(&self) -> Result<Option<Box<Measured>>, Stop> {
        let (Some(recording), Some(measure)) = (self.recording, self.running.measure.clone()) else { return Ok(None) };
        self.wait("what was fetched is being decoded and compared");
        let path = self.running.parts.pump.config().incomplete.join(partial_name(self.fetch.content));
        let (store, name, cancel) = (self.running.parts.store.clone(), self.fetch.name.clone(), self.cancel.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let file = measure.open(&path).map_err(|error| Stop::Later(error.to_string()))?;
            let stop = || cancel.is_cancelled();
            let outcome = measure.measure(file, &name, &stop).ok_or(Stop::Cancelled)?;
            let words = match &outcome {
                Outcome::Measured(measured) => measured.fingerprint.as_slice(),
                _ => &[],
            };
            let compared = store.read(|txn, tables| {
                let mut compared = Compared::default();
                for variant in tables.library.variants_of(txn, recording)? {
                    let print = tables.library.print(txn, variant.measured.content_hash)?;
                    compared.copies += usize::from(!print.is_empty());
                    if let Some(likeness) = compare(words, &print, OFFSET_MAX)
                        && compared.best.is_none_or(|best| likeness.error_rate < best.error_rate)
                    {
                        compared.best = Some(likeness);
                    }
                }
                Ok(compared)
            })?;
            let found = judge(&outcome, compared);
            let measured = match outcome {
                Outcome::Measured(measured) => Some(measured),
                _ => None,
            };
            Ok::<_, Stop>((found, measured))
        });
        let (found, measured) = looked.await.map_err(|error| Stop::Later(error.to_string()))??;
        match found {
            Found::Right(how) => {
                self.trace.record(TraceKind::Note(how));
                Ok(measured)
            }
            Found::Wrong(why) => Err(Stop::Wrong(why)),
            Found::Later(why) => Err(Stop::Later(why)),
        }
    }

    /// The file is not what was wanted: the fetch has failed, what came is removed, and nobody is believed any more who
    /// tells of it under this recording.
    pub(super) async fn give_up(&mut self, why: &str) -> Result<(), Stop> {
        let (parts, content) = (&self.running.parts, self.fetch.content);
        tracing::warn!(%content, why, "what was fetched is not what was wanted");
        let now = parts.clock.now().wall;
        if let Some(recording) = self.recording {
            let disproved = parts.store.write(move |txn, tables| {
                let library = tables.library;
                tables.gossip.disprove(txn, recording, content, now, &library)
            });
            disproved.await?;
        }
        parts.pump.discard(&partial_name(content)).await?;
        self.fetch.state = FetchState::Failed(why.to_owned());
        self.fetch.ended_at = Some(now);
        Ok(parts.store.put_fetch(self.fetch.clone()).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn like(error_rate: f32) -> Compared {
        Compared { copies: 2, best: Some(Likeness { error_rate, offset: 0, overlap: 900 }) }
    }

    #[test]
    fn what_cannot_be_decoded_or_sounds_otherwise_is_not_taken() {
        let why = || "because".to_owned();
        let measured = || Outcome::Measured(Box::new(crate::engine::library::fixtures::measured(b"1")));
        let none = Compared::default();
        let short = Compared { copies: 1, best: None };
        let is_wrong = |found: &Found, words: &str| matches!(found, Found::Wrong(why) if why.contains(words));
        for compared in [none, short, like(0.01)] {
            assert!(is_wrong(&judge(&Outcome::Broken(why()), compared), "cannot be decoded: because"));
            assert!(is_wrong(&judge(&Outcome::Unsupported(why()), compared), "no audio file"));
        }
        assert!(is_wrong(&judge(&measured(), like(0.45)), "another recording: 45 %"));
        for compared in [none, short, like(0.1), like(0.3)] {
            assert!(matches!(judge(&measured(), compared), Found::Right(_)), "{compared:?}");
        }
        // A machine without workers: what could be compared waits, what could not be is taken.
        assert!(matches!(judge(&Outcome::GaveUp(why()), like(0.1)), Found::Right(_)));
        assert_eq!(judge(&Outcome::NotTried(why()), like(0.1)), Found::Later(why()));
        assert!(matches!(judge(&Outcome::NotTried(why()), none), Found::Right(_)));
    }
}
