//! One rescue, from its beginning to its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::prepare::later;
use super::{Inner, Live, PULSE, locked};
use crate::app::mesh::assist::{Approval, Assist, RUN_LEN};
use crate::app::traces::TraceJob;
use crate::engine::soulseek::io::{Command, Refusal, Reply, RescuedFile};
use crate::engine::soulseek::names;
use crate::engine::swarm::rescue::RECOVERED;
use crate::engine::swarm::rescue::guard::{Join, RatioState, ratio};
use crate::model::id::TransferId;
use crate::model::mesh::{FetchRequest, FetchState, FetchView};
use crate::model::record::Change;
use crate::model::rescue::{Guardrail, Liar, Manner, Reason, RescueJob, RescueState, RescueView};
use crate::model::swarm::Source;
use crate::model::trace::TraceKind;
use crate::model::transfer::{Direction, Ending, Rung, Transfer, TransferState};
use crate::model::view::Event;

/// Between two looks once the file is about to be placed.
const SOON: Duration = Duration::from_millis(50);
/// A speed is that of so long.
const SPEED: Duration = Duration::from_secs(4);
/// That of the Soulseek user (SPEC-FACTS C4), and at least so long.
const RECENT: Duration = Duration::from_secs(60);
const RECENT_MIN: Duration = Duration::from_secs(3);
/// A rescue that brings nothing for so long is over.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// Nothing is held to less than this, bytes per second: it must be able to end.
const HELD_MIN: u64 = 16 * 1024;

/// What moved is kept so often: a kill costs that much of it.
const KEEP: Duration = Duration::from_secs(30);
/// Times that the engine is told of a file.
const TELLINGS: usize = 30;
const CALLED_OFF: &str = "the owner ended it";

/// How a rescue ended.
pub(super) struct End {
    state: RescueState,
    pub(super) told: String,
    /// The copy is another one: it is not tried again.
    refuted: bool,
}

pub(super) fn end(state: RescueState, told: impl Into<String>) -> End {
    End { state, told: told.into(), refuted: false }
}

/// Bytes at moments, for a speed.
#[derive(Default)]
struct Meter(VecDeque<(Duration, u64)>);

impl Meter {
    /// Bytes per second over the last `span`, or as much of it as there is; 0 for less than `least`.
    fn add(&mut self, now: Duration, bytes: u64, span: Duration, least: Duration) -> u64 {
        self.0.push_back((now, bytes));
        while self.0.front().is_some_and(|(at, _)| now.saturating_sub(*at) > span) {
            self.0.pop_front();
        }
        let Some((from, before)) = self.0.front() else { return 0 };
        let passed = now.saturating_sub(*from);
        let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        if passed < least || millis == 0 { 0 } else { bytes.saturating_sub(*before).saturating_mul(1_000) / millis }
    }
}

/// Conducts a rescue: a new one, or one that was kept.
pub(super) async fn run(inner: &Arc<Inner>, id: TransferId, reason: Reason, kept: Option<RescueJob>, live: &Live) {
    let goes_on = kept.is_some();
    let chosen = if let Some(job) = kept {
        let join = if job.vouched_by.is_some() { Join::Free } else { Join::Checked };
        *locked(&live.view) = Some(super::quiet(job.clone()));
        Some((job, join, ""))
    } else {
        tokio::select! {
            () = live.cancel.cancelled() => None,
            chosen = inner.prepare(id, reason, live) => chosen,
        }
    };
    let Some((job, join, how)) = chosen else { return };
    // Pages show it from now on.
    inner.tell(id);
    let mut rescue = Rescue::new(inner, job, join);
    rescue.how = how;
    // What the last run of the program left of its fetch is let go of, whatever comes; one that runs is somebody else's.
    rescue.begun = goes_on && !inner.mesh.is_fetching(rescue.job.content);
    let ended = rescue.conduct(live).await;
    if inner.cancel.is_cancelled() {
        // It goes on after the restart.
        rescue.keep().await;
        return;
    }
    rescue.finish(ended).await;
}

