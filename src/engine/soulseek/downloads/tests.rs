//! One box, scripted users, a clock turned by hand.

mod files;
mod owner;
mod rescue;
mod sources;

use super::*;
use crate::engine::soulseek::Secret;
use crate::engine::soulseek::effect::About;
use crate::engine::soulseek::io::{Begin, EnqueueRequest, FileEvent, ReceiveEnd, Reply};
use crate::engine::soulseek::peer::PeerMessage;
use crate::engine::soulseek::server::ToServer;
use crate::model::id::{BatchId, ConnId};
use crate::model::record::Batch;
use crate::model::rescue::Origin;
use crate::model::time::UnixMs;

const MIB: u64 = 1024 * 1024;

struct Desk {
    downloads: Downloads,
    now: Now,
    settings: Settings,
    chance: Chance,
    out: Effects,
    /// What the store holds.
    stored: BTreeMap<TransferId, Transfer>,
    batches: Vec<Batch>,
    finished: Vec<TransferId>,
    origins: Vec<(TransferId, Origin)>,
    begins: Vec<Begin>,
    ids: Vec<TransferId>,
}

fn settings() -> Settings {
    Settings {
        username: "me".into(),
        password: Secret::default(),
        listen_port: 1,
        description: String::new(),
        upload_slots: 1,
        download_slots: 3,
        user_queue_files: 0,
        user_queue_mib: 0,
        queue_files: 0,
        queue_mib: 0,
        banned: Vec::new(),
        children_max: 0,
        upload_limit: None,
        download_attempts_max: 3,
        failover: false,
        private_ranges: Vec::new(),
    }
}

impl Desk {
    fn new() -> Self {
        Self {
            downloads: Downloads::new(),
            now: Now { mono: Duration::from_secs(1_000), wall: UnixMs(1_700_000_000_000) },
            settings: settings(),
            chance: Chance::new(7),
            out: Effects::new(),
            stored: BTreeMap::new(),
            batches: Vec::new(),
            finished: Vec::new(),
            origins: Vec::new(),
            begins: Vec::new(),
            ids: Vec::new(),
        }
    }

    /// Logged in.
    fn online() -> Self {
        let mut desk = Self::new();
        desk.with(Downloads::on_logged_in);
        desk
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut Downloads, &mut Turn<'_>) -> R) -> R {
        let mut turn = Turn { now: self.now, settings: &self.settings, chance: &mut self.chance, out: &mut self.out };
        f(&mut self.downloads, &mut turn)
    }

    /// Turns the clock, stopping at every deadline on the way.
    fn pass(&mut self, seconds: u64) {
        let end = self.now.mono + Duration::from_secs(seconds);
        let mut steps = 0;
        while let Some(at) = self.downloads.next_timeout().filter(|at| *at <= end) {
            self.turn_to(at.max(self.now.mono));
            self.with(Downloads::on_timeout);
            steps += 1;
            assert!(steps < 10_000, "deadlines never end");
        }
        self.turn_to(end);
    }

    fn turn_to(&mut self, mono: Duration) {
        self.now.wall = self.now.wall.plus(mono.saturating_sub(self.now.mono));
        self.now.mono = mono;
    }

