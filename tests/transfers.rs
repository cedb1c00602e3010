//! Downloads and searches together, over their public doors: a source that fails is replaced by one that a search
//! found, and the bytes at hand are kept.

use std::time::Duration;

use slskdn::engine::soulseek::chance::Chance;
use slskdn::engine::soulseek::downloads::{Downloads, Turn};
use slskdn::engine::soulseek::effect::{Effect, Effects};
use slskdn::engine::soulseek::io::{Action, Begin, EnqueueRequest, FileAction, FileEvent, Notice, ReceiveEnd, Reply};
use slskdn::engine::soulseek::peer::{PeerMessage, RemoteFile, SearchReply};
use slskdn::engine::soulseek::searches::{SearchEvent, Searches};
use slskdn::engine::soulseek::server::ToServer;
use slskdn::engine::soulseek::{Secret, Settings};
use slskdn::model::id::{CommandId, ConnId, Token, TransferId};
use slskdn::model::music::WireText;
use slskdn::model::time::{Now, UnixMs};
use slskdn::model::transfer::Rung;

const SIZE: u64 = 30_000_000;

struct Box {
    downloads: Downloads,
    searches: Searches,
    settings: Settings,
    chance: Chance,
    out: Effects,
    now: Now,
    /// What others have to be told, in the order it was wished.
    log: Vec<Effect>,
}

impl Box {
    fn new() -> Self {
        let settings = Settings {
            username: "me".into(),
            password: Secret::default(),
            listen_port: 50_300,
            description: String::new(),
            upload_slots: 2,
            download_slots: 2,
            user_queue_files: 0,
            user_queue_mib: 0,
            queue_files: 0,
            queue_mib: 0,
            banned: Vec::new(),
            children_max: 0,
            upload_limit: None,
            download_attempts_max: 2,
            failover: true,
            private_ranges: Vec::new(),
        };
        Self {
            downloads: Downloads::new(),
            searches: Searches::new(),
            settings,
            chance: Chance::new(1),
            out: Effects::new(),
            now: Now { mono: Duration::from_secs(60), wall: UnixMs(1_700_000_000_000) },
            log: Vec::new(),
        }
    }

