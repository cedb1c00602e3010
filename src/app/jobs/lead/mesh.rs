//! What no user has, from mesh peers: within the guardrails of rescue and the rules of fairness.

use std::time::Duration;

use super::{Lead, STAGING};
use crate::app::mesh::assist::RUN_LEN;
use crate::engine::jobs::plan::{self, Meshing, Standing};
use crate::engine::jobs::work::{Meshed, TrackWork, Work};
use crate::model::id::ContentHash;
use crate::model::job::{Job, JobId};
use crate::model::mesh::{FetchState, FetchView, MeshAnswer, MeshRequest, RecordingRequest};
use crate::model::rescue::Guardrail;
use crate::model::trace::TraceKind;
use crate::model::view::Refusal;
use crate::store::StoreError;

/// Between two looks at how much the mesh may still bring. What moved is counted once a second: in this time it surely was.
const RATION: Duration = Duration::from_secs(3);

/// Where the files of a job wait to be checked, below the downloads folder.
fn folder_of(job: &JobId) -> String {
    format!("{STAGING}/{job}")
}

/// Of kilobits per second.
fn bytes_per_second(kbps: u32) -> u64 {
    u64::from(kbps) * 1_000 / 8
}

impl Lead<'_> {
    /// Says what all jobs may still bring from the mesh today.
    pub(super) fn ration(&mut self) {
        let Some(quota) = self.tools.mesh.quota_of_jobs() else { return };
        let now = self.tools.doctor.ground().clock.now().mono;
        if self.ration_at.is_some_and(|at| now.saturating_sub(at) < RATION) {
            return;
        }
        self.ration_at = Some(now);
        let traffic = self.tools.rescue.traffic();
        let (_, daily) = traffic.rescue_left;
        // What was over the last time is in what moved by now.
        quota.set(daily.saturating_sub(traffic.windows[0].overlay_down), self.rationed);
        self.rationed = quota.over();
    }

    /// Asks mesh peers for the recording of a track.
    pub(super) async fn ask_mesh(&mut self, at: usize, job: &mut Job, work: &mut Work) -> Result<(), StoreError> {
        let Some(track) = job.spec.tracks.get(at) else { return Ok(()) };
        let but = work.tracks.get(at).map(|track| track.mesh_wrong.clone()).unwrap_or_default();
        let (title, asked) = (track.title.clone(), self.mesh_copy(at, but, job).await);
        if let Meshing::Comes(content, _) = &asked {
            self.note(job, &format!("no user has {title}; mesh peers send {content}"));
        }
        plan::on_meshed(job, work, at, asked, self.now());
        self.save(job, work).await
    }

    /// A guardrail holds a job back: counted each time, and told once for each job, as with rescues.
    fn hit(&mut self, job: &Job, rail: Guardrail, what: &str) {
        self.tools.rescue.count_hit(rail);
        let trace = self.trace(job);
        let hits = self.hits.entry(job.id.clone()).or_default();
        if hits.told.insert(rail) {
            tracing::info!(job = %job.id, guardrail = rail.key(), what, "a guardrail of rescue holds a job back");
            trace.record(TraceKind::GuardrailHit(rail, what.to_owned()));
        }
    }

    async fn mesh_copy(&mut self, at: usize, but: Vec<ContentHash>, job: &Job) -> Meshing {
        let Some(track) = job.spec.tracks.get(at) else { return Meshing::Nothing(None) };
        let slow = job.spec.constraints.overlay_bandwidth_kbps;
        if slow == Some(0) {
            return Meshing::Nothing(Some("mesh peers are not asked: overlay_bandwidth_kbps is 0".to_owned()));
        }
        let recording = track.recording.0;
        let spent = self.tools.mesh.quota_of_jobs().is_some_and(|quota| quota.left() < RUN_LEN);
        match self.tools.rescue.allows_another() {
            Ok(()) if spent => return self.not_asked(job, Guardrail::DailyCap, &track.title),
            Ok(()) => {}
            Err(Some(Guardrail::ConcurrentJobs)) => {
                let rail = Guardrail::ConcurrentJobs;
                self.hit(job, rail, &format!("mesh peers are not asked for {} yet", track.title));
                return Meshing::Busy(rail.key().to_owned());
            }
            Err(Some(rail)) => return self.not_asked(job, rail, &track.title),
            Err(None) => return Meshing::Nothing(Some("mesh peers are not asked: mesh.fairness".to_owned())),
        }
        let folder = folder_of(&job.id);
        self.tools.mesh.slow_down(&folder, slow.map(bytes_per_second));
        let request = RecordingRequest { recording, mode: None, name: String::new(), folder, even_if_here: true, but };
        let content = match self.tools.mesh.answer(MeshRequest::StartRecording(request)).await {
            Ok(MeshAnswer::Chosen { content, .. }) => content,
            Ok(_) | Err(Refusal::NotFound) => return Meshing::Nothing(None),
            Err(Refusal::Invalid(why)) => return Meshing::Nothing(Some(why)),
            Err(Refusal::Full(why)) => return Meshing::Busy(why),
            Err(Refusal::Duplicate) => return Meshing::Busy("another fetch brings the same file".to_owned()),
            Err(other) => return Meshing::Nothing(Some(format!("{other:?}"))),
        };
        let size = self.mesh_fetch(content).await.ok().flatten().map(|view| view.fetch.size);
        Meshing::Comes(content, size.unwrap_or_default())
    }

    fn not_asked(&mut self, job: &Job, rail: Guardrail, title: &str) -> Meshing {
        self.hit(job, rail, &format!("mesh peers are not asked for {title}"));
        Meshing::Nothing(Some(format!("mesh peers are not asked: {}", rail.key())))
    }

    /// `Ok(None)`: nobody knows of it.
    async fn mesh_fetch(&self, content: ContentHash) -> Result<Option<FetchView>, Refusal> {
        match self.tools.mesh.answer(MeshRequest::Fetch(content)).await {
            Ok(MeshAnswer::Fetches(views)) => Ok(views.into_iter().next()),
            Ok(_) | Err(Refusal::NotFound) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// `None`: the mesh cannot be asked now.
    pub(super) async fn mesh_standing(&mut self, mesh: &Meshed, job: &Job) -> Option<Standing> {
        let folder = folder_of(&job.id);
        // One that goes on after a restart waits for this.
        self.tools.mesh.slow_down(&folder, job.spec.constraints.overlay_bandwidth_kbps.map(bytes_per_second));
        let Some(content) = mesh.content else { return Some(Standing::Unknown) };
        let view = self.mesh_fetch(content).await.ok()?;
        let spent = self.tools.mesh.quota_of_jobs().is_some_and(|quota| quota.left() < RUN_LEN);
        let runs = view.as_ref().is_some_and(|view| view.fetch.state == FetchState::Running);
        if runs {
            let held = self.hits.entry(job.id.clone()).or_default();
            if spent && !std::mem::replace(&mut held.spent, spent) {
                let what = "nothing more comes from the mesh until bytes of the last 24 hours are older";
                self.hit(job, Guardrail::DailyCap, what);
            } else if !spent {
                held.spent = false;
            }
        }
        // Only its place is missing.
        let whole = view.as_ref().is_some_and(|view| view.away || view.bytes == view.fetch.size);
        Some(match view.map(|view| (view.fetch.state, view.bytes)) {
            None => Standing::Unknown,
            Some((FetchState::Running, bytes)) if whole => Standing::Held(bytes),
            Some((FetchState::Running, bytes)) if self.tools.mesh.holds(&folder) => Standing::Held(bytes),
            Some((FetchState::Running, bytes)) => Standing::Live(bytes),
            Some((FetchState::Done(path), _)) => Standing::Finished(path),
            Some((FetchState::Failed(why), _)) => Standing::Ended(why),
        })
    }

    /// A fetch that was begun before a kill for a track of this job, and not written down.
    pub(super) async fn find_meshed(&self, job: &mut Job, work: &mut Work) {
        let lost = |(at, track): (usize, &TrackWork)| {
            let is_lost = track.mesh.as_ref().is_some_and(|mesh| mesh.content.is_none());
            is_lost.then(|| Some((at, job.spec.tracks.get(at)?.recording.0))).flatten()
        };
        let lost: Vec<(usize, u128)> = work.tracks.iter().enumerate().filter_map(lost).collect();
        if lost.is_empty() {
            return;
        }
        let folder = folder_of(&job.id);
        let Ok(begun) = self.tools.mesh.into_folders(|of| of == folder).await else { return };
        for (at, recording) in lost {
            if let Some((fetch, _)) = begun.iter().find(|(_, of)| *of == Some(recording)) {
                plan::on_meshed(job, work, at, Meshing::Comes(fetch.content, fetch.size), self.now());
            }
        }
    }

    /// Ends fetches of jobs that are over or gone: a kill came between.
    pub(super) async fn end_meshed(&self) {
        let is_ours = |folder: &str| {
            let id = folder.strip_prefix(STAGING).and_then(|rest| rest.strip_prefix('/'));
            id.is_some_and(|id| !self.live.keys().any(|live| live.as_str() == id))
        };
        for (fetch, _) in self.tools.mesh.into_folders(is_ours).await.unwrap_or_default() {
            self.leave_mesh(fetch.content).await;
        }
    }

    /// Ends a fetch, and removes what came of it.
    pub(super) async fn leave_mesh(&self, content: ContentHash) {
        if let Some(finished) = self.tools.mesh.leave(content).await {
            self.discard(finished).await;
        }
    }
}