    /// What was wished since the last call, in short.
    fn drain(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(effect) = self.out.pop() {
            match effect {
                Effect::Act(Action::Store(changes)) => self.keep(changes),
                Effect::Act(Action::Notice(Notice::DownloadFinished(id))) => self.finished.push(id),
                Effect::Act(Action::Notice(_)) => {}
                Effect::Act(Action::File(file)) => lines.push(self.file_line(file)),
                Effect::Act(Action::Reply(_, Reply::Enqueued { accepted, failed, .. })) => {
                    self.ids.extend(&accepted);
                    let failed: Vec<String> = failed.iter().map(|(path, why)| format!("{path}: {why}")).collect();
                    lines.push(format!("enqueued {} failed {failed:?}", accepted.len()));
                }
                Effect::Act(Action::Reply(command, reply)) => lines.push(format!("reply {} {reply:?}", command.0)),
                Effect::ToServer(ToServer::WatchUser { user }) => lines.push(format!("watch {user}")),
                Effect::ToServer(ToServer::UnwatchUser { user }) => lines.push(format!("unwatch {user}")),
                Effect::ToUser { user, message, .. } => lines.push(match message {
                    PeerMessage::QueueUpload { path } => format!("43 {user} {path}"),
                    PeerMessage::PlaceInQueueRequest { path } => format!("51 {user} {path}"),
                    PeerMessage::TransferResponse { token, answer } => match answer {
                        Ok(size) => format!("41 {user} {token} ok {size:?}"),
                        Err(reason) => format!("41 {user} {token} {reason}"),
                    },
                    other => format!("{other:?}"),
                }),
                Effect::Failover { query, .. } => lines.push(format!("seek {query}")),
                other => lines.push(format!("{other:?}")),
            }
        }
        self.check();
        lines
    }

