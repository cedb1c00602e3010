//! Which recording a file is: the sources of an answer, in order.
//!
//! | State | Event | Next |
//! |---|---|---|
//! | tags name a recording | MusicBrainz knows it | done |
//! | | MusicBrainz does not | look locally |
//! | look locally | a copy that sounds the same is known (C27) | confirm it with MusicBrainz, done |
//! | | none | ask AcoustID, if there is a fingerprint and a key |
//! | ask AcoustID | one that is sure enough | confirm it with MusicBrainz, done |
//! | | none, several equally good, none near in length | done, unresolved |
//! | any question | the service cannot be asked now | done with what is known; to be asked again |
//!
//! The machine asks through [`Resolution::next`] and is told through the doors; it never waits.

use super::matching::{near, same_text};
use crate::model::catalog::{AcoustIdRecording, AcoustIdResult, Recording};
use crate::model::id::{AcoustId, RecordingId};

/// The least score of AcoustID that counts (SPEC-FACTS 1).
pub const SCORE_MIN: f64 = 0.85;
/// A score below this is told as unsure.
pub const SCORE_SURE: f64 = 0.9;
/// How far the file's length may be from the recording's, milliseconds (SPEC-FACTS 1).
pub const LENGTH_TOLERANCE_MS: u64 = 7_000;
/// The largest share of differing bits between fingerprints of the same recording (SPEC-FACTS 1).
pub const SAME_SOUND: f32 = 0.15;

/// What is known of the file before anybody is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// The recording its tags name.
    pub tagged: Option<RecordingId>,
    /// By tag.
    pub title: Option<String>,
    /// By tag.
    pub artist: Option<String>,
    /// Milliseconds, measured.
    pub duration_ms: u64,
    /// It has a fingerprint.
    pub has_fingerprint: bool,
}

/// Where an identity comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Proof {
    /// Its tags say so.
    Tags,
    /// It sounds like a copy that is identified; share of differing bits.
    Sound(f32),
    /// AcoustID says so.
    AcoustId {
        /// The cluster.
        id: AcoustId,
        /// 0.85 to 1.0.
        score: f64,
    },
}

/// Why there is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// Nothing to go by: no id in the tags, no known copy, and no way to look the sound up.
    NothingToGoBy,
    /// AcoustID knows nothing that is sure enough.
    NotSure,
    /// It knows the sound, but the lengths differ too much.
    LengthDiffers,
    /// Several recordings are equally likely.
    Several,
}

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The recording and the proof, or why there is none.
    pub recording: Result<(RecordingId, Proof), Unresolved>,
    /// What MusicBrainz says about it.
    pub details: Option<Recording>,
    /// The file is longer or shorter than MusicBrainz says, by more than 7 s.
    pub length_differs: bool,
    /// Some service could not be asked: worth another try later.
    pub is_unfinished: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Compare the fingerprint with those known here; answer with [`Resolution::on_local`].
    LookLocally,
    /// Look the sound up; answer with [`Resolution::on_sounds`].
    AskAcoustId,
    /// Ask for this recording; answer with [`Resolution::on_recording`].
    AskMusicBrainz(RecordingId),
    /// That is all.
    Done(Box<Identity>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Confirming(RecordingId, Proof),
    Locally,
    Sounds,
    Done(Result<(RecordingId, Proof), Unresolved>),
}

/// The way to one file's identity.
#[derive(Clone, Debug)]
pub struct Resolution {
    known: Known,
    state: State,
    details: Option<Recording>,
    is_unfinished: bool,
}

impl Resolution {
    /// At the beginning.
    pub fn new(known: Known) -> Self {
        let state = match known.tagged {
            Some(id) => State::Confirming(id, Proof::Tags),
            None => State::Locally,
        };
        Self { known, state, details: None, is_unfinished: false }
    }

    /// What to do next.
    pub fn next(&self) -> Next {
        match self.state {
            State::Confirming(id, _) => Next::AskMusicBrainz(id),
            State::Locally => Next::LookLocally,
            State::Sounds => Next::AskAcoustId,
            State::Done(recording) => {
                let length = self.details.as_ref().and_then(|details| details.duration_ms);
                Next::Done(Box::new(Identity {
                    recording,
                    details: self.details.clone(),
                    length_differs: !near(Some(self.known.duration_ms), length, LENGTH_TOLERANCE_MS),
                    is_unfinished: self.is_unfinished,
                }))
            }
        }
    }

