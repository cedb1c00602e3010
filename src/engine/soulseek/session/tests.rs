use std::net::Ipv4Addr;

use super::*;
use crate::engine::soulseek::effect::Effect;
use crate::engine::soulseek::io::Action;
use crate::engine::soulseek::server::LoginGreeting;

/// Of an account that is set, with room for everything.
pub(in crate::engine::soulseek) fn settings() -> Settings {
    Settings {
        username: "alice".into(),
        password: Secret("secret".to_owned()),
        listen_port: 50300,
        description: String::new(),
        upload_slots: 2,
        download_slots: 2,
        user_queue_files: 0,
        user_queue_mib: 0,
        queue_files: 0,
        queue_mib: 0,
        banned: Vec::new(),
        children_max: 10,
        upload_limit: None,
        download_attempts_max: 3,
        failover: false,
        private_ranges: Vec::new(),
    }
}

struct Rig {
    session: Session,
    settings: Settings,
    chance: Chance,
    now: Now,
    out: Effects,
}

impl Rig {
    fn new() -> Self {
        let now = Now { mono: Duration::from_secs(5), wall: UnixMs(1_000_000) };
        Self { session: Session::new(), settings: settings(), chance: Chance::new(7), now, out: Effects::new() }
    }

    fn started() -> Self {
        let mut rig = Self::new();
        rig.session.start(Standing::default(), &rig.settings, rig.now, &mut rig.out);
        rig
    }

    fn logged_in() -> Self {
        let mut rig = Self::started();
        rig.up();
        rig.message(&granted());
        rig.net();
        rig.events();
        rig
    }

    fn pass(&mut self, while_: Duration) {
        self.now = Now { mono: self.now.mono + while_, wall: self.now.wall.plus(while_) };
        self.session.on_timeout(&self.settings, &mut self.chance, self.now, &mut self.out);
    }

    fn up(&mut self) {
        self.session.on_up(SERVER, &self.settings, self.now, &mut self.out);
    }

    fn down(&mut self) {
        self.session.on_down("refused", &mut self.chance, self.now);
    }

    fn message(&mut self, message: &FromServer) {
        self.session.on_message(message, &self.settings, &mut self.chance, self.now, &mut self.out);
    }