    fn keep(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Transfer(record) => {
                    self.stored.insert(record.id, *record);
                }
                Change::Batch(batch) => self.batches.push(batch),
                Change::Origin(id, origin) => self.origins.push((id, origin)),
                other => panic!("{other:?}"),
            }
        }
    }

    fn file_line(&mut self, action: FileAction) -> String {
        match action {
            FileAction::Receive { conn, size, begin, .. } => {
                let name = match &begin {
                    Begin::Fresh => "fresh",
                    Begin::Continue(_) => "continue",
                    Begin::Join(_) => "join",
                };
                self.begins.push(begin);
                format!("receive {} {name} {size}", conn.0)
            }
            FileAction::Compare { conn, path, size, .. } => format!("compare {} {path} {size}", conn.0),
            FileAction::Place { folder, name, meant: Some(path), .. } => format!("place {folder}/{name} to {path}"),
            FileAction::Place { folder, name, check, .. } => format!("place {folder}/{name} {check}"),
            FileAction::Discard { .. } => "discard".to_owned(),
            FileAction::Stop { .. } => "stop".to_owned(),
            FileAction::Send { .. } => panic!("an upload"),
        }
    }

    /// What must hold at all times.
    fn check(&self) {
        let d = &self.downloads;
        for (id, download) in &d.live {
            let stored = &self.stored[id];
            assert_eq!(stored.state, download.record.state, "the store is behind");
            assert_eq!(stored.partial, download.record.partial, "the store is behind");
            let deadline = d.timers.deadline(&Timer::Download(*id));
            let waits_for_others = match download.phase {
                Phase::Ready => true,
                Phase::Seeking { .. } => d.seekers.contains(id),
                _ => false,
            };
            assert_eq!(deadline.is_none(), waits_for_others, "{:?}", download.phase);
            assert!(download.record.tried.len() <= limits::FAILOVER_USERS);
            assert_eq!(d.users[&download.record.user].paths[download.record.path.as_str()], *id);
        }
        let phase = |f: fn(&Phase) -> bool| d.live.values().filter(|download| f(&download.phase)).count();
        assert_eq!(phase(|p| matches!(p, Phase::Ready)), d.users.values().map(|user| user.ready.len()).sum::<usize>());
        assert_eq!(phase(|p| matches!(p, Phase::Asked { .. })), d.users.values().map(|user| user.asked).sum::<usize>());
        assert_eq!(phase(|p| matches!(p, Phase::Agreed(_))), d.tokens.len());
        assert_eq!(phase(|p| matches!(p, Phase::Agreed(_) | Phase::Receiving(_))), d.active.len());
        assert_eq!(phase(|p| matches!(p, Phase::Seeking { .. })), d.seeking.len() + d.seekers.len());
        assert_eq!(d.users.values().map(|user| user.paths.len()).sum::<usize>(), d.live.len());
        assert!(d.users.values().filter(|user| user.watched).count() <= WATCHED_USERS);
    }

    fn request(user: &str, files: &[(&str, u64)]) -> EnqueueRequest {
        EnqueueRequest {
            user: user.into(),
            files: files.iter().map(|(path, size)| ((*path).into(), *size)).collect(),
            batch: None,
            search: None,
            destination: None,
            external: None,
        }
    }

    fn enqueue(&mut self, request: EnqueueRequest) -> Vec<String> {
        self.with(|d, turn| d.enqueue(CommandId(1), request, turn));
        self.drain()
    }

    /// Wants one file; its id.
    fn want(&mut self, user: &str, path: &str, size: u64) -> TransferId {
        self.enqueue(Self::request(user, &[(path, size)]));
        *self.ids.last().unwrap()
    }

    fn hear(&mut self, user: &str, message: &PeerMessage) -> Vec<String> {
        assert!(self.with(|d, turn| d.on_peer_message(&user.into(), message, turn)));
        self.drain()
    }

    fn offer(&mut self, user: &str, token: u32, path: &str, size: u64) -> Vec<String> {
        let message =
            PeerMessage::TransferRequest { upload: true, token: Token(token), path: path.into(), size: Some(size) };
        self.hear(user, &message)
    }

    fn deny(&mut self, user: &str, path: &str, reason: &str) -> Vec<String> {
        self.hear(user, &PeerMessage::UploadDenied { path: path.into(), reason: reason.into() })
    }

    fn connect(&mut self, user: &str, token: u32) -> Vec<String> {
        assert!(self.with(|d, turn| d.on_file_token(&user.into(), ConnId(u64::from(token)), Token(token), turn)));
        self.drain()
    }

    fn event(&mut self, id: TransferId, event: FileEvent) -> Vec<String> {
        self.with(|d, turn| d.on_file_event(id, event, turn));
        self.drain()
    }

    fn end(&mut self, id: TransferId, end: ReceiveEnd) -> Vec<String> {
        self.event(id, FileEvent::Received(end))
    }

    /// Offer, connection, first bytes from `offset`.
    fn begin(&mut self, id: TransferId, user: &str, token: u32, offset: u64) {
        let record = self.record(id);
        let answer = self.offer(user, token, record.path.as_str(), record.size);
        assert!(answer.contains(&format!("41 {user} {token} ok None")), "{answer:?}");
        self.connect(user, token);
        self.event(id, FileEvent::Started { offset });
    }

    /// Live, or as stored.
    fn record(&self, id: TransferId) -> Transfer {
        self.downloads.get(id).unwrap_or(&self.stored[&id]).clone()
    }

    fn state(&self, id: TransferId) -> &'static str {
        self.record(id).state.name()
    }

    fn reason(&self, id: TransferId) -> String {
        self.record(id).reason.unwrap_or_default()
    }

    fn candidate(user: &str, path: &str, size: u64) -> Candidate {
        Candidate { user: user.into(), path: path.into(), size, free_slot: false, speed: 1, queue: 0 }
    }

    fn candidates(&mut self, id: TransferId, candidates: Vec<Candidate>) -> Vec<String> {
        self.with(|d, turn| d.on_candidates(id, candidates, turn));
        self.drain()
    }

    fn unreachable(&mut self, user: &str, id: TransferId, offline: bool) -> Vec<String> {
        self.with(|d, turn| d.on_unreachable(&user.into(), About::Download(id), offline, turn));
        self.drain()
    }
}

const NONE: [&str; 0] = [];

