//! What no user has, from mesh peers: within the guardrails of rescue and the rules of fairness.

use super::{Lead, STAGING};
use crate::engine::jobs::plan::{self, Meshing, Standing};
use crate::engine::jobs::work::{Meshed, Work};
use crate::model::id::ContentHash;
use crate::model::job::Job;
use crate::model::mesh::{FetchState, FetchView, MeshAnswer, MeshRequest, RecordingRequest};
use crate::model::rescue::Guardrail;
use crate::model::view::Refusal;
use crate::store::StoreError;

impl Lead<'_> {
    /// Asks mesh peers for the recording of a track.
    pub(super) async fn ask_mesh(&mut self, at: usize, job: &mut Job, work: &mut Work) -> Result<(), StoreError> {
        let Some(track) = job.spec.tracks.get(at) else { return Ok(()) };
        let (title, asked) = (track.title.clone(), self.mesh_copy(track.recording.0, job).await);
        if let Meshing::Comes(content, _) = &asked {
            self.note(job, &format!("no user has {title}; mesh peers send {content}"));
        }
        plan::on_meshed(job, work, at, asked, self.now());
        self.save(job, work).await
    }

    async fn mesh_copy(&self, recording: u128, job: &Job) -> Meshing {
        match self.tools.rescue.allows_another() {
            Ok(()) => {}
            Err(Some(Guardrail::ConcurrentJobs)) => return Meshing::Busy(Guardrail::ConcurrentJobs.key().to_owned()),
            Err(rule) => {
                let rule = rule.map_or("mesh.fairness", Guardrail::key);
                return Meshing::Nothing(Some(format!("mesh peers are not asked: {rule}")));
            }
        }
        let folder = format!("{STAGING}/{}", job.id);
        let request = RecordingRequest { recording, mode: None, name: String::new(), folder };
        let content = match self.tools.mesh.answer(MeshRequest::StartRecording(request)).await {
            Ok(MeshAnswer::Chosen { content, .. }) => content,
            Ok(_) | Err(Refusal::NotFound) => return Meshing::Nothing(None),
            Err(Refusal::Invalid(why)) => return Meshing::Nothing(Some(why)),
            Err(Refusal::Full(why)) => return Meshing::Busy(why),
            Err(other) => return Meshing::Nothing(Some(format!("{other:?}"))),
        };
        let size = self.mesh_fetch(content).await.ok().flatten().map(|view| view.fetch.size);
        Meshing::Comes(content, size.unwrap_or_default())
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
    pub(super) async fn mesh_standing(&self, mesh: &Meshed) -> Option<Standing> {
        let Some(content) = mesh.content else { return Some(Standing::Unknown) };
        let view = self.mesh_fetch(content).await.ok()?;
        Some(match view.map(|view| (view.fetch.state, view.bytes)) {
            None => Standing::Unknown,
            Some((FetchState::Running, bytes)) => Standing::Live(bytes),
            Some((FetchState::Done(path), _)) => Standing::Finished(path),
            Some((FetchState::Failed(why), _)) => Standing::Ended(why),
        })
    }

    /// Ends a fetch, or takes one that is over off the list.
    pub(super) async fn leave_mesh(&self, content: ContentHash) {
        match self.tools.mesh.answer(MeshRequest::Forget(content)).await {
            Ok(_) | Err(Refusal::NotFound) => {}
            Err(why) => tracing::warn!(%content, ?why, "a fetch from the mesh could not be forgotten"),
        }
    }
}
