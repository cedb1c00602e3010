//! Whether a download that hangs may be rescued, and by which copy.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::resolve::{CopyHere, Found, KNOWN};
use super::{AGAIN, AGAIN_MAX, Inner, Live, locked, quiet};
use crate::app::mesh::assist::Origin;
use crate::engine::audio::container::Check;
use crate::engine::soulseek::names;
use crate::engine::swarm::rescue::guard::{Beside, Case, Join, forbidden, join};
use crate::model::gossip::Offered;
use crate::model::id::{ContentHash, TransferId};
use crate::model::limits;
use crate::model::music::Attributes;
use crate::model::rescue::{Guardrail, Liar, Manner, Reason, RescueJob, RescueState};
use crate::model::transfer::{Partial, Transfer};

/// The copy that helps.
struct Chosen {
    content: ContentHash,
    size: u64,
    copy: CopyHere,
    join: Join,
    /// Who offered what is not the file.
    liars: Vec<Liar>,
}

/// It is looked at again later, and later with each time.
pub(super) fn later(inner: &Inner, id: TransferId) {
    let now = inner.parts.clock.now().mono;
    inner.tried(id, |tried| {
        tried.again = now + AGAIN.saturating_mul(1 << tried.times.min(8)).min(AGAIN_MAX);
        tried.times = tried.times.saturating_add(1);
    });
}

fn title(download: &Transfer) -> String {
    download.path.base_name().to_owned()
}

fn extension(download: &Transfer) -> String {
    names::extension(&download.path)
}

