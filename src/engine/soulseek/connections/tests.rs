mod bounds;
mod silence;

use super::*;
use crate::engine::soulseek::effect::Effect;
use crate::engine::soulseek::io::Action;
use crate::engine::soulseek::peer::SearchReply;
use crate::engine::soulseek::server::ToServer;
use crate::engine::soulseek::session::tests::settings;
use crate::model::time::UnixMs;

const BOB: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 2);
const BOB_AT: SocketAddrV4 = SocketAddrV4::new(BOB, 2234);
const ABOUT: About = About::Inquiry(7);
const FILE: TransferId = TransferId(9);

/// An effect, short enough to compare.
#[derive(Debug, PartialEq, Eq)]
enum Did {
    Net(NetAction),
    Server(ToServer),
}

struct Rig {
    it: Connections,
    now: Now,
    out: Effects,
    accepted: u64,
}

impl Rig {
    fn new() -> Self {
        let now = Now { mono: Duration::from_secs(1_000), wall: UnixMs(0) };
        let mut it = Connections::new(Chance::new(3));
        it.on_settings(&settings());
        it.on_server(SocketAddrV4::new(Ipv4Addr::new(208, 76, 170, 59), 2242));
        it.on_logged_in(&"alice".into());
        Self { it, now, out: Effects::new(), accepted: 0 }
    }

