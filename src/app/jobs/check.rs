//! Finds out what a finished file is: measured by a worker, compared with copies known here, and AcoustID asked.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::catalog::fingerprint_text;
use crate::app::doctor::{Ground, Outcome};
use crate::app::repair::Mender;
use crate::engine::audio::fingerprint::{self, Verdict as Likeness};
use crate::engine::jobs::deed::Deed;
use crate::engine::jobs::judge::{Found, Heard, LIKELY, Verdict, judge};
use crate::model::health::MatchedBy;
use crate::model::id::{ContentHash, RecordingId};
use crate::model::job::{Constraints, JobId, JobTrack};
use crate::model::repair::NewFile;
use crate::model::variant::Measured;
use crate::model::verdict;
use crate::net::catalog::Catalog;
use crate::store::StoreError;

/// Words by which two fingerprints of one recording may lie apart: about 3 s of leading silence.
const OFFSET_MAX: usize = 24;
/// Merged ids of one answer that are followed.
const MERGED: usize = 3;

/// Looks at a file that cannot be opened, or that a worker gives up. Most often it is the machine's fault; with one look more
/// it counts as the file's, or a job would wait for it for ever.
const LOOKS: u32 = 4;

/// What came of measuring a file.
#[derive(Debug, PartialEq)]
pub(super) enum Checked {
    /// It was judged, how good it is, 0 to 1, and what it says of the user it came from.
    Judged(Verdict, f32, Option<Deed>),
    /// It could not be measured now, and why.
    Later(String),
    /// The same, and it may be the file's fault.
    Unsure(String),
}

