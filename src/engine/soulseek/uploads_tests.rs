use super::*;
use crate::engine::soulseek::Secret;
use crate::engine::soulseek::chance::Chance;
use crate::engine::soulseek::io::{Action, ShareAsk, SharedLocation};
use crate::model::record::Change;
use crate::model::time::UnixMs;

pub(super) fn settings() -> Settings {
    Settings {
        username: Username::from("me"),
        password: Secret::default(),
        listen_port: 1,
        description: String::new(),
        upload_slots: 2,
        download_slots: 2,
        user_queue_files: 4,
        user_queue_mib: 10,
        queue_files: 6,
        queue_mib: 100,
        banned: vec![Username::from("villain")],
        children_max: 0,
        upload_limit: None,
        download_attempts_max: 3,
        failover: false,
        private_ranges: Vec::new(),
    }
}

struct Rig {
    uploads: Uploads,
    settings: Settings,
    chance: Chance,
    now: Now,
    told: Vec<String>,
    kept: Vec<Transfer>,
    asks: Vec<(Username, WireText)>,
    opened: Vec<TransferId>,
}

impl Rig {
    fn new() -> Self {
        let now = Now { mono: Duration::from_secs(10), wall: UnixMs(1_000_000) };
        let (uploads, chance) = (Uploads::new(100), Chance::new(7));
        let (told, kept, asks, opened) = Default::default();
        let mut rig = Self { uploads, settings: settings(), chance, now, told, kept, asks, opened };
        rig.act(|uploads, settings, _, now, out| uploads.on_logged_in(settings, now, out));
        rig
    }