    fn net(&mut self) -> Vec<NetAction> {
        std::iter::from_fn(|| self.out.pop())
            .map(|effect| match effect {
                Effect::Act(Action::Net(action)) => action,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn events(&mut self) -> Vec<SessionEvent> {
        std::iter::from_fn(|| self.session.pop_event()).collect()
    }

    /// Until the next attempt, from the one event that must be there.
    fn retry_in(&mut self) -> Option<Duration> {
        let events = self.events();
        match &events[..] {
            [SessionEvent::LoggedOut { retry_in, .. }] => *retry_in,
            other => panic!("{other:?}"),
        }
    }

    fn state(&self) -> ServerState {
        self.session.view(self.now).state
    }
}

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(208, 76, 170, 59), 2242);

fn granted() -> FromServer {
    FromServer::Login(Ok(LoginGreeting {
        greeting: "hello".into(),
        own_ip: Ipv4Addr::new(5, 6, 7, 8),
        password_hash: None,
        supporter: None,
    }))
}

fn refused(reason: &str, detail: Option<&str>) -> FromServer {
    FromServer::Login(Err(LoginRefusal { reason: reason.into(), detail: detail.map(WireText::from) }))
}

#[test]
fn logs_in_and_introduces_itself() {
    let mut rig = Rig::new();
    rig.session.on_counts(ShareCounts { folders: 3, files: 40 }, &mut rig.out);
    rig.session.start(Standing::default(), &rig.settings, rig.now, &mut rig.out);
    assert_eq!(rig.net(), [NetAction::ServerConnect]);
    assert_eq!(rig.state(), ServerState::Connecting);
    rig.up();
    assert_eq!(
        rig.net(),
        [NetAction::ServerSend(ToServer::Login {
            user: "alice".into(),
            password: "secret".into(),
            major: 177,
            // printf alicesecret | md5sum
            hash: "c4e31313222cf05fcdd1fc068af5570e".into(),
            minor: 1,
        })]
    );
    assert_eq!(rig.state(), ServerState::LoggingIn);
    rig.message(&granted());
    assert_eq!(
        rig.net(),
        [
            ToServer::SetWaitPort { port: 50300, obfuscated: None },
            ToServer::SetStatus { status: UserStatus::Online },
            ToServer::SharedFoldersFiles { folders: 3, files: 40 },
            ToServer::WatchUser { user: "alice".into() },
            ToServer::CheckPrivileges,
            ToServer::HaveNoParent { none: true },
            ToServer::BranchRoot { user: "alice".into() },
            ToServer::BranchLevel { level: 0 },
            ToServer::AcceptChildren { accept: false },
        ]
        .map(NetAction::ServerSend)
    );
    assert_eq!(
        rig.events(),
        [SessionEvent::LoggedIn { greeting: "hello".to_owned(), own_ip: Ipv4Addr::new(5, 6, 7, 8) }]
    );
    let view = rig.session.view(rig.now);
    assert_eq!((view.state, view.reason, view.endpoint), (ServerState::LoggedIn, None, Some(SERVER)));
}

#[test]
fn counts_are_sent_again_only_when_they_change() {
    let mut rig = Rig::logged_in();
    rig.session.on_counts(ShareCounts { folders: 1, files: 2 }, &mut rig.out);
    rig.session.on_counts(ShareCounts { folders: 1, files: 2 }, &mut rig.out);
    assert_eq!(rig.net(), [NetAction::ServerSend(ToServer::SharedFoldersFiles { folders: 1, files: 2 })]);
}

#[test]
fn waits_for_an_account() {
    let mut rig = Rig::new();
    rig.settings.username = Username::default();
    rig.session.start(Standing::default(), &rig.settings, rig.now, &mut rig.out);
    assert_eq!(rig.net(), []);
    assert_eq!(rig.session.next_timeout(), None);
    assert_eq!(rig.session.view(rig.now).reason.as_deref(), Some("no Soulseek user name is set"));
    rig.settings.username = "alice".into();
    rig.settings.password = Secret::default();
    rig.session.on_settings(&rig.settings, rig.now, &mut rig.out);
    assert_eq!(rig.session.view(rig.now).reason.as_deref(), Some("no Soulseek password is set"));
    rig.session.disconnect(&mut rig.out);
    assert_eq!(rig.state(), ServerState::Unconfigured);
    rig.settings.password = Secret("x".to_owned());
    rig.session.on_settings(&rig.settings, rig.now, &mut rig.out);
    assert_eq!(rig.net(), [NetAction::ServerConnect]);
}

#[test]
fn backoff_doubles_up_to_ten_minutes() {
    let mut rig = Rig::started();
    for (attempt, base) in [10, 20, 40, 80, 160, 320, 480, 480, 480].into_iter().enumerate() {
        rig.net();
        rig.down();
        let pause = rig.retry_in().unwrap();
        let base = Duration::from_secs(base);
        assert!(pause >= base && pause <= base + base / 4, "attempt {attempt}: {pause:?}");
        assert_eq!(rig.session.view(rig.now).retry_at, Some(rig.now.wall.plus(pause)));
        rig.pass(pause.saturating_sub(Duration::from_millis(1)));
        assert_eq!(rig.net(), []);
        rig.pass(Duration::from_millis(1));
        assert_eq!(rig.net(), [NetAction::ServerConnect]);
    }
}

#[test]
fn backoff_spreads() {
    let pauses: std::collections::BTreeSet<Duration> = (0..20)
        .map(|seed| {
            let mut rig = Rig::started();
            rig.chance = Chance::new(seed);
            rig.down();
            rig.retry_in().unwrap()
        })
        .collect();
    assert!(pauses.len() > 10, "{pauses:?}");
}

#[test]
fn a_short_login_counts_as_a_failure_and_a_long_one_does_not() {
    let mut rig = Rig::started();
    let login = |rig: &mut Rig, stays: Duration| {
        rig.up();
        rig.message(&granted());
        rig.now.mono += stays;
        rig.events();
        rig.down();
        let pause = rig.retry_in().unwrap();
        rig.pass(pause);
        pause
    };
    assert!(login(&mut rig, Duration::from_secs(1)) < Duration::from_secs(13));
    assert!(login(&mut rig, Duration::from_secs(1)) >= Duration::from_secs(20));
    assert!(login(&mut rig, Duration::from_secs(59)) >= Duration::from_secs(40));
    assert!(login(&mut rig, Duration::from_secs(60)) < Duration::from_secs(13));
}

#[test]
fn a_silent_login_means_thirty_minutes() {
    let mut rig = Rig::started();
    rig.up();
    rig.net();
    rig.pass(Duration::from_secs(30));
    assert_eq!(rig.net(), [NetAction::ServerClose]);
    let pause = rig.retry_in().unwrap();
    assert!(pause >= BAN && pause <= BAN + BAN_JITTER);
    assert_eq!(rig.state(), ServerState::Disconnected);
    rig.pass(BAN.saturating_sub(Duration::from_secs(1)));
    assert_eq!(rig.net(), []);
    rig.pass(BAN_JITTER + Duration::from_secs(1));
    assert_eq!(rig.net(), [NetAction::ServerConnect]);
}

#[test]
fn a_silent_dial_is_given_up() {
    let mut rig = Rig::started();
    rig.net();
    rig.pass(CONNECT);
    assert_eq!(rig.net(), [NetAction::ServerClose]);
    assert!(rig.retry_in().is_some());
    // Its late success is refused.
    rig.up();
    assert_eq!(rig.net(), [NetAction::ServerClose]);
}

#[test]
fn refusals_for_good_wait_for_the_owner() {
    for (reason, detail, sentence) in [
        ("INVALIDPASS", None, "wrong password for alice, or the name belongs to somebody else"),
        ("INVALIDUSERNAME", Some("Nick too long."), "the server does not accept the user name alice: Nick too long."),
        ("EMPTYPASSWORD", None, "the server wants a password, and none is set"),
        ("INVALIDVERSION", None, "the server does not accept this program (version 177.1)"),
    ] {
        let mut rig = Rig::started();
        rig.up();
        rig.net();
        rig.message(&refused(reason, detail));
        assert_eq!(rig.net(), [NetAction::ServerClose]);
        assert_eq!(rig.events(), [SessionEvent::LoggedOut { reason: sentence.to_owned(), retry_in: None }]);
        assert_eq!(rig.session.next_timeout(), None);
        assert_eq!(rig.session.view(rig.now).reason.as_deref(), Some(sentence));
        rig.session.on_settings(&rig.settings, rig.now, &mut rig.out);
        assert_eq!(rig.net(), [NetAction::ServerConnect]);
    }
}

#[test]
fn other_refusals_try_again() {
    for (reason, sentence) in [
        ("SVRFULL", "the server is full; trying again later"),
        ("SVRPRIVATE", "the server is private at the moment; trying again later"),
        ("SOMETHING\u{7}NEW", "the server refuses the login: SOMETHINGNEW"),
    ] {
        let mut rig = Rig::started();
        rig.up();
        rig.net();
        rig.message(&refused(reason, None));
        assert_eq!(rig.net(), [NetAction::ServerClose]);
        assert_eq!(rig.session.view(rig.now).reason.as_deref(), Some(sentence));
        assert!(rig.retry_in().unwrap() < Duration::from_secs(13));
    }
}

#[test]
fn relogged_stays_out() {
    let mut rig = Rig::logged_in();
    rig.message(&FromServer::Relogged);
    assert_eq!(rig.net(), [NetAction::ServerClose]);
    assert_eq!(rig.retry_in(), None);
    rig.down();
    rig.pass(Duration::from_secs(86_400));
    rig.session.on_settings(&rig.settings, rig.now, &mut rig.out);
    assert_eq!(rig.net(), []);
    rig.session.connect(&rig.settings, rig.now, &mut rig.out);
    assert_eq!(rig.net(), [NetAction::ServerConnect]);
}

#[test]
fn the_owner_disconnects_and_connects() {
    let mut rig = Rig::logged_in();
    rig.session.disconnect(&mut rig.out);
    assert_eq!(rig.net(), [NetAction::ServerClose]);
    assert_eq!(rig.retry_in(), None);
    rig.settings.password = Secret("new".to_owned());
    rig.session.on_settings(&rig.settings, rig.now, &mut rig.out);
    rig.pass(Duration::from_secs(86_400));
    assert_eq!(rig.net(), []);
    rig.session.disconnect(&mut rig.out);
    assert_eq!(rig.events(), []);
    rig.session.connect(&rig.settings, rig.now, &mut rig.out);
    rig.session.connect(&rig.settings, rig.now, &mut rig.out);
    assert_eq!(rig.net(), [NetAction::ServerConnect]);
}

#[test]
fn a_new_account_is_used_at_once() {
    let mut rig = Rig::logged_in();
    rig.settings.username = "bob".into();
    rig.session.on_settings(&rig.settings, rig.now, &mut rig.out);
    assert_eq!(rig.net(), [NetAction::ServerClose, NetAction::ServerConnect]);
    assert_eq!(rig.retry_in(), Some(Duration::ZERO));
    assert_eq!(rig.session.username(), &Username::from("bob"));
    rig.up();
    assert!(matches!(&rig.net()[..], [NetAction::ServerSend(ToServer::Login { user, .. })] if user.as_str() == "bob"));
}

#[test]
fn a_new_port_is_announced() {
    let mut rig = Rig::logged_in();
    rig.session.on_settings(&rig.settings, rig.now, &mut rig.out);
    assert_eq!(rig.net(), []);
    rig.settings.listen_port = 1234;
    rig.session.on_settings(&rig.settings, rig.now, &mut rig.out);
    assert_eq!(rig.net(), [NetAction::ServerSend(ToServer::SetWaitPort { port: 1234, obfuscated: None })]);
}

#[test]
fn keeps_alive_every_five_minutes() {
    let mut rig = Rig::logged_in();
    for _ in 0..3 {
        rig.pass(Duration::from_secs(299));
        assert_eq!(rig.net(), []);
        rig.pass(Duration::from_secs(1));
        assert_eq!(rig.net(), [NetAction::ServerSend(ToServer::ServerPing)]);
    }
}

#[test]
fn every_state_survives_every_event() {
    let states = [
        State::Unconfigured,
        State::Disconnected { retry: Duration::from_secs(9) },
        State::Connecting { until: Duration::from_secs(9) },
        State::LoggingIn { until: Duration::from_secs(9) },
        State::LoggedIn { since: Duration::ZERO, ping: Duration::from_secs(9) },
        State::Parked(Parked::Owner),
        State::Parked(Parked::Elsewhere),
        State::Parked(Parked::Refused),
    ];
    for state in states {
        for event in 0..9 {
            let mut rig = Rig::new();
            rig.session.state = state;
            match event {
                0 => rig.up(),
                1 => rig.down(),
                2 => rig.message(&granted()),
                3 => rig.message(&refused("INVALIDPASS", None)),
                4 => rig.message(&FromServer::Relogged),
                5 => rig.pass(Duration::from_secs(60)),
                6 => rig.session.connect(&rig.settings, rig.now, &mut rig.out),
                7 => rig.session.disconnect(&mut rig.out),
                _ => rig.session.on_settings(&rig.settings, rig.now, &mut rig.out),
            }
            // Whatever happened, it is either the owner's turn or there is a deadline ahead.
            let turn = matches!(rig.session.state, State::Unconfigured | State::Parked(_));
            let due = rig.session.next_timeout();
            assert_eq!(turn, due.is_none(), "{state:?} {event}");
            assert!(due.is_none_or(|due| due > rig.now.mono), "{state:?} {event} {due:?}");
        }
    }
}

#[test]
fn a_new_engine_stays_out_where_the_last_one_did() {
    let next = |rig: &Rig| {
        let mut new = Rig::new();
        new.now = rig.now;
        let hold = rig.session.hold();
        new.session.start(rig.session.standing(), &rig.settings, rig.now, &mut new.out);
        assert_eq!(new.session.hold(), hold);
        assert_eq!(new.session.view(new.now), rig.session.view(rig.now));
        new
    };
    // The owner's word, whatever the account; a relogin elsewhere, until the account changes.
    let mut rig = Rig::logged_in();
    rig.session.disconnect(&mut rig.out);
    assert!(next(&rig).net().is_empty());
    let mut rig = Rig::logged_in();
    rig.message(&FromServer::Relogged);
    assert!(next(&rig).net().is_empty());
    let mut other = Rig::new();
    other.settings.password = Secret("another".to_owned());
    other.session.start(rig.session.standing(), &other.settings, other.now, &mut other.out);
    assert_eq!(other.net(), [NetAction::ServerConnect]);
    // The thirty minutes of a ban, and not longer.
    let mut rig = Rig::started();
    rig.up();
    rig.pass(LOGIN);
    let mut new = next(&rig);
    assert!(new.net().is_empty());
    new.pass(BAN);
    new.pass(BAN_JITTER);
    assert_eq!(new.net(), [NetAction::ServerConnect]);
    // Where it was on the network it goes there again.
    let rig = Rig::logged_in();
    let mut new = Rig::new();
    new.session.start(rig.session.standing(), &rig.settings, rig.now, &mut new.out);
    assert_eq!(new.net(), [NetAction::ServerConnect]);
}