/// One that is under way.
pub(super) struct Rescue<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) job: RescueJob,
    pub(super) join: Join,
    pub(super) assist: Arc<Assist>,
    asked: mpsc::Receiver<Approval>,
    /// By what the recording was found out; empty if it was known, or is not.
    how: &'static str,
    traces: [TraceJob; 2],
    overlay: Meter,
    soulseek: Meter,
    throttled: Option<u64>,
    yields: bool,
    capped: bool,
    /// When bytes came last.
    moved_at: Duration,
    /// Of either network, then.
    bytes: u64,
    /// What earlier runs of the program brought.
    before: u64,
    /// What the user had sent when it began.
    first: u64,
    /// The fetch is ours: what somebody else wants is left alone.
    begun: bool,
    keep_at: Duration,
}

impl<'a> Rescue<'a> {
    fn new(inner: &'a Arc<Inner>, job: RescueJob, join: Join) -> Self {
        let (assist, asked) = Assist::new(job.user.clone(), Arc::clone(&inner.quota));
        let traces = &inner.parts.traces;
        let title = job.path.base_name().to_owned();
        let traces =
            [traces.begin(job.content.to_string(), title.clone()), traces.begin(job.transfer.to_string(), title)];
        Self {
            join: if job.manner == Manner::WholeVariant { Join::Apart } else { join },
            before: job.overlay_bytes,
            first: job.soulseek_bytes,
            moved_at: inner.parts.clock.now().mono,
            bytes: 0,
            inner,
            job,
            assist,
            asked,
            how: "",
            traces,
            overlay: Meter::default(),
            soulseek: Meter::default(),
            throttled: None,
            yields: false,
            capped: false,
            begun: false,
            keep_at: inner.parts.clock.now().mono + KEEP,
        }
    }

    fn trace(&self, kind: &TraceKind) {
        for trace in &self.traces {
            trace.record(kind.clone());
        }
    }

    async fn keep(&self) {
        if let Err(error) = self.inner.parts.store.put_rescue(self.job.clone()).await {
            tracing::warn!(%error, "a rescue could not be kept");
        }
    }

    async fn command(&self, command: Command) -> Option<Reply> {
        self.inner.parts.node.command(command).await
    }

    /// Works until it is over.
    async fn conduct(&mut self, live: &Live) -> End {
        self.keep().await;
        let (transfer, reason, manner) = (self.job.transfer, self.job.reason, self.job.manner);
        let Some(download) = self.inner.wanted(transfer).await else { return self.gone().await };
        // It may have come just before the last end of the program.
        let earlier = self.inner.mesh.fetch_view(self.job.content).await;
        let earlier = earlier.filter(|fetch| fetch.fetch.asked_at >= self.job.activated_at);
        if let Some(over) = self.fetched(earlier.as_ref()).await {
            return over;
        }
        self.command(Command::Aside(transfer, true)).await;
        self.trace(&TraceKind::RescueModeActivated { transfer, reason, manner });
        if !self.how.is_empty() {
            self.trace(&TraceKind::Note(format!("which recording it is was found out by the {}", self.how)));
        }
        self.set_origin(&download);
        let (folder, _) = names::layout(&download.path, download.destination.as_deref());
        let name = self.job.name.clone();
        let RescueJob { content, size, recording, .. } = self.job;
        let request = FetchRequest { content, size, name, folder, soulseek: Vec::new(), recording };
        if let Err(refusal) = self.inner.mesh.help(request, Arc::clone(&self.assist)).await {
            self.begun = false;
            return end(RescueState::Failed, format!("the mesh does not fetch it: {refusal:?}"));
        }
        self.begun = true;
        let mut every = PULSE;
        loop {
            tokio::select! {
                () = live.cancel.cancelled() => return end(RescueState::Cancelled, CALLED_OFF),
                Some(approval) = self.asked.recv() => {
                    let verdict = tokio::select! {
                        () = live.cancel.cancelled() => Err(end(RescueState::Cancelled, CALLED_OFF)),
                        verdict = self.approve(approval.measured) => verdict,
                    };
                    // The fetch may be gone, in either case.
                    if let Err(over) = verdict {
                        let _ = approval.answer.send(Err(over.told.clone()));
                        return over;
                    }
                    let _ = approval.answer.send(Ok(()));
                    // It is in its place in a moment.
                    every = SOON;
                }
                () = tokio::time::sleep(every) => {
                    every = (every * 2).min(PULSE);
                    if let Some(over) = self.look(live).await {
                        return over;
                    }
                }
            }
        }
    }

    /// Bytes of the download are taken over where they are the file's.
    fn set_origin(&self, download: &Transfer) {
        let partial = download.partial.as_ref().filter(|_| self.job.manner == Manner::Splice);
        self.assist.set_origin(partial.map(|partial| self.inner.origin(partial)));
    }