/// Looks at a file until it is sure what it is, [`LOOKS`] times at most and with this pause between two of them: then it is
/// wrong.
pub(super) async fn patiently<F: Future<Output = Checked>>(
    pause: Duration,
    cancel: &CancellationToken,
    mut look: impl FnMut() -> F,
) -> Checked {
    let mut looks = 1;
    loop {
        let why = match look().await {
            Checked::Unsure(why) => why,
            checked @ (Checked::Judged(..) | Checked::Later(_)) => return checked,
        };
        if looks >= LOOKS {
            // Whose fault it is, nobody knows.
            return Checked::Judged(Verdict::Wrong(why), 0.0, None);
        }
        looks += 1;
        tokio::select! {
            () = cancel.cancelled() => return Checked::Later(why),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Measures a file and judges it.
pub(super) async fn check(
    ground: Ground,
    catalog: Catalog,
    path: String,
    track: JobTrack,
    constraints: Constraints,
    mends: Option<(Mender, JobId, usize)>,
    cancel: CancellationToken,
) -> Checked {
    let measure = ground.measure.clone();
    let work = move || {
        let path = Path::new(&path);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let file = measure.open(path).map_err(|error| error.to_string())?;
        Ok::<_, String>(measure.measure(file, &name, &|| cancel.is_cancelled()))
    };
    let outcome = match tokio::task::spawn_blocking(work).await {
        Ok(Ok(Some(outcome))) => outcome,
        Ok(Ok(None)) => return Checked::Later("the program ends".to_owned()),
        Ok(Err(why)) => return Checked::Unsure(format!("it cannot be read: {why}")),
        Err(error) => return Checked::Later(error.to_string()),
    };
    let measured = match outcome {
        Outcome::Measured(measured) => measured,
        Outcome::Broken(why) => return Checked::Judged(Verdict::Wrong(why), 0.0, Some(Deed::Untrue)),
        Outcome::Unsupported(why) => return Checked::Judged(Verdict::Wrong(why), 0.0, None),
        Outcome::GaveUp(why) => return Checked::Unsure(why),
        Outcome::NotTried(why) => return Checked::Later(why),
    };
    let judged = ground.judge.judge(&measured);
    let found = Found {
        same_sound: known_here(&ground, track.recording, &measured),
        heard: heard(&catalog, &measured, track.recording).await,
        tagged: measured.tags.recording_id.map(RecordingId),
        duration_ms: measured.duration_ms,
        codec: measured.codec,
        is_transcode: judged.judgement.verdict == verdict::Verdict::Transcode,
        is_whole: measured.integrity.is_whole(),
        score: judged.quality_score,
    };
    let ((verdict, deed), score) = (judge(&track, &found, &constraints), judged.quality_score);
    let Some((mender, job, at)) = mends else { return Checked::Judged(verdict, score, deed) };
    let for_repair = move || {
        let Some(bench) = mender.bench(&job, at)? else { return Ok(verdict) };
        let (verdict, others) = bench.judge(verdict, &measured, score);
        if let Verdict::Right(proof) = verdict {
            let (content, size) = (measured.content_hash, measured.file_size_bytes);
            mender.found(&job, at, &NewFile { content, size, score, proof }, &others)?;
        }
        Ok::<_, StoreError>(verdict)
    };
    match tokio::task::spawn_blocking(for_repair).await {
        Ok(Ok(verdict)) => Checked::Judged(verdict, score, deed),
        Ok(Err(error)) => Checked::Later(format!("the store cannot be used: {error}")),
        Err(error) => Checked::Later(error.to_string()),
    }
}

/// Compares with copies of the recording whose identity a catalog confirmed: tags alone would let one wrong file keep
/// out all right ones.
fn known_here(ground: &Ground, recording: RecordingId, measured: &Measured) -> Option<bool> {
    if measured.fingerprint.is_empty() {
        return None;
    }
    let known = ground.store.read(|txn, tables| tables.library.variants_of(txn, recording.0));
    let known = known.inspect_err(|error| tracing::warn!(%error, "known copies cannot be read")).ok()?;
    let mut differs = false;
    let own: ContentHash = measured.content_hash;
    for copy in known.iter().filter(|copy| copy.hash() != own && copy.identity.matched_by == MatchedBy::Catalog) {
        let likeness = fingerprint::compare(&measured.fingerprint, &copy.measured.fingerprint, OFFSET_MAX);
        match likeness.map(|likeness| likeness.verdict()) {
            Some(Likeness::Same) => return Some(true),
            Some(Likeness::Different) => differs = true,
            Some(Likeness::Unsure) | None => {}
        }
    }
    differs.then_some(false)
}

/// What `AcoustID` knows of the sound; `None`: it could not be asked.
async fn heard(catalog: &Catalog, measured: &Measured, wanted: RecordingId) -> Option<Vec<Heard>> {
    if measured.fingerprint.is_empty() {
        return None;
    }
    let seconds = u32::try_from(measured.duration_ms.saturating_add(500) / 1_000).unwrap_or(u32::MAX);
    let results = catalog.lookup(&fingerprint_text(&measured.fingerprint), seconds).await.ok()?;
    let mut heard = Vec::with_capacity(results.len());
    let mut merged = 0;
    for result in results {
        let mut recordings: Vec<RecordingId> = result.recordings.iter().map(|recording| recording.id).collect();
        if result.score >= LIKELY && !recordings.contains(&wanted) {
            // AcoustID may know it under an id that was merged since.
            for id in recordings.iter_mut().take(MERGED) {
                if merged < MERGED {
                    merged += 1;
                    if let Ok(Some(now)) = catalog.recording(*id).await {
                        *id = now.id;
                    }
                }
            }
        }
        heard.push(Heard { score: result.score, recordings });
    }
    Some(heard)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it is looked at a file that is unsure so many times, and what it is then.
    async fn looks(unsure: u32, then: impl Fn() -> Checked) -> (u32, Checked) {
        let mut looks = 0;
        let look = || {
            looks += 1;
            let checked = if looks <= unsure { Checked::Unsure("no descriptors".to_owned()) } else { then() };
            async move { checked }
        };
        let checked = patiently(Duration::from_secs(30), &CancellationToken::new(), look).await;
        (looks, checked)
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_the_machines_fault_is_looked_at_again_and_not_for_ever() {
        let wrong = |why: &str| Checked::Judged(Verdict::Wrong(why.to_owned()), 0.0, None);
        let later = || Checked::Later("no memory".to_owned());
        assert_eq!(looks(0, || wrong("it is noise")).await, (1, wrong("it is noise")));
        assert_eq!(looks(2, || wrong("it is noise")).await, (3, wrong("it is noise")));
        assert_eq!(looks(1, later).await, (2, later()), "another time, without a count");
        assert_eq!(looks(99, later).await, (LOOKS, wrong("no descriptors")));
        // The end of the program is not the file's fault.
        let cancel = CancellationToken::new();
        cancel.cancel();
        let unsure = || Checked::Unsure("no descriptors".to_owned());
        let checked = patiently(Duration::from_secs(30), &cancel, || async { unsure() }).await;
        assert_eq!(checked, Checked::Later("no descriptors".to_owned()));
    }
}