    fn did(&mut self) -> Vec<Did> {
        std::iter::from_fn(|| self.out.pop())
            .map(|effect| match effect {
                Effect::Act(Action::Net(action)) => Did::Net(action),
                Effect::ToServer(message) => Did::Server(message),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn events(&mut self) -> Vec<ConnectionsEvent> {
        std::iter::from_fn(|| self.it.pop_event()).collect()
    }

    fn pass(&mut self, secs: u64) {
        self.now.mono += Duration::from_secs(secs);
        if self.it.next_timeout().is_some_and(|due| due <= self.now.mono) {
            self.it.on_timeout(self.now, &mut self.out);
        }
        assert!(self.it.next_timeout().is_none_or(|due| due > self.now.mono), "a deadline stays behind");
    }

    fn send(&mut self, user: &str) {
        self.it.send(&user.into(), PeerMessage::UserInfoRequest, ABOUT, self.now, &mut self.out);
    }

    fn server(&mut self, message: &FromServer) {
        self.it.on_message(message, self.now, &mut self.out);
    }

    fn address(&mut self, user: &str, at: SocketAddrV4) {
        let (ip, port) = (*at.ip(), u32::from(at.port()));
        self.server(&FromServer::GetPeerAddress { user: user.into(), ip, port, obfuscation: None });
    }

    fn conn(&mut self, id: ConnId, event: ConnEvent) {
        self.it.on_conn(id, event, self.now, &mut self.out);
    }

    fn accept(&mut self, ip: Ipv4Addr) -> ConnId {
        self.accepted += 1;
        let id = ConnId(self.accepted);
        self.conn(id, ConnEvent::Accepted { from: SocketAddrV4::new(ip, 40_000) });
        id
    }

    fn call_in(&mut self, user: &str, ip: Ipv4Addr, kind: ConnectionType) -> ConnId {
        let id = self.accept(ip);
        self.conn(id, ConnEvent::Init(Init::PeerInit { user: user.into(), kind, token: Token(99) }));
        id
    }

    fn pierce(&mut self, token: Token) -> ConnId {
        let id = self.accept(BOB);
        self.conn(id, ConnEvent::Init(Init::PierceFireWall { token }));
        id
    }

    /// Begins a race for bob with his address known; the dial and the token.
    fn race(&mut self) -> (ConnId, Token) {
        self.send("bob");
        self.racing()
    }

    /// The dial and the token of a race for bob whose address look-up is under way.
    fn racing(&mut self) -> (ConnId, Token) {
        assert_eq!(self.did(), [Did::Server(ToServer::GetPeerAddress { user: "bob".into() })]);
        self.address("bob", BOB_AT);
        match &self.did()[..] {
            [
                Did::Server(ToServer::ConnectToPeer { token, user, .. }),
                Did::Net(NetAction::Dial { conn, to: BOB_AT }),
            ] => {
                assert_eq!(user.as_str(), "bob");
                (*conn, *token)
            }
            other => panic!("{other:?}"),
        }
    }

    /// A peer connection with bob, made by him.
    fn bob(&mut self) -> ConnId {
        let id = self.call_in("bob", BOB, ConnectionType::Peer);
        self.did();
        id
    }

    fn says(&mut self, id: ConnId) {
        self.conn(id, ConnEvent::Peer(PeerMessage::UserInfoRequest));
    }

    fn open(&self, id: ConnId) -> bool {
        self.it.conns.contains_key(&id)
    }
}

fn hello(id: ConnId, kind: ConnectionType) -> Did {
    Did::Net(NetAction::SendInit(id, Init::PeerInit { user: "alice".into(), kind, token: Token(0) }))
}

fn adopt(id: ConnId, purpose: Purpose) -> Did {
    Did::Net(NetAction::Adopt(id, purpose))
}

fn message(id: ConnId) -> Did {
    Did::Net(NetAction::SendPeer(id, PeerMessage::UserInfoRequest))
}

fn closed(id: ConnId) -> Did {
    Did::Net(NetAction::Close(id))
}

fn cannot(user: &str, token: u32) -> Did {
    Did::Server(ToServer::CantConnectToPeer { token: Token(token), user: user.into() })
}

fn unreachable(offline: bool, reason: &str) -> ConnectionsEvent {
    ConnectionsEvent::Unreachable { user: "bob".into(), about: ABOUT, offline, reason: reason.to_owned() }
}

fn asked(user: &str, kind: ConnectionType, ip: Ipv4Addr, token: u32) -> FromServer {
    FromServer::ConnectToPeer {
        user: user.into(),
        kind,
        ip,
        port: 2234,
        token: Token(token),
        privileged: false,
        obfuscation: None,
    }
}

const NEITHER: &str = "bob can be reached neither directly nor through the server";
const FAILED: ConnEvent = ConnEvent::DialFailed { reason: String::new() };

fn gone(violation: bool) -> ConnEvent {
    ConnEvent::Closed { reason: "gone".to_owned(), violation }
}

#[test]
fn direct_only() {
    let mut rig = Rig::new();
    let (dial, _) = rig.race();
    rig.conn(dial, ConnEvent::Dialled);
    assert_eq!(rig.did(), [hello(dial, ConnectionType::Peer), adopt(dial, Purpose::Peer), message(dial)]);
    rig.send("bob");
    assert_eq!(rig.did(), [message(dial)]);
    rig.pass(20);
    assert_eq!((rig.did(), rig.events(), rig.open(dial)), (vec![], vec![], true));
    assert!(rig.it.attempts.is_empty());
}

#[test]
fn indirect_only() {
    let mut rig = Rig::new();
    let (dial, token) = rig.race();
    rig.conn(dial, FAILED);
    assert_eq!((rig.did(), rig.events()), (vec![], vec![]));
    let call = rig.pierce(token);
    assert_eq!(rig.did(), [adopt(call, Purpose::Peer), message(call)]);
    assert!(rig.it.attempts.is_empty());
}

#[test]
fn indirect_first_calls_the_dial_off() {
    let mut rig = Rig::new();
    let (dial, token) = rig.race();
    let call = rig.pierce(token);
    assert_eq!(rig.did(), [closed(dial), adopt(call, Purpose::Peer), message(call)]);
    // It had succeeded at the same moment.
    rig.conn(dial, ConnEvent::Dialled);
    assert_eq!(rig.did(), [closed(dial)]);
    // The token is used up.
    let again = rig.pierce(token);
    assert_eq!(rig.did(), [closed(again)]);
}

#[test]
fn the_second_of_two_peer_connections_replaces_the_first_once_it_delivers() {
    let mut rig = Rig::new();
    let (dial, token) = rig.race();
    rig.conn(dial, ConnEvent::Dialled);
    let call = rig.pierce(token);
    rig.did();
    assert!(rig.open(dial) && rig.open(call));
    // The first still delivers: it is answered there.
    rig.says(dial);
    rig.send("bob");
    assert_eq!(rig.did(), [message(dial)]);
    assert!(rig.open(call));
    rig.says(call);
    rig.send("bob");
    assert_eq!(rig.did(), [message(call)]);
    // What was on its way through the first still arrives.
    rig.pass(4);
    assert_eq!((rig.did(), rig.events().len()), (vec![], 2));
    rig.pass(1);
    assert_eq!(rig.did(), [closed(dial)]);
    // The other side closed the first by itself: nothing happens.
    rig.conn(dial, gone(false));
    assert_eq!((rig.did(), rig.events()), (vec![], vec![]));
}

#[test]
fn when_the_other_side_closes_the_first_the_second_is_used() {
    let mut rig = Rig::new();
    let (dial, token) = rig.race();
    rig.conn(dial, ConnEvent::Dialled);
    let call = rig.pierce(token);
    rig.conn(dial, gone(false));
    rig.did();
    rig.send("bob");
    assert_eq!(rig.did(), [message(call)]);
    assert_eq!(rig.events(), []);
}

#[test]
fn a_call_of_theirs_ends_the_race() {
    let mut rig = Rig::new();
    let (dial, _) = rig.race();
    let theirs = rig.call_in("bob", BOB, ConnectionType::Peer);
    assert_eq!(rig.did(), [adopt(theirs, Purpose::Peer), closed(dial), message(theirs)]);
    rig.pass(30);
    assert_eq!(rig.events(), []);
}

#[test]
fn a_call_of_theirs_during_the_look_up_ends_the_race() {
    let mut rig = Rig::new();
    rig.send("bob");
    rig.did();
    let theirs = rig.call_in("bob", BOB, ConnectionType::Peer);
    assert_eq!(rig.did(), [adopt(theirs, Purpose::Peer), message(theirs)]);
    rig.address("bob", BOB_AT);
    assert_eq!(rig.did(), []);
    assert!(rig.it.attempts.is_empty());
}

#[test]
fn neither_way() {
    let mut rig = Rig::new();
    // In both orders, and with a silent server.
    for order in 0..3 {
        let (dial, token) = rig.race();
        rig.send("bob");
        match order {
            0 => {
                rig.conn(dial, FAILED);
                assert_eq!(rig.events(), []);
                rig.server(&FromServer::CantConnectToPeer { token });
            }
            1 => {
                rig.server(&FromServer::CantConnectToPeer { token });
                assert_eq!(rig.events(), []);
                rig.conn(dial, FAILED);
            }
            _ => {
                rig.conn(dial, FAILED);
                rig.pass(19);
                assert_eq!(rig.events(), []);
                rig.pass(1);
            }
        }
        assert_eq!(rig.events(), [unreachable(false, NEITHER), unreachable(false, NEITHER)]);
        assert_eq!(rig.did(), []);
        assert!(rig.it.is_empty() && rig.it.attempts.is_empty() && rig.it.reach.is_empty());
        // The address may be stale: it is looked up again, in `race`.
    }
}

#[test]
fn a_dial_that_the_shell_forgets_is_given_up() {
    let mut rig = Rig::new();
    let (dial, _) = rig.race();
    rig.pass(15);
    assert_eq!(rig.did(), [closed(dial)]);
    rig.pass(5);
    assert_eq!(rig.events(), [unreachable(false, NEITHER)]);
}

#[test]
fn offline_and_unanswered_look_ups() {
    let mut rig = Rig::new();
    rig.send("bob");
    rig.it.open_file(&"bob".into(), FILE, rig.now, &mut rig.out);
    assert_eq!(rig.did(), [Did::Server(ToServer::GetPeerAddress { user: "bob".into() })]);
    rig.address("bob", SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    let mut events = rig.events();
    let file_failed = ConnectionsEvent::FileFailed { transfer: FILE, reason: "bob is offline".to_owned() };
    events.sort_by_key(|event| *event == file_failed);
    assert_eq!(events, [unreachable(true, "bob is offline"), file_failed]);
    assert_eq!(rig.did(), []);
    rig.send("bob");
    rig.pass(20);
    assert_eq!(rig.events(), [unreachable(false, "the server did not say where bob is")]);
}

#[test]
fn not_logged_in() {
    let mut rig = Rig::new();
    let bob = rig.bob();
    rig.send("carol");
    rig.it.on_logged_out(rig.now, &mut rig.out);
    let reason = "not logged in".to_owned();
    let event = ConnectionsEvent::Unreachable { user: "carol".into(), about: ABOUT, offline: false, reason };
    assert_eq!(rig.events(), [event]);
    rig.did();
    // What exists lives on.
    rig.send("bob");
    assert_eq!(rig.did(), [message(bob)]);
    rig.conn(bob, gone(false));
    rig.send("bob");
    assert_eq!(rig.events(), [unreachable(false, "not logged in")]);
    rig.it.open_file(&"bob".into(), FILE, rig.now, &mut rig.out);
    assert!(matches!(&rig.events()[..], [ConnectionsEvent::FileFailed { .. }]));
    assert!(rig.it.reach.is_empty());
}

#[test]
fn addresses_are_believed_for_half_an_hour() {
    let mut rig = Rig::new();
    rig.address("bob", BOB_AT);
    rig.pass(1_799);
    rig.send("bob");
    assert!(matches!(rig.did()[..], [Did::Server(ToServer::ConnectToPeer { .. }), Did::Net(NetAction::Dial { .. })]));
    let mut rig = Rig::new();
    rig.address("bob", BOB_AT);
    rig.pass(1_800);
    rig.race();
    let mut rig = Rig::new();
    rig.address("bob", BOB_AT);
    let status = UserStatus::Offline;
    rig.server(&FromServer::GetUserStatus { user: "bob".into(), status, privileged: false });
    rig.race();
}

#[test]
fn private_addresses_are_not_dialled() {
    let home = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 5), 2234);
    let mut rig = Rig::new();
    rig.send("bob");
    rig.did();
    rig.address("bob", home);
    // Bob may still call us.
    assert!(matches!(rig.did()[..], [Did::Server(ToServer::ConnectToPeer { .. })]));
    rig.pass(20);
    assert_eq!(rig.events(), [unreachable(false, NEITHER)]);
    rig.server(&asked("bob", ConnectionType::Peer, *home.ip(), 5));
    assert_eq!(rig.did(), [cannot("bob", 5)]);

    let mut by_range = Rig::new();
    let private_ranges = vec![(Ipv4Addr::new(192, 168, 0, 0), 16)];
    by_range.it.on_settings(&Settings { private_ranges, ..settings() });
    let mut by_server = Rig::new();
    by_server.it.on_server(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 2242));
    for mut rig in [by_range, by_server] {
        rig.server(&asked("bob", ConnectionType::Peer, *home.ip(), 5));
        assert!(matches!(rig.did()[..], [Did::Net(NetAction::Dial { to, .. })] if to == home));
    }
}

#[test]
fn file_connections_open_either_way_and_the_loser_is_closed() {
    let mut rig = Rig::new();
    rig.bob();
    rig.it.open_file(&"bob".into(), FILE, rig.now, &mut rig.out);
    let (dial, token) = rig.racing();
    rig.conn(dial, ConnEvent::Dialled);
    assert_eq!(rig.did(), [hello(dial, ConnectionType::File), adopt(dial, Purpose::FileOut)]);
    assert_eq!(rig.events(), [ConnectionsEvent::FileOpened { transfer: FILE, conn: dial }]);
    let loser = rig.pierce(token);
    assert_eq!(rig.did(), [closed(loser)]);
    // It belongs to the transfer now.
    rig.conn(dial, gone(false));
    assert_eq!((rig.did(), rig.events()), (vec![], vec![]));

    rig.it.open_file(&"bob".into(), FILE, rig.now, &mut rig.out);
    let dial = match &rig.did()[..] {
        [
            Did::Server(ToServer::ConnectToPeer { token: second, kind: ConnectionType::File, .. }),
            Did::Net(NetAction::Dial { conn, .. }),
        ] => {
            assert_ne!(token, *second);
            (*conn, *second)
        }
        other => panic!("{other:?}"),
    };
    let (dial, token) = dial;
    let call = rig.pierce(token);
    assert_eq!(rig.did(), [closed(dial), adopt(call, Purpose::FileOut)]);
    assert_eq!(rig.events(), [ConnectionsEvent::FileOpened { transfer: FILE, conn: call }]);
    assert!(rig.it.attempts.is_empty());
}

#[test]
fn a_file_comes_to_us() {
    let mut rig = Rig::new();
    let conn = rig.call_in("bob", BOB, ConnectionType::File);
    assert_eq!(rig.did(), [adopt(conn, Purpose::FileIn)]);
    rig.conn(conn, ConnEvent::FileToken(Token(4)));
    assert_eq!(rig.events(), [ConnectionsEvent::FileToken { user: "bob".into(), conn, token: Token(4) }]);
    rig.conn(conn, ConnEvent::FileToken(Token(4)));
    rig.conn(conn, gone(false));
    assert_eq!((rig.did(), rig.events()), (vec![], vec![]));
    // Node has no use for it.
    rig.it.close(conn, rig.now, &mut rig.out);
    assert_eq!(rig.did(), [closed(conn)]);
    // A silent one is closed.
    let conn = rig.call_in("bob", BOB, ConnectionType::File);
    rig.did();
    rig.pass(30);
    assert_eq!(rig.did(), [closed(conn)]);
}

#[test]
fn calls_whom_the_server_names() {
    for (kind, purpose) in [
        (ConnectionType::Peer, Purpose::Peer),
        (ConnectionType::File, Purpose::FileIn),
        (ConnectionType::Distributed, Purpose::Distributed),
    ] {
        let mut rig = Rig::new();
        rig.server(&asked("bob", kind, BOB, 77));
        rig.server(&asked("bob", kind, BOB, 77));
        let conn = ConnId(DIALLED_FIRST);
        assert_eq!(rig.did(), [Did::Net(NetAction::Dial { conn, to: BOB_AT })]);
        rig.conn(conn, ConnEvent::Dialled);
        let pierce = Did::Net(NetAction::SendInit(conn, Init::PierceFireWall { token: Token(77) }));
        assert_eq!(rig.did(), [pierce, adopt(conn, purpose)]);
        let up = ConnectionsEvent::DistributedUp { conn, user: "bob".into(), incoming: true };
        assert_eq!(rig.events().contains(&up), kind == ConnectionType::Distributed);
        // And one that fails.
        rig.server(&asked("carol", kind, Ipv4Addr::new(20, 0, 0, 3), 78));
        rig.did();
        rig.conn(ConnId(DIALLED_FIRST + 1), FAILED);
        assert_eq!(rig.did(), [cannot("carol", 78)]);
    }
}

#[test]
fn does_not_call_who_has_just_called() {
    let mut rig = Rig::new();
    rig.bob();
    rig.server(&asked("bob", ConnectionType::Peer, BOB, 77));
    let told = ToServer::CantConnectToPeer { token: Token(77), user: "bob".into() };
    assert_eq!(rig.did(), [Did::Server(told)]);
    // Their connection is old: it may be dead, and they know why they ask.
    rig.pass(20);
    rig.server(&asked("bob", ConnectionType::Peer, BOB, 78));
    assert!(matches!(rig.did()[..], [Did::Net(NetAction::Dial { .. })]));
}

#[test]
fn their_wish_while_we_dial_them_calls_our_dial_off() {
    let mut rig = Rig::new();
    let (dial, _) = rig.race();
    rig.server(&asked("bob", ConnectionType::Peer, BOB, 77));
    let pierce = ConnId(DIALLED_FIRST + 1);
    rig.did();
    rig.conn(pierce, ConnEvent::Dialled);
    let sent = Did::Net(NetAction::SendInit(pierce, Init::PierceFireWall { token: Token(77) }));
    assert_eq!(rig.did(), [sent, adopt(pierce, Purpose::Peer), closed(dial), message(pierce)]);
}

#[test]
fn distributed_connections_come_and_go() {
    let mut rig = Rig::new();
    rig.it.open_distributed(&"bob".into(), BOB_AT, rig.now, &mut rig.out);
    let (dial, token) = match &rig.did()[..] {
        [
            Did::Server(ToServer::ConnectToPeer { token, kind: ConnectionType::Distributed, .. }),
            Did::Net(NetAction::Dial { conn, to: BOB_AT }),
        ] => (*conn, *token),
        other => panic!("{other:?}"),
    };
    rig.conn(dial, ConnEvent::Dialled);
    assert_eq!(rig.did(), [hello(dial, ConnectionType::Distributed), adopt(dial, Purpose::Distributed)]);
    let up = |conn, incoming| ConnectionsEvent::DistributedUp { conn, user: "bob".into(), incoming };
    assert_eq!(rig.events(), [up(dial, false)]);
    // The parent may keep either: `Tree` sees both.
    let call = rig.pierce(token);
    assert_eq!((rig.did(), rig.events()), (vec![adopt(call, Purpose::Distributed)], vec![up(call, false)]));
    let message = DistributedMessage::BranchLevel { level: 0 };
    rig.conn(call, ConnEvent::Distributed(message.clone()));
    assert_eq!(rig.events(), [ConnectionsEvent::Distributed { conn: call, message }]);
    rig.pass(86_400);
    assert_eq!(rig.did(), []);
    rig.conn(dial, gone(false));
    assert_eq!(rig.events(), [ConnectionsEvent::DistributedDown { conn: dial }]);
    rig.it.close(call, rig.now, &mut rig.out);
    assert_eq!((rig.did(), rig.events()), (vec![closed(call)], vec![]));
    let theirs = rig.call_in("bob", BOB, ConnectionType::Distributed);
    assert_eq!(rig.events(), [up(theirs, true)]);
}

#[test]
fn events_at_odd_moments_do_no_harm() {
    let odd = || {
        [
            ConnEvent::Dialled,
            FAILED,
            ConnEvent::Accepted { from: BOB_AT },
            ConnEvent::Init(Init::PierceFireWall { token: Token(1) }),
            ConnEvent::Init(Init::PeerInit { user: "x".into(), kind: ConnectionType::Peer, token: Token(1) }),
            ConnEvent::Peer(PeerMessage::GetSharedFileList),
            ConnEvent::Distributed(DistributedMessage::Ping),
            ConnEvent::FileToken(Token(1)),
            gone(true),
            gone(false),
        ]
    };
    for first in 0..10 {
        for second in 0..10 {
            for stage in 0..5 {
                let mut rig = Rig::new();
                let id = match stage {
                    0 => rig.race().0,
                    1 => rig.bob(),
                    2 => rig.call_in("bob", BOB, ConnectionType::File),
                    3 => rig.call_in("bob", BOB, ConnectionType::Distributed),
                    _ => ConnId(5_000),
                };
                for which in [first, second] {
                    let event = odd().into_iter().nth(which).unwrap();
                    rig.conn(id, event);
                }
                for _ in 0..10 {
                    rig.pass(30);
                }
                let peers = rig.it.conns.values().filter(|conn| !matches!(conn.stage, Stage::Distributed)).count();
                assert_eq!(peers, 0, "{stage} {first} {second}");
                assert!(rig.it.attempts.is_empty() && rig.it.reach.is_empty(), "{stage} {first} {second}");
            }
        }
    }
}