    /// The copy proved to be another one, or a bad one: it is not tried again, whoever brought it is named to the owner,
    /// and nobody is believed any more who tells of it under this recording.
    pub(super) async fn refute(&mut self, why: String) -> End {
        let content = self.job.content;
        self.name_liars().await;
        if let Some(fetch) = self.inner.mesh.fetch_view(content).await {
            for source in fetch.sources {
                if let Source::Mesh(peer) = source.source
                    && source.bytes > 0
                {
                    self.job.name_liar(Liar { peer, content, why: why.clone() });
                }
            }
        }
        let peers: Vec<String> = self.job.liars.iter().map(|liar| liar.peer.to_string()).collect();
        tracing::warn!(id = %self.job.transfer, %content, why, ?peers, "a copy that mesh peers offered is not the file");
        self.inner.disprove(self.job.recording, content).await;
        End { state: RescueState::Failed, told: why, refuted: true }
    }

    /// Puts down who sent a wrong list, or wrong pieces.
    async fn name_liars(&mut self) {
        let content = self.job.content;
        for peer in self.assist.liars() {
            self.job.name_liar(Liar { peer, content, why: "it sent a piece list of another file".to_owned() });
        }
        let Some(fetch) = self.inner.mesh.fetch_view(content).await else { return };
        for source in fetch.sources.iter().filter(|source| source.bad_pieces > 0) {
            if let Source::Mesh(peer) = source.source {
                let why = format!("it sent {} wrong pieces", source.bad_pieces);
                self.job.name_liar(Liar { peer, content, why });
            }
        }
    }

    /// The bytes of the download are not those of the file: found out only now, for the first of them were.
    pub(super) async fn differs(&mut self) -> Option<End> {
        if !self.assist.differs() {
            return None;
        }
        let told = format!("the bytes of {} are others", self.job.user);
        match self.join {
            Join::Checked => Some(self.refute(told).await),
            // Who vouches for it is believed: it may be another copy of the recording, and is looked at as such.
            Join::Free => Some(end(RescueState::Failed, told)),
            Join::Apart => None,
        }
    }

    async fn look(&mut self, live: &Live) -> Option<End> {
        let Some(download) = self.inner.wanted(self.job.transfer).await else { return Some(self.gone().await) };
        let Some(fetch) = self.inner.mesh.fetch_view(self.job.content).await else {
            return Some(end(RescueState::Failed, "the mesh does not fetch it any more: the owner forgot it"));
        };
        if let Some(over) = self.fetched(Some(&fetch)).await {
            return Some(over);
        }
        self.set_origin(&download);
        if let Some(over) = self.differs().await {
            return Some(over);
        }
        let now = self.inner.parts.clock.now().mono;
        let came = self.assist.came();
        self.job.overlay_bytes = self.before.saturating_add(came);
        self.job.soulseek_bytes = self.job.soulseek_bytes.max(download.bytes_done);
        let overlay_speed = self.overlay.add(now, came, SPEED, Duration::from_millis(900));
        let flows = download.state == TransferState::InProgress;
        if !flows {
            self.soulseek.0.clear();
        }
        let soulseek_speed = self.soulseek.add(now, download.bytes_done, RECENT, RECENT_MIN);
        self.hold_back(overlay_speed, flows && soulseek_speed > RECOVERED);
        let bytes = came.saturating_add(download.bytes_done);
        // What is held back by the owner's rules is not given up, and what is whole only waits for its place.
        let whole = fetch.away || fetch.bytes == fetch.fetch.size;
        if bytes != self.bytes || whole || self.capped || self.inner.mesh.is_paused() {
            (self.bytes, self.moved_at) = (bytes, now);
        } else if now.saturating_sub(self.moved_at) >= IDLE {
            return Some(end(RescueState::Failed, "nothing came for half an hour"));
        }
        *locked(&live.view) = Some(self.view(fetch, overlay_speed, soulseek_speed));
        if now >= self.keep_at {
            self.keep_at = now + KEEP;
            self.keep().await;
        }
        None
    }