#[test]
fn a_download_from_wish_to_place() {
    let mut desk = Desk::online();
    let path = "music\\Album\\01 Song.flac";
    let lines = desk.enqueue(Desk::request("bob", &[(path, 4 * MIB)]));
    assert_eq!(lines, ["watch bob", "enqueued 1 failed []", "43 bob music\\Album\\01 Song.flac"]);
    let id = desk.ids[0];
    assert_eq!(desk.state(id), "Queued, Remotely");
    assert_eq!(desk.record(id).attempts, 1);
    assert_eq!(desk.offer("bob", 77, path, 4 * MIB), ["41 bob 77 ok None"]);
    assert_eq!(desk.state(id), "Initializing");
    assert_eq!(desk.connect("bob", 77), [format!("receive 77 fresh {}", 4 * MIB)]);
    desk.event(id, FileEvent::Started { offset: 0 });
    assert_eq!(desk.state(id), "InProgress");
    desk.pass(2);
    desk.event(id, FileEvent::Progress { position: 2 * MIB });
    assert_eq!(desk.record(id).average_speed, MIB);
    let flow = desk.downloads.flow(desk.now);
    assert_eq!((flow.active, flow.queued, flow.speed, flow.bytes), (1, 0, MIB, 2 * MIB));
    desk.event(id, FileEvent::Synced { synced: 2 * MIB, boot: 9 });
    assert_eq!(desk.stored[&id].partial.as_ref().map(|p| (p.synced, p.boot)), Some((2 * MIB, 9)));
    assert_eq!(desk.end(id, ReceiveEnd::Complete), ["place Album/01 Song.flac false"]);
    assert_eq!(desk.downloads.flow(desk.now).active, 0, "the slot is free while the file is being placed");
    assert_eq!(desk.event(id, FileEvent::Placed(Ok("/d/Album/01 Song.flac".to_owned()))), ["unwatch bob"]);
    assert_eq!(desk.finished, [id]);
    let record = desk.record(id);
    assert_eq!(record.state.name(), "Completed, Succeeded");
    assert_eq!((record.rung, record.partial), (Some(crate::model::transfer::Rung::SingleSource), None));
    assert_eq!(record.local_path.as_deref(), Some("/d/Album/01 Song.flac"));
    assert!(desk.downloads.is_empty() && desk.downloads.next_timeout().is_none());
    assert_eq!(desk.downloads.flow(desk.now).succeeded, 1);
    assert_eq!(desk.offer("bob", 78, path, 4 * MIB), ["41 bob 78 Complete"]);
    assert_eq!(desk.offer("eve", 79, path, 4 * MIB), ["41 eve 79 Cancelled"]);
}

#[test]
fn a_refusal_while_bytes_flow_counts_at_their_end() {
    for (reason, state) in [("Cancelled", "Completed, Rejected"), ("Queued", "Queued, Locally")] {
        let mut desk = Desk::online();
        desk.settings.failover = false;
        let id = desk.want("bob", "a\\b.flac", 1000);
        desk.begin(id, "bob", 7, 0);
        assert_eq!(desk.deny("bob", "a\\b.flac", reason), NONE);
        assert_eq!(desk.state(id), "InProgress");
        desk.end(id, ReceiveEnd::Closed { position: 10 });
        assert_eq!(desk.state(id), state, "{reason}");
        // Or heard after it.
        let id = desk.want("bob", "a\\c.flac", 1000);
        desk.begin(id, "bob", 8, 0);
        desk.end(id, ReceiveEnd::Closed { position: 10 });
        desk.deny("bob", "a\\c.flac", reason);
        assert_eq!(desk.state(id), state, "{reason}");
    }
}

#[test]
fn messages_about_other_things_are_left_to_others() {
    let mut desk = Desk::online();
    for message in [
        PeerMessage::GetSharedFileList,
        PeerMessage::QueueUpload { path: "x".into() },
        PeerMessage::TransferRequest { upload: false, token: Token(1), path: "x".into(), size: None },
        PeerMessage::TransferResponse { token: Token(1), answer: Ok(None) },
    ] {
        assert!(!desk.with(|d, turn| d.on_peer_message(&"bob".into(), &message, turn)), "{message:?}");
    }
    assert!(!desk.with(|d, turn| d.on_file_token(&"bob".into(), ConnId(1), Token(1), turn)));
    assert_eq!(desk.drain(), NONE);
}

