use std::net::Ipv4Addr;

use super::*;
use crate::engine::soulseek::io::Action;
use crate::engine::soulseek::peer::RemoteFolder;
use crate::engine::soulseek::session::tests::settings;
use crate::model::time::UnixMs;

struct Rig {
    it: Inquiries,
    settings: Settings,
    chance: Chance,
    now: Now,
    out: Effects,
}

#[derive(Debug, PartialEq, Eq)]
enum Did {
    Reply(u64, Reply),
    Server(ToServer),
    Sent(PeerMessage, About),
    AskShareList(About),
    ShareListTo(Username),
    Index(ShareAsk),
}

impl Rig {
    fn new() -> Self {
        let mut it = Inquiries::new();
        it.on_logged_in(&"alice".into());
        let now = Now { mono: Duration::from_secs(100), wall: UnixMs(0) };
        let settings = Settings { description: "hello".to_owned(), ..settings() };
        Self { it, settings, chance: Chance::new(1), now, out: Effects::new() }
    }

    fn ask(&mut self, id: u64, user: &str, question: Question) {
        self.it.ask(CommandId(id), user.into(), question, &mut self.chance, self.now, &mut self.out);
    }

    fn server(&mut self, message: &FromServer) {
        self.it.on_server(message, self.now, &mut self.out);
    }

    fn peer(&mut self, user: &str, message: PeerMessage) {
        let standing = Standing { slots: 3, queue_length: 5, free_slot: true };
        self.it.on_peer(&user.into(), message, standing, &self.settings, self.now, &mut self.out);
    }

    fn pass(&mut self, secs: u64) {
        self.now.mono += Duration::from_secs(secs);
        if self.it.next_timeout().is_some_and(|due| due <= self.now.mono) {
            self.it.on_timeout(self.now, &mut self.out);
        }
        assert!(self.it.next_timeout().is_none_or(|due| due > self.now.mono), "a deadline stays behind");
    }