    /// Guardrails and good manners, by the bytes that moved.
    fn hold_back(&mut self, overlay_speed: u64, recovered: bool) {
        if recovered != self.yields {
            self.yields = recovered;
            let told = if recovered {
                "the Soulseek user is quick again: the mesh gives way"
            } else {
                "the Soulseek user is slow again: the mesh goes on"
            };
            self.trace(&TraceKind::Note(told.to_owned()));
        }
        match ratio(self.job.overlay_bytes, self.job.soulseek_bytes, &self.inner.rails) {
            RatioState::Over if self.throttled.is_none() && overlay_speed > 0 => {
                let held = (overlay_speed / 2).max(HELD_MIN);
                self.throttled = Some(held);
                self.hit(Guardrail::Ratio, &format!("the mesh is held to {held} bytes a second, half its speed"));
            }
            RatioState::Allowed if !self.job.hits.contains(&Guardrail::OverlayOnly) => {
                self.hit(Guardrail::OverlayOnly, "the owner allows more from the mesh than the ratio");
            }
            RatioState::Within => self.throttled = None,
            RatioState::Over | RatioState::Allowed => {}
        }
        let capped = self.inner.quota.left() < RUN_LEN;
        if capped && !self.capped {
            self.hit(
                Guardrail::DailyCap,
                "nothing more comes from the mesh until bytes of the last 24 hours are older",
            );
        }
        self.capped = capped;
        self.assist.brake.set(if self.yields { Some(0) } else { self.throttled });
    }

    fn hit(&mut self, rail: Guardrail, what: &str) {
        let told = self.inner.hit(self.job.transfer, rail, what, &self.traces[0]);
        if told {
            self.traces[1].record(TraceKind::GuardrailHit(rail, what.to_owned()));
        }
        if !self.job.hits.contains(&rail) {
            self.job.hits.push(rail);
        }
    }

    fn view(&self, fetch: FetchView, overlay_speed: u64, soulseek_speed: u64) -> RescueView {
        let FetchView { bytes, waits, missing, sources, .. } = fetch;
        let waits = match (self.yields, self.capped) {
            (true, _) => "the Soulseek user is quick again".to_owned(),
            (_, true) => "as much as may came within 24 hours".to_owned(),
            _ => waits,
        };
        let job = self.job.clone();
        let throttled_to = self.throttled;
        RescueView {
            job,
            origin: None,
            bytes,
            overlay_speed,
            soulseek_speed,
            throttled_to,
            yields: self.yields,
            waits,
            missing,
            sources,
        }
    }

    /// What follows once the fetch is over.
    async fn fetched(&mut self, fetch: Option<&FetchView>) -> Option<End> {
        match &fetch?.fetch.state {
            FetchState::Running => None,
            FetchState::Done(path) => Some(self.there(path.clone()).await),
            FetchState::Failed(why) => Some(self.refute(why.clone()).await),
        }
    }

    /// The file is in its place.
    async fn there(&mut self, path: String) -> End {
        self.job.local_path = Some(path.clone());
        if self.job.manner == Manner::WholeVariant {
            // What the user may yet send is another file: the download goes on as before.
            if let Some(failed) = self.inner.failed(self.job.transfer).await {
                let reason = format!("mesh peers brought another copy of the recording, {path}");
                self.put(Transfer { reason: Some(reason), ..failed }).await;
            }
            return end(
                RescueState::Completed,
                "another copy of the recording is there, beside whatever the download brings",
            );
        }
        let rung = if self.join == Join::Free { Rung::Verified } else { Rung::RescuedCopy };
        let file = RescuedFile { path, size: self.job.size, rung };
        let mut told = None;
        for _ in 0..TELLINGS {
            told = self.command(Command::Rescued(self.job.transfer, Box::new(file.clone()))).await;
            if told.is_some() {
                break;
            }
            // The engine is being started anew.
            tokio::time::sleep(PULSE).await;
        }
        if told == Some(Reply::Refused(Refusal::NotFound))
            && let Some(failed) = self.inner.failed(self.job.transfer).await
        {
            told = self.mend(failed, file).await;
        }
        let told = if told == Some(Reply::Done) {
            "the file is there"
        } else {
            "the file is there, and the download brought it too"
        };
        end(RescueState::Completed, told)
    }

    /// The download failed before, and has its file now: what the engine does not know any more is the store's.
    async fn mend(&self, mut failed: Transfer, file: RescuedFile) -> Option<Reply> {
        let parts = &self.inner.parts;
        failed.state = TransferState::Completed(Ending::Succeeded);
        (failed.size, failed.bytes_done, failed.reason) = (file.size, file.size, None);
        (failed.local_path, failed.rung) = (Some(file.path), Some(file.rung));
        failed.ended_at = Some(parts.clock.now().wall);
        if let Some(partial) = failed.partial.take()
            && let Err(error) = parts.pump.discard(&partial.file).await
        {
            tracing::warn!(file = partial.file, %error, "a partial file could not be removed");
        }
        let id = failed.id;
        let done = self.put(failed).await;
        if done.is_some() {
            // Nobody may listen.
            let _ = parts.events.send(Event::DownloadFinished(id));
        }
        done
    }

