//! Small releases for tests.

use crate::model::id::{RecordingId, ReleaseId};
use crate::model::job::{Child, Constraints, Job, JobId, JobState, JobTrack, MbRelease};
use crate::model::time::UnixMs;

pub(crate) fn track(medium: u32, position: u32, title: &str, artist: &str, seconds: u64) -> JobTrack {
    JobTrack {
        medium,
        position,
        title: title.to_owned(),
        artist: artist.to_owned(),
        recording: RecordingId(u128::from(medium) << 32 | u128::from(position)),
        duration_ms: (seconds > 0).then_some(seconds * 1_000),
    }
}

pub(crate) fn spec(artist: &str, title: &str, tracks: &[JobTrack]) -> MbRelease {
    MbRelease {
        release: ReleaseId(1),
        title: title.to_owned(),
        artist: artist.to_owned(),
        target_dir: format!("{artist}/{title}"),
        tracks: tracks.to_vec(),
        constraints: Constraints::default(),
    }
}

pub(crate) fn job(spec: MbRelease) -> Job {
    Job {
        id: JobId::from_random(1),
        origin: None,
        created_at: UnixMs(1_000),
        updated_at: UnixMs(1_000),
        started_at: None,
        completed_at: None,
        state: JobState::Pending,
        error: None,
        children: vec![Child::new(); spec.tracks.len()],
        spec,
    }
}