    /// One input, and everything the two machines have to tell each other because of it.
    fn with(&mut self, f: impl FnOnce(&mut Downloads, &mut Searches, &mut Turn<'_>)) {
        let mut turn = Turn { now: self.now, settings: &self.settings, chance: &mut self.chance, out: &mut self.out };
        f(&mut self.downloads, &mut self.searches, &mut turn);
        loop {
            while let Some(event) = self.searches.pop_event() {
                let SearchEvent::Candidates { transfer, candidates } = event;
                self.downloads.on_candidates(transfer, candidates, &mut turn);
            }
            match turn.out.pop() {
                Some(Effect::Failover { transfer, query }) => self.searches.seek(transfer, &query, &mut turn),
                Some(effect) => self.log.push(effect),
                None => break,
            }
        }
    }

    fn pass(&mut self, seconds: u64) {
        let end = self.now.mono + Duration::from_secs(seconds);
        let next = |this: &Self| {
            [this.downloads.next_timeout(), this.searches.next_timeout()]
                .into_iter()
                .flatten()
                .min()
                .filter(|at| *at <= end)
        };
        while let Some(at) = next(self) {
            self.now.mono = self.now.mono.max(at);
            self.with(|downloads, searches, turn| {
                downloads.on_timeout(turn);
                searches.on_timeout(turn);
            });
        }
        self.now.mono = end;
    }

    fn last_token(&self) -> Token {
        let search = self.log.iter().rev().find_map(|effect| match effect {
            Effect::ToServer(ToServer::FileSearch { token, .. }) => Some(*token),
            _ => None,
        });
        search.expect("a search was sent")
    }

    fn begins(&self) -> Vec<&Begin> {
        let begin = |effect| match effect {
            &Effect::Act(Action::File(FileAction::Receive { ref begin, .. })) => Some(begin),
            _ => None,
        };
        self.log.iter().filter_map(begin).collect()
    }

    /// The user offers the file, connects and sends up to `end`.
    fn receive(&mut self, id: TransferId, user: &str, path: &WireText, token: u32, from: u64, end: ReceiveEnd) {
        let token = Token(token);
        let offer = PeerMessage::TransferRequest { upload: true, token, path: path.clone(), size: Some(SIZE) };
        self.with(|downloads, _, turn| {
            assert!(downloads.on_peer_message(&user.into(), &offer, turn));
            assert!(downloads.on_file_token(&user.into(), ConnId(1), token, turn));
            downloads.on_file_event(id, FileEvent::Started { offset: from }, turn);
            downloads.on_file_event(id, FileEvent::Received(end), turn);
        });
    }
}

#[test]
fn a_failing_source_is_replaced_by_one_that_a_search_finds() {
    let mut this = Box::new();
    this.with(|downloads, searches, turn| {
        searches.on_logged_in(turn);
        downloads.on_logged_in(turn);
    });
    let path = WireText::from("music\\Blue Album\\03 Night Song.flac");
    let request = EnqueueRequest {
        user: "bob".into(),
        files: vec![(path.clone(), SIZE)],
        batch: None,
        search: None,
        destination: None,
        external: None,
    };
    this.with(|downloads, _, turn| downloads.enqueue(CommandId(1), request, turn));
    let accepted = this.log.iter().find_map(|effect| match effect {
        Effect::Act(Action::Reply(_, Reply::Enqueued { accepted, .. })) => Some(accepted[0]),
        _ => None,
    });
    let id = accepted.expect("the file is wanted");

    this.receive(id, "bob", &path, 1, 0, ReceiveEnd::Closed { position: 9_000_000 });
    this.pass(40);
    this.receive(id, "bob", &path, 2, 9_000_000, ReceiveEnd::Closed { position: 12_000_000 });
    assert!(matches!(this.begins()[..], [Begin::Fresh, Begin::Continue(_)]));

    // Two attempts were allowed: others are looked for.
    let token = this.last_token();
    let other = WireText::from("flac\\Night Song.flac");
    let file = |name: &WireText, size| RemoteFile {
        code: 1,
        name: name.clone(),
        size,
        extension: WireText::default(),
        attributes: Vec::new(),
    };
    for (user, size) in [("ann", SIZE + 1), ("cyd", SIZE), ("bob", SIZE)] {
        let reply = SearchReply { user: user.into(), token, files: vec![file(&other, size)], ..SearchReply::default() };
        this.with(|_, searches, turn| searches.on_reply(reply, turn));
    }
    this.pass(12);
    assert_eq!(this.downloads.get(id).map(|record| record.user.as_str()), Some("cyd"));
    this.receive(id, "cyd", &other, 3, 12_000_000, ReceiveEnd::Complete);
    assert!(matches!(this.begins()[2], Begin::Join(partial) if partial.first_user.as_str() == "bob"));
    let placed = this.log.iter().find_map(|effect| match effect {
        Effect::Act(Action::File(FileAction::Place { folder, name, check, .. })) => Some((folder, name, *check)),
        _ => None,
    });
    // In the folder it was asked for in; a join is checked before it counts.
    assert_eq!(placed, Some((&"Blue Album".to_owned(), &"Night Song.flac".to_owned(), true)));
    this.log.clear();
    this.with(|downloads, _, turn| downloads.on_file_event(id, FileEvent::Placed(Ok("/x".to_owned())), turn));
    assert!(
        this.log
            .iter()
            .any(|e| matches!(e, Effect::Act(Action::Notice(Notice::DownloadFinished(done))) if *done == id))
    );
    let stored = this.log.iter().find_map(|effect| match effect {
        Effect::Act(Action::Store(changes)) => changes.iter().find_map(|change| match change {
            slskdn::model::record::Change::Transfer(record) => Some(record.rung),
            _ => None,
        }),
        _ => None,
    });
    assert_eq!(stored, Some(Some(Rung::JoinedByOverlap)));
}