    /// Keeps a record that the engine does not know any more.
    async fn put(&self, record: Transfer) -> Option<Reply> {
        let id = record.id;
        match self.inner.parts.store.apply(vec![Change::Transfer(Box::new(record))]).await {
            Ok(()) => {
                self.inner.tell(id);
                Some(Reply::Done)
            }
            Err(error) => {
                tracing::warn!(%error, %id, "what became of a download could not be kept");
                None
            }
        }
    }

    /// The download is over without us; or with us, just before the last end of the program.
    pub(super) async fn gone(&mut self) -> End {
        let (store, id) = (self.inner.parts.store.clone(), self.job.transfer);
        // What the engine recorded last is there then. A store that takes no more is read all the same.
        let _ = store.apply(Vec::new()).await;
        let kept = tokio::task::spawn_blocking(move || store.transfer(Direction::Download, id)).await;
        let Some(kept) = kept.ok().and_then(Result::ok).flatten() else {
            return end(RescueState::Cancelled, "the download is over");
        };
        let fetch = self.inner.mesh.fetch_view(self.job.content).await;
        let fetch = fetch.filter(|fetch| fetch.fetch.asked_at >= self.job.activated_at);
        if let Some(FetchState::Done(path)) = fetch.map(|fetch| fetch.fetch.state)
            && (self.job.manner == Manner::WholeVariant || kept.local_path.as_ref() == Some(&path))
        {
            self.job.local_path = Some(path);
            return end(RescueState::Completed, "the file is there");
        }
        let told = match kept.state {
            TransferState::Completed(Ending::Succeeded) => "the download was finished by its user".to_owned(),
            state => format!("the download is over: {}", state.name()),
        };
        end(RescueState::Cancelled, told)
    }

    /// Leaves nothing behind.
    async fn finish(mut self, over: End) {
        let id = self.job.transfer;
        // Whoever asks for an approval now waits for nobody.
        self.asked.close();
        while let Ok(approval) = self.asked.try_recv() {
            let _ = approval.answer.send(Err(over.told.clone()));
        }
        self.name_liars().await;
        for liar in &self.job.liars {
            self.trace(&TraceKind::Note(format!("mesh peer {}: {}", liar.peer, liar.why)));
        }
        self.trace(&TraceKind::RescueModeDeactivated(over.told.clone()));
        tracing::info!(%id, state = over.state.name(), why = over.told, overlay = self.job.overlay_bytes, "a rescue is over");
        let came = self.assist.came();
        self.job.overlay_bytes = self.before.saturating_add(came);
        (self.job.state, self.job.told) = (over.state, over.told);
        self.job.ended_at = Some(self.inner.parts.clock.now().wall);
        self.job.unwanted = self.inner.tried(id, |tried| tried.unwanted);
        // Before it is kept that it is over: after a kill in between it goes on, and lets go of the fetch then.
        if self.begun {
            self.inner.mesh.release(self.job.content, over.state == RescueState::Completed).await;
        }
        if self.job.settles() {
            self.inner.tried(id, |tried| tried.unwanted = true);
        }
        self.keep().await;
        // One that is over needs no place in line.
        self.command(Command::Aside(id, false)).await;
        self.inner.tell(id);
        {
            let mut counts = locked(&self.inner.counts);
            *counts.ended.entry(over.state).or_default() += 1;
            counts.bytes[0] = counts.bytes[0].saturating_add(came);
            let sent = self.job.soulseek_bytes.saturating_sub(self.first);
            counts.bytes[1] = counts.bytes[1].saturating_add(sent);
        }
        match over.state {
            // The next copy is tried at the next look.
            RescueState::Failed if over.refuted => {
                let content = self.job.content;
                if !self.inner.tried(id, |tried| tried.refute(content)) {
                    later(self.inner, id);
                }
            }
            RescueState::Failed => later(self.inner, id),
            RescueState::Active | RescueState::Completed | RescueState::Cancelled => {}
        }
    }
}