impl Inner {
    /// What is to be done, and by what the recording is known; nothing if nothing can, or may.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        id: TransferId,
        reason: Reason,
        own: &Live,
    ) -> Option<(RescueJob, Join, &'static str)> {
        let download = match self.download(id).await {
            Some(download) => download,
            // It is said that it is not allowed, if it is not.
            None => self.failed(id).await?,
        };
        let found = match self.resolve(&download).await {
            Ok(found) => found,
            Err(refusal) => {
                tracing::warn!(%id, ?refusal, "a download that hangs could not be looked up");
                later(self, id);
                return None;
            }
        };
        if found.copies.is_empty() && found.recording.is_none() {
            tracing::debug!(%id, "a download hangs, and nobody knows what it is");
        }
        let case = Case {
            origin: !download.state.is_over(),
            seen: self.seen(&download).await,
            recording: found.recording.is_some(),
            jobs: self.others(id),
            today: self.today(),
        };
        let hit = forbidden(&case, &self.rails);
        let unmet = hit.contains(&Guardrail::SeenOnSoulseek);
        if unmet || locked(&self.tried).contains_key(&id) {
            self.tried(id, |tried| tried.unmet = unmet);
        }
        if !hit.is_empty() {
            self.forbid(&download, reason, &found, hit).await;
            return None;
        }
        let chosen = self.choose(&download, &found).await;
        let Some(Chosen { content, size, copy, join, liars }) = chosen else {
            tracing::info!(%id, recording = ?found.recording, copies = found.copies.len(), "a download hangs, and no connected peer can help");
            if let Some(recording) = found.recording {
                // Somebody who is not connected may have it.
                self.mesh.seek(recording);
            }
            later(self, id);
            return None;
        };
        let (_, name) = names::layout(&download.path, download.destination.as_deref());
        let mut job = RescueJob {
            transfer: id,
            user: download.user.clone(),
            path: download.path.clone(),
            recording: found.recording,
            reason,
            activated_at: self.parts.clock.now().wall,
            ended_at: None,
            state: RescueState::Active,
            content,
            size,
            manner: join.manner(),
            name: if join == Join::Apart { beside_name(&name, copy.extension) } else { name },
            vouched_by: (join == Join::Free)
                .then(|| self.voucher(&copy).unwrap_or_else(|| "a peer that is gone".to_owned())),
            overlay_bytes: 0,
            soulseek_bytes: download.bytes_done,
            hits: Vec::new(),
            told: String::new(),
            local_path: None,
            unwanted: false,
            liars: Vec::new(),
        };
        for liar in liars {
            tracing::warn!(%id, peer = %liar.peer, content = %liar.content, why = liar.why, "a mesh peer has not what it offers");
            job.name_liar(liar);
        }
        // Who was found out by an earlier rescue of this download stays named.
        let earlier = self.parts.store.read(|txn, tables| tables.rescue.job(txn, id)).ok().flatten();
        for liar in earlier.map(|job| job.liars).unwrap_or_default() {
            job.name_liar(liar);
        }
        if !self.takes_place(&job, own) {
            self.forbid(&download, reason, &found, vec![Guardrail::ConcurrentJobs]).await;
            return None;
        }
        tracing::info!(
            %id, reason = reason.name(), how = found.how, %content, manner = job.manner.name(),
            peers = copy.peers.len(), "a download hangs: mesh peers help"
        );
        Some((job, join, if found.how == KNOWN { "" } else { found.how }))
    }

    /// Who vouches for this copy: this node, or one of the peers that the owner named.
    fn voucher(&self, copy: &CopyHere) -> Option<String> {
        if copy.ours {
            return Some("this node".to_owned());
        }
        let named = self.mesh.vouchers();
        copy.peers.iter().find_map(|peer| named.get(peer).cloned())
    }

    /// Rescues under way beside this one.
    fn others(&self, id: TransferId) -> usize {
        let live = locked(&self.live);
        live.iter().filter(|(other, live)| **other != id && locked(&live.view).is_some()).count()
    }

    /// The rescue counts among those under way from now on; unless others were quicker and there may be no more.
    fn takes_place(&self, job: &RescueJob, own: &Live) -> bool {
        let live = locked(&self.live);
        let others =
            live.iter().filter(|(other, live)| **other != job.transfer && locked(&live.view).is_some()).count();
        if others >= self.rails.jobs_max {
            return false;
        }
        *locked(&own.view) = Some(quiet(job.clone()));
        true
    }

    /// These guardrails forbid a rescue: counted, told, and looked at again later.
    async fn forbid(&self, download: &Transfer, reason: Reason, found: &Found, hit: Vec<Guardrail>) {
        let id = download.id;
        let trace = self.parts.traces.begin_since(id.to_string(), title(download), Some(download.requested_at));
        let mut first = false;
        for rail in &hit {
            first |= self.hit(id, *rail, "no rescue begins", &trace);
        }
        if first {
            self.refused(download, reason, found, hit).await;
        }
        later(self, id);
    }

    /// A rescue that may not begin is shown with the reason.
    async fn refused(&self, download: &Transfer, reason: Reason, found: &Found, hits: Vec<Guardrail>) {
        let keys: Vec<&str> = hits.iter().map(|rail| rail.key()).collect();
        let now = self.parts.clock.now().wall;
        let job = RescueJob {
            transfer: download.id,
            user: download.user.clone(),
            path: download.path.clone(),
            recording: found.recording,
            reason,
            activated_at: now,
            ended_at: Some(now),
            state: RescueState::Failed,
            content: ContentHash([0; 32]),
            size: download.size,
            manner: Manner::Splice,
            name: String::new(),
            vouched_by: None,
            overlay_bytes: 0,
            soulseek_bytes: download.bytes_done,
            told: format!("not allowed: {}", keys.join(", ")),
            hits,
            local_path: None,
            unwanted: false,
            liars: Vec::new(),
        };
        if let Err(error) = self.parts.store.put_rescue(job).await {
            tracing::warn!(%error, "a rescue could not be kept");
        }
        self.tell(download.id);
    }

    /// Whether this node met the file on Soulseek: it stood in a search, its user took it into the queue, or sent bytes.
    async fn seen(&self, download: &Transfer) -> bool {
        let id = download.id;
        if self.look(move |node, _| Some(node.download_met(id))).await == Some(true) {
            return true;
        }
        let Some(batch) = download.batch else { return false };
        let store = self.parts.store.clone();
        let batch = tokio::task::spawn_blocking(move || store.batch(batch)).await;
        batch.is_ok_and(|batch| batch.is_ok_and(|batch| batch.is_some_and(|batch| batch.search.is_some())))
    }

    /// Which copy helps: one that may be joined to what is there, else the best other one.
    async fn choose(&self, download: &Transfer, found: &Found) -> Option<Chosen> {
        let refuted = self.tried(download.id, |tried| tried.refuted.clone());
        let usable = |content: &ContentHash| !refuted.contains(content) && !self.mesh.is_fetching(*content);
        let checkable = Check::for_extension(&extension(download)).is_some();
        let mut same: Vec<_> = found
            .copies
            .iter()
            .filter(|((content, size), _)| (download.size == 0 || *size == download.size) && usable(content))
            .map(|(key, copy)| (self.voucher(copy).is_some(), copy.peers.len(), *key))
            .collect();
        same.sort_by(|a, b| b.cmp(a));
        let origin = download.partial.as_ref().map(|partial| self.origin(partial));
        let mut best: Option<(Join, usize, (ContentHash, u64))> = None;
        let (mut liars, mut lies) = (Vec::new(), BTreeSet::new());
        let mut looked = 0;
        // What has no list is no copy, and takes no honest one's place.
        for (vouched, peers, key) in same.into_iter().take(limits::RESCUE_COPIES_ASKED) {
            let (content, size) = key;
            let (list, liars_here) = self.mesh.find_list(content, size).await;
            let blame = |peer, why: &str| Liar { peer, content, why: why.to_owned() };
            liars.extend(liars_here.into_iter().map(|peer| blame(peer, "it sent a piece list of another file")));
            let Some(list) = list else { continue };
            let (equal, differs) = match &origin {
                Some(origin) => self.mesh.beside(origin, &list).await?,
                None => (0, false),
            };
            let guessed = found.guessed || download.size == 0;
            let joined = join(&Beside { size_fits: true, guessed, equal, differs, vouched, checkable });
            tracing::debug!(%content, peers, equal, differs, vouched, ?joined, "a copy beside what is there");
            if differs {
                let copy = &found.copies[&key];
                let user = &download.user;
                liars
                    .extend(copy.peers.iter().map(|peer| blame(*peer, &format!("its copy is not the file of {user}"))));
                if !copy.same.is_empty() {
                    // That is no other rip: it was said to be these very bytes.
                    lies.insert(content);
                }
            }
            if joined != Join::Apart && best.is_none_or(|(best, ..)| joined < best) {
                best = Some((joined, peers, key));
            }
            looked += 1;
            if looked >= limits::RESCUE_COPIES {
                break;
            }
        }
        for content in &lies {
            self.disprove(found.recording, *content).await;
        }
        let chosen = |(content, size): (ContentHash, u64), join| {
            let copy = found.copies[&(content, size)].clone();
            Some(Chosen { content, size, copy, join, liars })
        };
        if let Some((join, _, key)) = best {
            return chosen(key, join);
        }
        // Another copy of the recording, if it is known to be one.
        found.recording?;
        let wanted = Offered::of(download.path.base_name(), 0, &Attributes::default())?;
        let lossless = wanted.codecs.iter().all(|codec| codec.is_lossless());
        let good = |content: &ContentHash, copy: &CopyHere| {
            usable(content)
                && !lies.contains(content)
                && !copy.is_suspect()
                && (!lossless || copy.lossless == Some(true))
        };
        let others = found.copies.iter().filter(|((content, _), copy)| good(content, copy));
        let (key, _) = others.max_by(|(a, x), (b, y)| {
            x.score.total_cmp(&y.score).then(x.peers.len().cmp(&y.peers.len())).then(b.cmp(a))
        })?;
        chosen(*key, Join::Apart)
    }

    /// Whoever tells of this content under this recording is not believed in that any more.
    pub(super) async fn disprove(&self, recording: Option<u128>, content: ContentHash) {
        let Some(recording) = recording else { return };
        let now = self.parts.clock.now().wall;
        let disproved = self.parts.store.write(move |txn, tables| {
            let library = tables.library;
            tables.gossip.disprove(txn, recording, content, now, &library)
        });
        if let Err(error) = disproved.await {
            tracing::warn!(%error, %content, "that a copy is another could not be kept");
        }
    }

    /// The partial file of a download, and how much of it counts.
    pub(super) fn origin(&self, partial: &Partial) -> Origin {
        let trusted = (!self.parts.pump.is_this_boot(partial.boot)).then_some(partial.synced);
        Origin { file: partial.file.clone(), trusted }
    }
}

/// Beside the name of the download, so that both can be there.
fn beside_name(name: &str, kind: Option<&str>) -> String {
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => {
            format!("{stem} (rescued copy).{}", kind.unwrap_or(extension))
        }
        _ => format!("{name} (rescued copy)"),
    }
}
