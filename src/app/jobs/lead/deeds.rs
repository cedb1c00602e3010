//! Does what was decided: searches, asks for files, has finished ones measured and moved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{AGAIN, Done, Lead, SEARCH_MS, STAGING};
use crate::app::jobs::check::{Checked, check, patiently};
use crate::app::jobs::tag::{self, Tagged, Tagging};
use crate::app::jobs::{Tools, place, random};
use crate::app::repair::{Kept, Placed};
use crate::app::tags;
use crate::engine::jobs::deed;
use crate::engine::jobs::offer;
use crate::engine::jobs::place::file_name;
use crate::engine::jobs::plan::{self, Order};
use crate::engine::jobs::work::{Offer, Work};
use crate::engine::soulseek::io::{Command, EnqueueRequest, Reply};
use crate::model::gossip::{Badge, Offered};
use crate::model::health::{HealthAnswer, HealthRequest};
use crate::model::id::{SearchId, TransferId, Username};
use crate::model::job::{Job, JobId, Proof};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::swarm::Source;
use crate::model::trace::TraceKind;
use crate::model::transfer::Direction;
use crate::model::view::{FileView, Refusal, ResponseView, SearchRequest};
use crate::store::StoreError;

impl Lead<'_> {
    pub(super) async fn perform(&mut self, order: Order, job: &mut Job, work: &mut Work) -> Result<(), StoreError> {
        match order {
            Order::Search(text) => {
                let begun = self.search(text.clone()).await;
                if begun.is_ok() {
                    self.note(job, &format!("searches for {text}"));
                }
                plan::on_search(work, begun, self.now());
                self.save(job, work).await
            }
            Order::Collect(id) => {
                let offers = self.collect(id, job).await?;
                let Some(offers) = offers else { return Ok(()) };
                self.note(job, &format!("{} album folders have some of it", offers.len()));
                plan::on_results(work, offers);
                self.save(job, work).await?;
                let _ = self.tools.node.command(Command::SearchForget(id)).await;
                Ok(())
            }
            Order::Fetch(user, files) => self.fetch(user, files, job, work).await,
            Order::AskMesh(track) => self.ask_mesh(track, job, work).await,
            Order::LeaveMesh(content) => {
                self.leave_mesh(content).await;
                Ok(())
            }
            Order::EndMesh(content) => {
                self.tools.mesh.leave(content).await;
                Ok(())
            }
            Order::CallOff(id) => {
                self.call_off(id, true).await;
                Ok(())
            }
            Order::Check(track, path) => {
                let may_be_lossy = plan::may_be_lossy(job, work, track);
                self.check(job, track, path, may_be_lossy);
                Ok(())
            }
            Order::Place(track, path) => {
                let proof = work.tracks.get(track).and_then(|track| track.proven);
                self.place(job, track, path, proof);
                Ok(())
            }
            Order::Discard(path) => {
                self.discard(path).await;
                Ok(())
            }
        }
    }

    async fn search(&self, text: String) -> Result<SearchId, String> {
        let id = SearchId::from_random(random()?);
        let request = SearchRequest {
            id,
            text,
            user: None,
            timeout_ms: SEARCH_MS,
            response_limit: 200,
            file_limit: u32::try_from(limits::SEARCH_ROWS).unwrap_or(u32::MAX),
            filter_responses: false,
            minimum_files: 0,
            maximum_queue: u32::MAX,
            minimum_speed: 0,
        };
        match self.tools.node.command(Command::Search(request)).await {
            Some(Reply::Refused(refusal)) => Err(match refusal {
                Refusal::NotConnected => "not logged in to the Soulseek server".to_owned(),
                Refusal::Full(why) | Refusal::Invalid(why) => why,
                other => format!("{other:?}"),
            }),
            Some(_) => Ok(id),
            None => Err("the engine is being started".to_owned()),
        }
    }

    /// What a search found, as offers. `None`: the engine cannot be asked now.
    async fn collect(&self, id: SearchId, job: &Job) -> Result<Option<Vec<Offer>>, StoreError> {
        let Some(found) = self.tools.node.look(move |node, _| node.search(id)).await else { return Ok(None) };
        let responses = found.map(|(_, responses)| responses).unwrap_or_default();
        let tools = self.tools.clone();
        let spec = job.spec.clone();
        let (now, trust) = (self.now(), self.settings.reputation);
        let look = tokio::task::spawn_blocking(move || {
            let mut offers = Vec::new();
            for response in &responses {
                let badges = badges(&tools, response);
                let source = Source::Soulseek(response.user.clone());
                let (_, known) = tools.store.source(&source)?;
                let reputation = deed::milli(known, now, &trust);
                offer::merge(&mut offers, offer::offers_of(&spec, response, &badges, reputation));
            }
            Ok(Some(offers))
        });
        look.await.map_err(|_| StoreError::Closed)?
    }

    async fn fetch(
        &mut self,
        user: Username,
        files: Vec<(usize, WireText, u64)>,
        job: &mut Job,
        work: &mut Work,
    ) -> Result<(), StoreError> {
        self.note(job, &format!("asks {user} for {} files", files.len()));
        let request = EnqueueRequest {
            user: user.clone(),
            files: files.iter().map(|(_, path, size)| (path.clone(), *size)).collect(),
            batch: None,
            search: None,
            destination: Some(format!("{STAGING}/{}", job.id)),
            external: None,
        };
        let reply = self.tools.node.command(Command::Enqueue(request)).await;
        let (accepted, failed) = match reply {
            Some(Reply::Enqueued { accepted, failed, .. }) => (accepted, failed),
            Some(Reply::Refused(refusal)) => {
                let why = format!("{refusal:?}");
                (Vec::new(), files.iter().map(|(_, path, _)| (path.clone(), why.clone())).collect())
            }
            // It is looked for at the next round.
            _ => return Ok(()),
        };
        let mut known = Vec::new();
        let mut accepted = accepted.into_iter();
        for (track, path, _) in files {
            let refused = failed.iter().find(|(failed, _)| *failed == path);
            let outcome = match refused {
                Some((_, why)) => Err(format!("{user}: {why}")),
                None => accepted.next().ok_or_else(|| "it was not recorded".to_owned()),
            };
            if let (Ok(id), Some(wanted)) = (&outcome, job.spec.tracks.get(track)) {
                known.push((*id, wanted.recording.0));
            }
            plan::on_enqueued(job, work, track, outcome);
        }
        // Should one hang, mesh peers can be asked for the recording.
        let told = self.tools.store.write(move |txn, tables| {
            known.iter().try_for_each(|(id, recording)| tables.rescue.put_recording(txn, *id, *recording))
        });
        told.await?;
        self.save(job, work).await
    }

    pub(super) async fn call_off(&self, id: TransferId, forget: bool) {
        let _ = self.tools.node.command(Command::Cancel { direction: Direction::Download, id, remove: forget }).await;
    }

    /// Removes a finished file that is of no use: one of ours, in the place where files wait to be checked.
    pub(super) async fn discard(&self, path: String) {
        let staging = self.settings.folders.downloads.join(STAGING);
        if !Path::new(&path).starts_with(&staging) {
            return;
        }
        // What was begun beside it goes too.
        let _ = tags::forget(Path::new(&path));
        if let Err(error) = tokio::fs::remove_file(&path).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path, %error, "a file of no use could not be removed");
        }
    }

    fn check(&mut self, job: &Job, track: usize, path: String, may_be_lossy: bool) {
        let Some(wanted) = job.spec.tracks.get(track).cloned() else { return };
        let (ground, catalog) = (self.tools.doctor.ground().clone(), self.tools.catalog.clone());
        let mut constraints = job.spec.constraints.clone();
        constraints.allow_lossy &= may_be_lossy;
        let (cancel, permits) = (self.cancel.clone(), self.permits.clone());
        self.busy.entry(job.id.clone()).or_default().insert(track);
        let id = job.id.clone();
        let mends = Some((self.tools.mender.clone(), id.clone(), track));
        let downloads = self.settings.folders.downloads.clone();
        self.checks.spawn(async move {
            let looks = cancel.clone();
            let look = move || {
                let (ground, catalog, cancel, permits) =
                    (ground.clone(), catalog.clone(), looks.clone(), permits.clone());
                let (path, wanted, constraints) = (path.clone(), wanted.clone(), constraints.clone());
                let (mends, downloads) = (mends.clone(), downloads.clone());
                async move {
                    if let Err(why) = is_there(&downloads) {
                        return Checked::Later(why);
                    }
                    // Others may have the place between two looks.
                    let _permit = tokio::select! {
                        permit = permits.acquire_owned() => permit,
                        () = cancel.cancelled() => return Checked::Later("the program ends".to_owned()),
                    };
                    check(ground, catalog, path, wanted, constraints, mends, cancel.clone()).await
                }
            };
            let checked = patiently(AGAIN, &cancel, look).await;
            if matches!(checked, Checked::Later(_)) {
                rest(&cancel, AGAIN).await;
            }
            (id, track, Done::Checked(checked))
        });
    }

    fn place(&mut self, job: &Job, track: usize, path: String, proof: Option<Proof>) {
        let (Some(wanted), Some(child)) = (job.spec.tracks.get(track), job.children.get(track)) else { return };
        let extension = Path::new(&path).extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let (name, size) = (file_name(&job.spec, wanted, &extension), child.size.unwrap_or_default());
        let tagging = self.settings.write_tags.then(|| Tagging {
            ground: self.tools.doctor.ground().clone(),
            catalog: self.tools.catalog.clone(),
            spec: job.spec.clone(),
            track: wanted.clone(),
            proof,
            path: PathBuf::from(&path),
            cancel: self.cancel.clone(),
            permits: self.permits.clone(),
        });
        let target = place::target(&job.spec.target_dir, &self.settings.folders.downloads, &self.settings.roots);
        self.busy.entry(job.id.clone()).or_default().insert(track);
        let (id, cancel, mender) = (job.id.clone(), self.cancel.clone(), self.tools.mender.clone());
        let (trace, downloads) = (self.trace(job), self.settings.folders.downloads.clone());
        let (of, waits) = (id.clone(), mender.clone());
        self.checks.spawn(async move {
            // What was fetched for a repair has its place, and goes there as it came.
            let finished = PathBuf::from(&path);
            let stop = cancel.clone();
            let swap = move || {
                is_there(&downloads)?;
                let left = match mender.keep_tags(&of, track, &finished, &|| stop.is_cancelled())? {
                    Kept::Yes => None,
                    Kept::No(why) => Some(format!("the old tags are not in it: {why}")),
                    Kept::Later(why, pause) => return Ok(Some((Placed::Later(why, pause), None))),
                    Kept::Stopped => return Ok(None),
                };
                Ok(Some((mender.place(&of, track, &finished)?, left)))
            };
            match tokio::task::spawn_blocking(swap).await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(None) => return (id, track, Done::Checked(Checked::Later("the program ends".to_owned()))),
                Ok(Some((Placed::AsUsual, _))) => {}
                Ok(Some((Placed::Swapped(name, told), left))) => {
                    trace.record(TraceKind::Note(told));
                    return (id, track, Done::Placed(Ok((name, left))));
                }
                Ok(Some((Placed::Later(why, pause), _))) => {
                    tokio::select! {
                        () = cancel.cancelled() => {}
                        () = waits.rest(&id, track, pause) => {}
                    }
                    return (id, track, Done::Placed(Err(why)));
                }
                Ok(Some((Placed::Refused(why), _))) => return (id, track, Done::Refused(why)),
                Err(why) => {
                    rest(&cancel, AGAIN).await;
                    return (id, track, Done::Placed(Err(why)));
                }
            }
            // A file that is gone was moved before a crash: with the size that is on record, since it was there first.
            let mut left = None;
            if tag::size(Path::new(&path)).await.is_some() {
                match tagging {
                    Some(tagging) => match tagging.run().await {
                        Tagged::Right => {}
                        Tagged::Left(why) => left = Some(why),
                        Tagged::Stopped => {
                            let why = "the program ends".to_owned();
                            return (id, track, Done::Checked(Checked::Later(why)));
                        }
                    },
                    None => drop(tags::forget(Path::new(&path))),
                }
            }
            if let Some(now) = tag::size(Path::new(&path)).await.filter(|now| *now != size) {
                return (id, track, Done::Sized(now));
            }
            let work = move || {
                let folder = target.map_err(|error| error.to_string())?;
                place::place(&PathBuf::from(path), &folder, &name, size).map_err(|error| error.to_string())
            };
            let placed = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()));
            if placed.is_err() {
                rest(&cancel, AGAIN).await;
            }
            (id, track, Done::Placed(placed.map(|name| (name, left))))
        });
    }

    pub(super) async fn sweep(&self, id: &JobId) {
        let staging = self.settings.folders.downloads.join(STAGING).join(id.as_str());
        // Empty ones only: what the owner put there stays.
        let _ = tokio::fs::remove_dir(&staging).await;
    }
}

/// Finished files wait for the disk they lie on.
fn is_there(downloads: &Path) -> Result<(), String> {
    if downloads.is_dir() { Ok(()) } else { Err(format!("the downloads folder {} is not there", downloads.display())) }
}

/// Before another attempt.
async fn rest(cancel: &CancellationToken, pause: Duration) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

/// What is known of the files of a response.
fn badges(tools: &Tools, response: &ResponseView) -> Vec<Option<Badge>> {
    let offered = |file: &FileView| Offered::of(file.name.as_str(), file.size, &file.attributes);
    let known: Vec<Option<Offered>> = response.files.iter().map(offered).collect();
    let asked: Vec<Offered> = known.iter().flatten().copied().collect();
    let mut told = match tools.doctor.answer(HealthRequest::Badges(asked)) {
        Ok(HealthAnswer::Badges(told, _)) => told.into_iter(),
        _ => Vec::new().into_iter(),
    };
    known.into_iter().map(|file| file.and_then(|_| told.next().flatten())).collect()
}