    /// Does something and carries the effects away: what users are told as text, records, look-ups, connections.
    fn act(&mut self, act: impl FnOnce(&mut Uploads, &Settings, &mut Chance, Now, &mut Effects)) -> &mut Self {
        let mut out = Effects::new();
        act(&mut self.uploads, &self.settings, &mut self.chance, self.now, &mut out);
        while let Some(effect) = out.pop() {
            match effect {
                Effect::ToUser { user, message, .. } => self.told.push(match message {
                    PeerMessage::UploadDenied { path, reason } => format!("{user} denied {path}: {reason}"),
                    PeerMessage::TransferRequest { token, path, .. } => format!("{user} offered {path} {token}"),
                    PeerMessage::PlaceInQueueResponse { path, place } => format!("{user} place {path} {place}"),
                    PeerMessage::UploadFailed { path } => format!("{user} failed {path}"),
                    PeerMessage::TransferResponse { answer: Err(reason), .. } => format!("{user} answered {reason}"),
                    other => format!("{other:?}"),
                }),
                Effect::Act(Action::Share(ShareAsk::File { user, path })) => self.asks.push((user, path)),
                Effect::Act(Action::Store(changes)) => {
                    for change in changes {
                        let Change::Transfer(transfer) = change else { panic!("{change:?}") };
                        self.kept.push(*transfer);
                    }
                }
                Effect::OpenFile { transfer, .. } => self.opened.push(transfer),
                Effect::ToServer(message) => self.told.push(format!("{message:?}")),
                Effect::Act(Action::File(action)) => self.told.push(match action {
                    FileAction::Send { size, .. } => format!("send {size}"),
                    FileAction::Stop { .. } => "stop".to_owned(),
                    other => format!("{other:?}"),
                }),
                Effect::Act(Action::Reply(_, reply)) => self.told.push(format!("{reply:?}")),
                Effect::Hang(_) => self.told.push("hang".to_owned()),
                Effect::Act(Action::Notice(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        self
    }

    fn says(&mut self, user: &str, message: &PeerMessage) -> &mut Self {
        self.act(|uploads, settings, _, now, out| {
            assert!(uploads.on_peer_message(&Username::from(user), message, settings, now, out));
        })
    }

    fn asks(&mut self, user: &str, path: &str) -> &mut Self {
        self.says(user, &PeerMessage::QueueUpload { path: path.into() })
    }

    /// Answers every look-up with a file of this size.
    fn found(&mut self, size: u64) -> &mut Self {
        self.answer(Some(size))
    }

    fn answer(&mut self, size: Option<u64>) -> &mut Self {
        for (user, path) in std::mem::take(&mut self.asks) {
            let location = size.map(|size| SharedLocation { local_path: format!("/music/{path}").into(), size });
            self.act(|uploads, settings, chance, now, out| {
                uploads.on_found(&user, &path, location, settings, chance, now, out);
            });
        }
        self
    }

    fn told(&mut self, want: &[&str]) -> &mut Self {
        assert_eq!(std::mem::take(&mut self.told), want);
        self
    }

    fn later(&mut self, seconds: u64) -> &mut Self {
        self.now.mono += Duration::from_secs(seconds);
        self.act(|uploads, settings, _, now, out| uploads.on_timeout(settings, now, out))
    }

    fn file(&mut self, id: TransferId, event: &FileEvent) -> &mut Self {
        self.act(|uploads, settings, _, now, out| uploads.on_file_event(id, event, settings, now, out))
    }

    fn sending(&mut self, user: &str, path: &str, token: u32) -> TransferId {
        self.asks(user, path).found(1_000).told(&[&format!("{user} offered {path} {token}")]);
        self.says(user, &PeerMessage::TransferResponse { token: Token(token), answer: Ok(None) });
        let id = self.opened.pop().unwrap();
        self.act(|uploads, _, _, now, out| uploads.on_file_opened(id, ConnId(1), now, out)).told(&["send 1000"]);
        id
    }
}

#[test]
fn a_file_goes_out_and_is_recorded() {
    let mut rig = Rig::new();
    let id = rig.sending("ann", "a", 101);
    rig.file(id, &FileEvent::Started { offset: 400 });
    rig.now.mono += Duration::from_secs(2);
    rig.file(id, &FileEvent::Progress { position: 700 });
    assert_eq!((rig.uploads.get(id).unwrap().average_speed, rig.uploads.flow().bytes), (150, 300));
    rig.file(id, &FileEvent::Sent(SendEnd::Complete { offset: 400 })).told(&["SendUploadSpeed { speed: 300 }"]);
    let kept = rig.kept.pop().unwrap();
    assert_eq!(
        (kept.state, kept.bytes_done, kept.start_offset),
        (TransferState::Completed(Ending::Succeeded), 1_000, 400)
    );
    assert_eq!((rig.uploads.iter().count(), rig.uploads.flow().succeeded), (0, 1));
}

#[test]
fn what_is_not_shared_or_too_much_is_denied() {
    let mut rig = Rig::new();
    rig.asks("ann", "secret");
    let (user, path) = rig.asks.pop().unwrap();
    rig.act(|uploads, settings, chance, now, out| uploads.on_found(&user, &path, None, settings, chance, now, out));
    rig.told(&["ann denied secret: File not shared."]);
    rig.asks("villain", "a").told(&["villain denied a: Banned"]);
    for path in ["1", "2", "3", "4", "5"] {
        rig.asks("ann", path);
    }
    rig.told(&["ann denied 5: Too many files"]);
    rig.found(4 << 20).told(&[
        "ann offered 1 101",
        "ann denied 3: Too many megabytes",
        "ann denied 4: Too many megabytes",
    ]);
    assert_eq!((rig.uploads.active(), rig.uploads.queued()), (1, 1));
}

#[test]
fn one_file_above_the_megabytes_is_still_given_to_an_idle_user() {
    let mut rig = Rig::new();
    rig.asks("ann", "huge").found(50 << 20).told(&["ann offered huge 101"]);
}

#[test]
fn asking_twice_changes_nothing() {
    let mut rig = Rig::new();
    rig.asks("ann", "a").asks("ann", "a");
    assert_eq!(rig.asks.len(), 1);
    rig.found(1).asks("ann", "a");
    assert_eq!((rig.asks.len(), rig.uploads.iter().count()), (0, 1));
}

#[test]
fn legacy_requests_are_answered_queued_and_then_offered() {
    let mut rig = Rig::new();
    let request = PeerMessage::TransferRequest { upload: false, token: Token(9), path: "a".into(), size: None };
    rig.says("old", &request).found(5).told(&["old answered Queued", "old offered a 101"]);
    rig.says("old", &request).told(&["old answered Queued"]);
}

#[test]
fn users_share_the_slots_and_learn_their_place() {
    let mut rig = Rig::new();
    rig.asks("ann", "1").asks("ann", "2").asks("bob", "3").asks("cid", "4").found(1);
    rig.told(&["ann offered 1 101", "bob offered 3 102"]);
    rig.says("ann", &PeerMessage::PlaceInQueueRequest { path: "2".into() }).told(&["ann place 2 1"]);
    rig.says("cid", &PeerMessage::PlaceInQueueRequest { path: "4".into() }).told(&["cid place 4 2"]);
    rig.says("bob", &PeerMessage::PlaceInQueueRequest { path: "3".into() }).told(&[]);
    // Ann has one running, so Cid is next although Ann asked earlier.
    let refusal = PeerMessage::TransferResponse { token: Token(102), answer: Err("Cancelled".into()) };
    rig.says("bob", &refusal).told(&["cid offered 4 103"]);
}

#[test]
fn a_user_without_free_slots_is_asked_again_later() {
    let mut rig = Rig::new();
    rig.asks("ann", "a").found(1).told(&["ann offered a 101"]);
    let queued = PeerMessage::TransferResponse { token: Token(101), answer: Err("Queued".into()) };
    rig.says("ann", &queued).told(&[]);
    rig.later(59).told(&[]).later(2).found(1).told(&["ann offered a 102"]);
}

#[test]
fn every_stage_has_a_deadline() {
    let mut rig = Rig::new();
    rig.asks("ann", "a").found(1).told(&["ann offered a 101"]).later(31).told(&[]);
    assert_eq!(rig.kept.pop().unwrap().state, TransferState::Completed(Ending::TimedOut));
    rig.asks("ann", "a").found(1).told(&["ann offered a 102"]);
    rig.says("ann", &PeerMessage::TransferResponse { token: Token(102), answer: Ok(None) });
    let id = rig.opened.pop().unwrap();
    rig.later(61).told(&["ann failed a"]);
    rig.act(|uploads, _, _, now, out| uploads.on_file_opened(id, ConnId(1), now, out)).told(&["hang"]);
    let id = rig.sending("ann", "b", 103);
    rig.later(121).told(&["stop"]);
    rig.file(id, &FileEvent::Sent(SendEnd::Stopped));
    assert_eq!(rig.uploads.next_timeout(), None);
}

#[test]
fn failures_are_told_and_the_next_one_starts() {
    let mut rig = Rig::new();
    rig.settings.upload_slots = 1;
    let id = rig.sending("ann", "a", 101);
    rig.asks("bob", "b").found(1).told(&[]);
    rig.file(id, &FileEvent::Sent(SendEnd::FileError("gone".to_owned())));
    rig.told(&["ann denied a: File read error.", "bob offered b 102"]);
    let offer = rig.uploads.iter().next().unwrap().id;
    rig.act(|uploads, settings, _, now, out| uploads.on_unreachable(offer, true, settings, now, out));
    assert_eq!(rig.kept.pop().unwrap().reason.as_deref(), Some("the user is offline"));
}

#[test]
fn the_owner_and_bans_end_what_runs() {
    let mut rig = Rig::new();
    let id = rig.sending("ann", "a", 101);
    rig.act(|uploads, settings, _, now, out| assert!(uploads.cancel(CommandId(1), id, true, settings, now, out)));
    rig.told(&["stop", "ann denied a: Cancelled", "Done"]);
    assert!(rig.kept.pop().unwrap().removed);
    rig.sending("bob", "b", 102);
    rig.settings.banned.push(Username::from("bob"));
    rig.act(|uploads, settings, _, now, out| uploads.on_settings(settings, now, out));
    rig.told(&["stop", "bob denied b: Banned"]);
}

#[test]
fn without_the_server_everybody_keeps_the_place() {
    let mut rig = Rig::new();
    for user in ["bob", "cyd", "dan"] {
        rig.asks(user, "a").found(1);
    }
    rig.told.clear();
    rig.act(|uploads, _, _, _, _| uploads.on_logged_out());
    let offered: Vec<TransferId> = rig.uploads.all.keys().copied().collect();
    for id in offered {
        rig.act(|uploads, settings, _, now, out| uploads.on_unreachable(id, false, settings, now, out));
    }
    rig.later(600);
    assert_eq!((rig.uploads.queued(), rig.kept.len()), (3, 0));
    rig.told(&[]);
    rig.act(|uploads, settings, _, now, out| uploads.on_logged_in(settings, now, out)).found(1);
    assert_eq!((rig.uploads.active(), rig.told.len()), (2, 2), "{:?}", rig.told);
}

#[test]
fn what_was_unshared_while_it_waited_is_not_sent() {
    let mut rig = Rig::new();
    rig.settings.upload_slots = 1;
    let first = rig.sending("ann", "a", 101);
    rig.asks("bob", "gone").asks("cid", "changed").found(1).told(&[]);
    rig.now.mono += Duration::from_secs(60);
    rig.file(first, &FileEvent::Sent(SendEnd::Complete { offset: 1_000 })).told(&[]);
    assert_eq!(rig.asks, [(Username::from("bob"), WireText::from("gone"))]);
    assert_eq!(rig.uploads.active(), 1, "the slot is held meanwhile");
    rig.answer(None).told(&["bob denied gone: File not shared."]);
    assert_eq!(rig.kept.pop().unwrap().state, TransferState::Completed(Ending::Rejected));
    rig.answer(Some(7)).told(&["cid offered changed 102"]);
    assert_eq!(rig.uploads.iter().map(|transfer| transfer.size).collect::<Vec<_>>(), [7]);
}

#[test]
fn look_ups_that_are_never_answered_are_given_up() {
    let mut rig = Rig::new();
    rig.asks("ann", "a");
    rig.asks.clear();
    rig.later(29).told(&[]).later(1).told(&["ann denied a: File read error."]);
    assert_eq!(rig.uploads.next_timeout(), None);
    // The second look-up, when the slot is there.
    rig.settings.upload_slots = 0;
    rig.asks("ann", "a").found(1).later(60);
    rig.settings.upload_slots = 1;
    rig.act(|uploads, settings, _, now, out| uploads.on_settings(settings, now, out)).told(&[]);
    rig.later(30).told(&["ann denied a: File read error."]);
    assert_eq!((rig.uploads.iter().count(), rig.uploads.next_timeout()), (0, None));
}

#[test]
fn who_never_has_room_is_offered_ever_more_rarely_and_who_asks_again_at_once() {
    let mut rig = Rig::new();
    rig.asks("ann", "a").found(1).told(&["ann offered a 101"]);
    let queued = |token| PeerMessage::TransferResponse { token: Token(token), answer: Err("Queued".into()) };
    let mut token = 101;
    for pause in [60, 120, 240, 480, 960, 1_800, 1_800] {
        rig.says("ann", &queued(token)).told(&[]);
        rig.later(pause - 1).told(&[]).later(1).found(1);
        token += 1;
        rig.told(&[&format!("ann offered a {token}")]);
    }
    rig.says("ann", &queued(token)).told(&[]);
    rig.asks("ann", "a").told(&[&format!("ann offered a {}", token + 1)]);
}

#[test]
fn who_takes_next_to_nothing_loses_the_slot() {
    let mut rig = Rig::new();
    rig.settings.upload_slots = 1;
    let drip = |rig: &mut Rig, id, from: u64, step: u64| {
        for minute in 1..=10 {
            rig.now.mono += Duration::from_secs(60);
            rig.file(id, &FileEvent::Progress { position: from + minute * step });
        }
    };
    let id = rig.sending("ann", "a", 101);
    rig.asks("bob", "b").found(1);
    rig.file(id, &FileEvent::Started { offset: 1_000 });
    drip(&mut rig, id, 1_000, 60 * 1_024);
    rig.told(&[]);
    // The same with a speed limit of ours that leaves little.
    rig.settings.upload_limit = Some(4_000);
    drip(&mut rig, id, 700_000, 1);
    rig.told(&[]);
    rig.settings.upload_limit = Some(5_000);
    drip(&mut rig, id, 700_010, 60 * 1_023);
    rig.found(1).told(&["stop", "ann failed a", "bob offered b 102"]);
    let kept = rig.kept.pop().unwrap();
    assert_eq!(kept.state, TransferState::Completed(Ending::TimedOut));
    assert_eq!(kept.reason.as_deref(), Some("taken more slowly than 1024 bytes/s"));
}