    fn did(&mut self) -> Vec<Did> {
        std::iter::from_fn(|| self.out.pop())
            .map(|effect| match effect {
                Effect::Act(Action::Reply(CommandId(id), reply)) => Did::Reply(id, reply),
                Effect::Act(Action::Share(ask)) => Did::Index(ask),
                Effect::ToServer(message) => Did::Server(message),
                Effect::ToUser { user, message, about } => {
                    assert_eq!(user.as_str(), "bob");
                    Did::Sent(message, about)
                }
                Effect::AskShareList { user, about } => {
                    assert_eq!(user.as_str(), "bob");
                    Did::AskShareList(about)
                }
                Effect::ShareListTo(user) => Did::ShareListTo(user),
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

fn refused(id: u64, refusal: Refusal) -> Did {
    Did::Reply(id, Reply::Refused(refusal))
}

fn info() -> PeerMessage {
    PeerMessage::UserInfoResponse(UserInfo { slots: 9, ..UserInfo::default() })
}

const STATS: UserStats = UserStats { average_speed: 1, uploads: 2, unknown: 0, files: 3, folders: 4 };

fn status_of(user: &str) -> FromServer {
    FromServer::GetUserStatus { user: user.into(), status: UserStatus::Away, privileged: true }
}

fn address_of(user: &str, ip: Ipv4Addr, port: u32) -> FromServer {
    FromServer::GetPeerAddress { user: user.into(), ip, port, obfuscation: None }
}

#[test]
fn several_who_ask_the_same_share_one_question() {
    let mut rig = Rig::new();
    rig.ask(1, "bob", Question::Info);
    rig.ask(2, "bob", Question::Info);
    rig.ask(3, "bob", Question::Browse);
    assert_eq!(
        rig.did(),
        [Did::Sent(PeerMessage::UserInfoRequest, About::Inquiry(1)), Did::AskShareList(About::Inquiry(2))]
    );
    rig.peer("carol", info());
    assert_eq!(rig.did(), []);
    rig.peer("bob", info());
    let reply = Reply::Info(UserInfo { slots: 9, ..UserInfo::default() });
    assert_eq!(rig.did(), [Did::Reply(1, reply.clone()), Did::Reply(2, reply)]);
    rig.peer("bob", PeerMessage::SharedFileList { folders: 6, files: 7 });
    assert_eq!(rig.did(), [Did::Reply(3, Reply::Browsed { folders: 6, files: 7 })]);
    rig.peer("bob", info());
    assert_eq!((rig.did(), rig.it.next_timeout()), (vec![], None));
    rig.ask(4, "bob", Question::Info);
    assert_eq!(rig.did().len(), 1, "a later one is a new question");
}

#[test]
fn folders_are_matched_by_user_token_and_name() {
    let mut rig = Rig::new();
    let latin1 = WireText::from_wire(b"Music\\Fj\xf6rd");
    rig.ask(1, "bob", Question::Folder(latin1.clone()));
    rig.ask(2, "bob", Question::Folder("Music\\B".into()));
    let did = rig.did();
    let tokens: Vec<Token> = did
        .iter()
        .map(|did| match did {
            Did::Sent(PeerMessage::FolderContentsRequest { token, .. }, _) => *token,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_ne!(tokens[0], tokens[1]);
    let folders = vec![RemoteFolder::default()];
    let response = |token, folder: &str, folders: &[RemoteFolder]| PeerMessage::FolderContentsResponse {
        token,
        folder: folder.into(),
        folders: folders.to_vec(),
    };
    rig.peer("bob", response(tokens[1], "Music\\Fj\u{f6}rd", &folders));
    rig.peer("bob", response(tokens[0], "Music\\B", &folders));
    rig.peer("carol", response(tokens[0], "Music\\Fj\u{f6}rd", &folders));
    assert_eq!(rig.did(), []);
    rig.peer("bob", response(tokens[0], "Music\\Fj\u{f6}rd", &folders));
    rig.peer("bob", response(tokens[1], "Music\\B", &[]));
    assert_eq!(rig.did(), [Did::Reply(1, Reply::Folder(folders)), refused(2, Refusal::NotFound)]);
}

#[test]
fn a_status_needs_two_answers_in_any_order() {
    let stats = FromServer::GetUserStats { user: "bob".into(), stats: STATS };
    let watched = FromServer::WatchUser { user: "bob".into(), found: Some((UserStatus::Online, STATS)), country: None };
    let reply = |stats| Reply::Status { status: UserStatus::Away, privileged: true, stats };
    for answers in [[status_of("bob"), stats.clone()], [stats, status_of("bob")], [status_of("bob"), watched]] {
        let mut rig = Rig::new();
        rig.ask(1, "bob", Question::Status);
        assert_eq!(
            rig.did(),
            [
                Did::Server(ToServer::GetUserStatus { user: "bob".into() }),
                Did::Server(ToServer::GetUserStats { user: "bob".into() })
            ]
        );
        rig.server(&status_of("carol"));
        rig.server(&answers[0]);
        assert_eq!(rig.did(), []);
        rig.server(&answers[1]);
        assert_eq!(rig.did(), [Did::Reply(1, reply(Some(STATS)))]);
    }
    // Figures may be missing.
    let mut rig = Rig::new();
    rig.ask(1, "bob", Question::Status);
    rig.server(&status_of("bob"));
    rig.did();
    rig.pass(3);
    assert_eq!(rig.did(), [Did::Reply(1, reply(None))]);
    rig.ask(2, "bob", Question::Status);
    rig.did();
    rig.server(&FromServer::WatchUser { user: "bob".into(), found: None, country: None });
    assert_eq!(rig.did(), [refused(2, Refusal::NotFound)]);
}

#[test]
fn endpoints() {
    let mut rig = Rig::new();
    let ip = Ipv4Addr::new(20, 0, 0, 1);
    rig.ask(1, "bob", Question::Endpoint);
    assert_eq!(rig.did(), [Did::Server(ToServer::GetPeerAddress { user: "bob".into() })]);
    rig.server(&address_of("carol", ip, 5));
    rig.server(&address_of("bob", ip, 2234));
    assert_eq!(rig.did(), [Did::Reply(1, Reply::Endpoint(SocketAddrV4::new(ip, 2234)))]);
    for (ip, port) in [(Ipv4Addr::UNSPECIFIED, 0), (ip, 65_536)] {
        rig.ask(2, "bob", Question::Endpoint);
        rig.did();
        rig.server(&address_of("bob", ip, port));
        assert_eq!(rig.did(), [refused(2, Refusal::UserOffline)]);
    }
}

#[test]
fn every_question_has_a_deadline() {
    let mut rig = Rig::new();
    rig.ask(1, "bob", Question::Info);
    rig.ask(2, "bob", Question::Folder("A".into()));
    rig.ask(3, "bob", Question::Status);
    rig.ask(4, "bob", Question::Endpoint);
    rig.ask(5, "bob", Question::Browse);
    rig.did();
    rig.pass(29);
    assert_eq!(rig.did(), []);
    rig.pass(1);
    assert_eq!(rig.did(), [1, 2, 3, 4].map(|id| refused(id, Refusal::TimedOut)));
    rig.pass(89);
    assert_eq!(rig.did(), []);
    rig.pass(1);
    assert_eq!(rig.did(), [refused(5, Refusal::TimedOut)]);
}

#[test]
fn unreachable_users_and_logging_out() {
    let mut rig = Rig::new();
    rig.ask(1, "bob", Question::Info);
    rig.ask(2, "bob", Question::Info);
    rig.ask(3, "bob", Question::Status);
    rig.ask(4, "bob", Question::Endpoint);
    rig.ask(5, "bob", Question::Browse);
    rig.did();
    rig.it.on_unreachable(1, &mut rig.out);
    rig.it.on_unreachable(1, &mut rig.out);
    assert_eq!(rig.did(), [refused(1, Refusal::UserOffline), refused(2, Refusal::UserOffline)]);
    rig.it.on_logged_out(&mut rig.out);
    assert_eq!(rig.did(), [refused(3, Refusal::NotConnected), refused(4, Refusal::NotConnected)]);
    rig.peer("bob", PeerMessage::SharedFileList { folders: 0, files: 0 });
    assert_eq!(rig.did(), [Did::Reply(5, Reply::Browsed { folders: 0, files: 0 })]);
    rig.ask(6, "bob", Question::Info);
    assert_eq!(rig.did(), [refused(6, Refusal::NotConnected)]);
}

#[test]
fn questions_that_make_no_sense_and_too_many() {
    let mut rig = Rig::new();
    rig.ask(1, "", Question::Info);
    rig.ask(2, &"x".repeat(257), Question::Info);
    rig.ask(3, "alice", Question::Browse);
    rig.ask(4, "bob", Question::Folder("x".repeat(5_000).into()));
    let did = rig.did();
    assert_eq!(did.len(), 4);
    assert!(did.iter().all(|did| matches!(did, Did::Reply(_, Reply::Refused(Refusal::Invalid(_))))), "{did:?}");
    rig.ask(5, "alice", Question::Endpoint);
    assert_eq!(rig.did().len(), 1);
    for id in 0..70 {
        rig.ask(100 + id, &format!("user{id}"), Question::Endpoint);
    }
    let full = |did: &Did| matches!(did, Did::Reply(_, Reply::Refused(Refusal::Full(_))));
    assert_eq!(rig.did().iter().filter(|did| full(did)).count(), 71 - limits::INQUIRIES);
    for id in 0..40 {
        rig.ask(200 + id, "alice", Question::Endpoint);
    }
    assert_eq!(rig.did().iter().filter(|did| full(did)).count(), 41 - limits::INQUIRY_ASKERS);
}

#[test]
fn says_who_we_are() {
    let mut rig = Rig::new();
    rig.peer("bob", PeerMessage::UserInfoRequest);
    let info = UserInfo {
        description: "hello".into(),
        picture: None,
        slots: 3,
        queue_length: 5,
        free_slot: true,
        upload_permission: None,
    };
    assert_eq!(rig.did(), [Did::Sent(PeerMessage::UserInfoResponse(info), About::Nothing)]);
}

#[test]
fn shows_what_we_share_but_not_too_often() {
    let mut rig = Rig::new();
    rig.peer("bob", PeerMessage::GetSharedFileList);
    rig.peer("bob", PeerMessage::GetSharedFileList);
    rig.peer("carol", PeerMessage::GetSharedFileList);
    assert_eq!(rig.did(), [Did::ShareListTo("bob".into()), Did::ShareListTo("carol".into())]);
    rig.pass(9);
    rig.peer("bob", PeerMessage::GetSharedFileList);
    assert_eq!(rig.did(), []);
    rig.pass(1);
    rig.peer("bob", PeerMessage::GetSharedFileList);
    assert_eq!(rig.did(), [Did::ShareListTo("bob".into())]);
    for n in 0..300 {
        rig.peer(&format!("user{n}"), PeerMessage::GetSharedFileList);
    }
    assert_eq!(rig.did().len(), limits::SHARE_LIST_ASKERS - 1);
}

#[test]
fn shows_folders_but_not_too_many_at_once() {
    let mut rig = Rig::new();
    let request = |n| PeerMessage::FolderContentsRequest { token: Token(n), folder: "Music\\A".into() };
    for n in 0..100 {
        rig.peer("bob", request(n));
    }
    let did = rig.did();
    assert_eq!(did.len(), limits::PENDING_LOOKUPS);
    let ask = ShareAsk::Folder { user: "bob".into(), token: Token(0), path: "Music\\A".into() };
    assert_eq!(did[0], Did::Index(ask));
    let folders = vec![RemoteFolder::default()];
    rig.it.on_folder(&"bob".into(), Token(0), "Music\\A".into(), folders, &mut rig.out);
    let message = PeerMessage::FolderContentsResponse {
        token: Token(0),
        folder: "Music\\A".into(),
        folders: vec![RemoteFolder::default()],
    };
    assert_eq!(rig.did(), [Did::Sent(message, About::Nothing)]);
    rig.peer("bob", request(200));
    rig.peer("bob", request(201));
    assert_eq!(rig.did().len(), 1);
    rig.pass(30);
    rig.peer("bob", request(202));
    assert_eq!(rig.did().len(), 1, "an index that never answers does not stop this for good");
}

#[test]
fn banned_users_learn_nothing() {
    let mut rig = Rig::new();
    rig.settings.banned = vec!["bob".into()];
    rig.peer("bob", PeerMessage::UserInfoRequest);
    rig.peer("bob", PeerMessage::GetSharedFileList);
    rig.peer("bob", PeerMessage::FolderContentsRequest { token: Token(1), folder: "A".into() });
    assert_eq!(rig.did(), []);
    // But they may tell.
    rig.ask(1, "bob", Question::Info);
    rig.did();
    rig.peer("bob", info());
    assert_eq!(rig.did().len(), 1);
}