#[test]
fn every_message_in_every_phase_keeps_the_books() {
    // Random scripts: `drain` checks the books after every step, and `pass` that every wait has an end.
    for seed in 0..300 {
        let mut desk = Desk::online();
        desk.settings.failover = seed % 2 == 0;
        desk.settings.download_slots = 2;
        let mut dice = Chance::new(seed);
        let users = ["ann", "bob", "cyd"];
        let paths = ["a\\Café.flac", "a\\Song.mp3", "b\\3.ogg"];
        for step in 0..120_u32 {
            let user = users[usize::try_from(dice.below(3)).unwrap()];
            let path = paths[usize::try_from(dice.below(3)).unwrap()];
            let live: Vec<TransferId> = desk.downloads.live.keys().copied().collect();
            let at = usize::try_from(dice.below(live.len() as u64)).unwrap();
            let id = live.get(at).copied();
            let tokens: Vec<(Username, Token)> = desk.downloads.tokens.keys().cloned().collect();
            let receiving: Vec<TransferId> = desk
                .downloads
                .live
                .iter()
                .filter(|(_, download)| matches!(download.phase, Phase::Receiving(_)))
                .map(|(id, _)| *id)
                .chain(desk.downloads.leaving.keys().copied())
                .collect();
            match (dice.below(16), id) {
                (0 | 1, _) => {
                    desk.enqueue(Desk::request(user, &[(path, 1000)]));
                }
                (2 | 3, _) => {
                    desk.offer(user, step, path, 1000);
                }
                (4, _) => {
                    let reasons = ["Queued", "Too many files", "File not shared.", "Banned", "Pending shutdown."];
                    desk.deny(user, path, reasons[usize::try_from(dice.below(5)).unwrap()]);
                }
                (5, _) => {
                    desk.hear(user, &PeerMessage::UploadFailed { path: path.into() });
                }
                (6 | 7, _) if !tokens.is_empty() => {
                    let (user, token) = &tokens[0];
                    desk.connect(user.as_str(), token.0);
                }
                (8 | 9, _) if !receiving.is_empty() => {
                    let ends = [
                        ReceiveEnd::Complete,
                        ReceiveEnd::Closed { position: 10 },
                        ReceiveEnd::OverlapDiffers,
                        ReceiveEnd::DiskFull { position: 10 },
                        ReceiveEnd::DiskError("io".to_owned()),
                        ReceiveEnd::Stopped { position: 10 },
                    ];
                    let end = ends[usize::try_from(dice.below(6)).unwrap()].clone();
                    desk.event(receiving[0], FileEvent::Started { offset: dice.below(3) * 400 });
                    desk.end(receiving[0], end);
                }
                (10, Some(id)) => {
                    let results = [
                        Ok("/x".to_owned()),
                        Err(crate::engine::soulseek::io::PlaceError::DiskFull),
                        Err(crate::engine::soulseek::io::PlaceError::CheckFailed("crc".to_owned())),
                        Err(crate::engine::soulseek::io::PlaceError::Disk("io".to_owned())),
                    ];
                    desk.event(id, FileEvent::Placed(results[usize::try_from(dice.below(4)).unwrap()].clone()));
                }
                (11, Some(id)) => {
                    let user = desk.record(id).user;
                    desk.unreachable(user.as_str(), id, dice.below(2) == 0);
                }
                (12, Some(id)) => match dice.below(3) {
                    0 => assert!(desk.with(|d, turn| d.cancel(CommandId(2), id, dice.below(2) == 0, turn))),
                    1 => assert!(desk.with(|d, turn| d.retry(CommandId(3), id, turn))),
                    _ => assert!(desk.with(|d, turn| d.place(CommandId(u64::from(step)), id, turn))),
                },
                (13, Some(id)) => {
                    let found = Desk::candidate(user, path, 1000);
                    desk.candidates(id, if dice.below(2) == 0 { vec![found] } else { Vec::new() });
                }
                (14, _) => match dice.below(4) {
                    0 => desk.with(Downloads::on_logged_out),
                    1 => desk.with(|d, turn| d.on_user_status(&user.into(), false, turn)),
                    2 => desk.with(|d, turn| d.on_user_status(&user.into(), true, turn)),
                    _ => desk.with(Downloads::on_logged_in),
                },
                _ => desk.pass(dice.below(200)),
            }
            desk.drain();
        }
    }
}