    /// The best copy known here: its recording and the share of differing bits.
    pub fn on_local(&mut self, best: Option<(RecordingId, f32)>) {
        if self.state != State::Locally {
            return;
        }
        self.state = match best {
            Some((id, share)) if share <= SAME_SOUND => State::Confirming(id, Proof::Sound(share)),
            _ if self.known.has_fingerprint => State::Sounds,
            _ => State::Done(Err(Unresolved::NothingToGoBy)),
        };
    }

    /// What AcoustID found, best first.
    pub fn on_sounds(&mut self, results: &[AcoustIdResult]) {
        if self.state == State::Sounds {
            self.state = match choose(&self.known, results) {
                Ok((id, proof)) => State::Confirming(id, proof),
                Err(why) => State::Done(Err(why)),
            };
        }
    }

    /// What MusicBrainz says about the recording; `None`: it has no such one.
    pub fn on_recording(&mut self, found: Option<Recording>) {
        let State::Confirming(_, proof) = self.state else { return };
        self.state = match (found, proof) {
            // After a merge the id that stands.
            (Some(found), _) => {
                let id = found.id;
                self.details = Some(found);
                State::Done(Ok((id, proof)))
            }
            (None, Proof::Tags) => State::Locally,
            (None, Proof::Sound(_)) if self.known.has_fingerprint => State::Sounds,
            (None, _) => State::Done(Err(Unresolved::NotSure)),
        };
    }

    /// The service that was to be asked cannot be asked now: what is known already stands, the rest waits.
    pub fn on_later(&mut self) {
        self.is_unfinished = true;
        self.state = match self.state {
            State::Confirming(id, proof) => State::Done(Ok((id, proof))),
            State::Locally | State::Sounds => State::Done(Err(Unresolved::NothingToGoBy)),
            done @ State::Done(_) => done,
        };
    }

    /// AcoustID is not to be asked at all (no key): that is final, not a matter of time.
    pub fn on_no_lookup(&mut self) {
        if self.state == State::Sounds {
            self.state = State::Done(Err(Unresolved::NothingToGoBy));
        }
    }
}

/// The best of what AcoustID found: the best score, at least 0.85; among its recordings those within ±7 s; among those
/// the one the tags name in words, else the one with most submissions, else the only one.
///
/// # Errors
/// Why none was chosen.
pub fn choose(known: &Known, results: &[AcoustIdResult]) -> Result<(RecordingId, Proof), Unresolved> {
    let sure = results.iter().filter(|result| result.score >= SCORE_MIN && !result.recordings.is_empty());
    let best = sure.clone().map(|result| result.score).fold(0.0, f64::max);
    if best < SCORE_MIN {
        return Err(Unresolved::NotSure);
    }
    let near_enough = |recording: &&AcoustIdRecording| {
        recording.duration_ms.is_some() && near(recording.duration_ms, Some(known.duration_ms), LENGTH_TOLERANCE_MS)
    };
    let equal = sure.filter(|result| result.score >= best);
    let mut candidates: Vec<(&AcoustIdResult, &AcoustIdRecording)> = equal
        .flat_map(|result| result.recordings.iter().filter(near_enough).map(move |found| (result, found)))
        .collect();
    if candidates.is_empty() {
        return Err(Unresolved::LengthDiffers);
    }
    let named = |(_, found): &(&AcoustIdResult, &AcoustIdRecording)| {
        let same = |tag: &Option<String>, said: &str| tag.as_deref().is_some_and(|tag| same_text(tag, said));
        same(&known.title, found.title.as_deref().unwrap_or_default()) && same(&known.artist, &found.artist)
    };
    if candidates.iter().any(named) {
        candidates.retain(named);
    }
    candidates.sort_by(|(_, a), (_, b)| b.sources.cmp(&a.sources).then(a.id.cmp(&b.id)));
    candidates.dedup_by_key(|(_, found)| found.id);
    match candidates[..] {
        [(_, first), (_, second), ..] if first.sources == second.sources => Err(Unresolved::Several),
        [(result, found), ..] => Ok((found.id, Proof::AcoustId { id: result.id, score: result.score })),
        [] => Err(Unresolved::LengthDiffers),
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
