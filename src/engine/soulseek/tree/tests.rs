use std::net::Ipv4Addr;

use super::*;
use crate::engine::soulseek::io::Action;
use crate::engine::soulseek::server::UserStats;
use crate::engine::soulseek::session::tests::settings;
use crate::model::time::UnixMs;

#[derive(Debug, PartialEq, Eq)]
enum Did {
    Hang(u64),
    Call(&'static str),
    Server(ToServer),
    Sent(u64, DistributedMessage),
}

struct Rig {
    it: Tree,
    now: Now,
    out: Effects,
}

const USERS: [&str; 12] = ["ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal", "ian", "jil", "kim", "lea"];

impl Rig {
    fn new() -> Self {
        let mut it = Tree::new();
        let mut out = Effects::new();
        it.on_settings(&settings(), &mut out);
        it.on_logged_in(&"alice".into());
        Self { it, now: Now { mono: Duration::from_secs(100), wall: UnixMs(0) }, out }
    }

    /// With bob, who is at level 2 below ann, as the parent on connection 1; children are welcome.
    fn leaf() -> Self {
        let mut rig = Self::new();
        rig.speed(1_000_000);
        rig.offer(&["bob"]);
        rig.up(1, "bob");
        rig.tell(1, 2, "ann");
        rig.search(1, "dan");
        rig.did();
        rig.searches();
        rig
    }

    /// Fed by the server.
    fn root() -> Self {
        let mut rig = Self::new();
        rig.speed(1_000_000);
        rig.embedded("dan");
        assert_eq!(rig.did(), [accepts(true)]);
        rig.searches();
        rig
    }

    fn did(&mut self) -> Vec<Did> {
        std::iter::from_fn(|| self.out.pop())
            .map(|effect| match effect {
                Effect::Hang(ConnId(id)) => Did::Hang(id),
                Effect::OpenDistributed { user, at } => {
                    assert_eq!(at, SocketAddrV4::new(Ipv4Addr::new(20, 0, 0, 1), 2234));
                    Did::Call(USERS.into_iter().find(|name| *name == user.as_str()).unwrap())
                }
                Effect::ToServer(message) => Did::Server(message),
                Effect::Act(Action::Net(NetAction::SendDistributed(ConnId(id), message))) => Did::Sent(id, message),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn searches(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.it.pop_event()).map(|search| format!("{} {}", search.user, search.query)).collect()
    }

    fn server(&mut self, message: &FromServer) {
        self.it.on_server(message, self.now, &mut self.out);
    }

    fn speed(&mut self, average_speed: u32) {
        let stats = UserStats { average_speed, ..UserStats::default() };
        self.server(&FromServer::GetUserStats { user: "alice".into(), stats });
    }

    fn offer(&mut self, users: &[&str]) {
        let parent = |user: &&str| PossibleParent { user: (*user).into(), ip: Ipv4Addr::new(20, 0, 0, 1), port: 2234 };
        self.server(&FromServer::PossibleParents { parents: users.iter().map(parent).collect() });
    }

    fn embedded(&mut self, user: &str) {
        let body = search(user).encode_body();
        self.server(&FromServer::EmbeddedMessage { code: 3, body });
    }

    fn up(&mut self, conn: u64, user: &str) {
        self.it.on_up(ConnId(conn), user.into(), false, self.now, &mut self.out);
    }

    fn child(&mut self, conn: u64, user: &str) {
        self.it.on_up(ConnId(conn), user.into(), true, self.now, &mut self.out);
    }

    fn says(&mut self, conn: u64, message: DistributedMessage) {
        self.it.on_message(ConnId(conn), message, self.now, &mut self.out);
    }

    fn tell(&mut self, conn: u64, level: i32, root: &str) {
        self.says(conn, DistributedMessage::BranchLevel { level });
        self.says(conn, DistributedMessage::BranchRoot { user: root.into() });
    }

    fn search(&mut self, conn: u64, user: &str) {
        self.says(conn, DistributedMessage::Search(search(user)));
    }

    fn down(&mut self, conn: u64) {
        self.it.on_down(ConnId(conn), self.now, &mut self.out);
    }

    fn pass(&mut self, secs: u64) {
        self.now.mono += Duration::from_secs(secs);
        if self.it.next_timeout().is_some_and(|due| due <= self.now.mono) {
            self.it.on_timeout(self.now, &mut self.out);
        }
        assert!(self.it.next_timeout().is_none_or(|due| due > self.now.mono), "a deadline stays behind");
    }

    fn parent(&self) -> Option<String> {
        self.it.view().parent.map(|user| user.to_string())
    }
}

fn search(user: &str) -> DistributedSearch {
    DistributedSearch {
        identifier: 0x31,
        user: user.into(),
        token: Token(8),
        query: "some words".into(),
        tail: vec![1, 2, 3],
    }
}

fn accepts(accept: bool) -> Did {
    Did::Server(ToServer::AcceptChildren { accept })
}

fn told(none: bool, level: u32, root: &str) -> Vec<Did> {
    vec![Did::Server(ToServer::HaveNoParent { none }), moved_level(level), moved_root(root)]
}

fn moved_level(level: u32) -> Did {
    Did::Server(ToServer::BranchLevel { level })
}

fn moved_root(root: &str) -> Did {
    Did::Server(ToServer::BranchRoot { user: root.into() })
}

fn sent_place(conn: u64, level: i32, root: &str) -> Vec<Did> {
    vec![
        Did::Sent(conn, DistributedMessage::BranchLevel { level }),
        Did::Sent(conn, DistributedMessage::BranchRoot { user: root.into() }),
    ]
}

fn passed_on(conn: u64, user: &str) -> Did {
    Did::Sent(conn, DistributedMessage::Search(search(user)))
}

#[test]
fn becomes_a_leaf_of_the_first_that_delivers() {
    let mut rig = Rig::new();
    rig.offer(&["ann", "bob", "cat", "alice"]);
    assert_eq!(rig.did(), [Did::Call("ann"), Did::Call("bob"), Did::Call("cat")]);
    rig.up(1, "ann");
    rig.up(2, "bob");
    rig.tell(1, 3, "dan");
    rig.tell(2, 4, "dan");
    assert_eq!(rig.did(), []);
    assert_eq!(rig.parent(), None);
    rig.search(2, "eve");
    let mut expected = vec![Did::Hang(1)];
    expected.extend(told(false, 5, "dan"));
    assert_eq!(rig.did(), expected);
    assert_eq!(rig.searches(), ["eve some words"]);
    let view = rig.it.view();
    assert_eq!((view.level, view.root, view.parent), (5, Some("dan".into()), Some("bob".into())));
    // Late ones and further offers are not needed.
    rig.up(3, "cat");
    rig.offer(&["fay"]);
    assert_eq!(rig.did(), [Did::Hang(3)]);
    rig.search(2, "alice");
    rig.search(2, "cat");
    assert_eq!(rig.searches(), ["cat some words"], "our own search is not answered");
}

#[test]
fn a_level_of_zero_names_the_root() {
    let mut rig = Rig::new();
    rig.offer(&["ann"]);
    rig.up(1, "ann");
    rig.says(1, DistributedMessage::BranchLevel { level: 0 });
    rig.did();
    rig.search(1, "eve");
    assert_eq!(rig.did(), told(false, 1, "ann"));
}

#[test]
fn takes_a_silent_candidate_after_five_seconds() {
    let mut rig = Rig::new();
    rig.offer(&["ann", "bob"]);
    rig.up(1, "ann");
    rig.up(2, "bob");
    rig.tell(1, 1, "cat");
    rig.pass(1);
    rig.tell(2, 2, "cat");
    rig.did();
    rig.pass(3);
    assert_eq!(rig.did(), []);
    rig.pass(1);
    let mut expected = vec![Did::Hang(2)];
    expected.extend(told(false, 2, "cat"));
    assert_eq!(rig.did(), expected);
}

#[test]
fn drops_candidates_that_deliver_nothing_or_nonsense() {
    let mut rig = Rig::new();
    rig.offer(&["ann", "bob", "cat"]);
    rig.up(1, "ann");
    rig.up(2, "bob");
    rig.up(3, "cat");
    rig.did();
    rig.search(1, "eve");
    assert_eq!(rig.searches(), Vec::<String>::new(), "no search before level and root");
    rig.says(2, DistributedMessage::BranchLevel { level: -1 });
    assert_eq!(rig.did(), [Did::Hang(2)]);
    // Below ourselves: a circle.
    rig.tell(3, 2, "alice");
    assert_eq!(rig.did(), [Did::Hang(3)]);
    rig.offer(&["ann", "bob", "cat"]);
    assert_eq!(rig.did(), [], "not again at once");
    rig.pass(30);
    assert_eq!(rig.did(), [Did::Hang(1)]);
    rig.offer(&["bob"]);
    assert_eq!(rig.did(), [Did::Call("bob")]);
    rig.up(9, "ann");
    assert_eq!(rig.did(), [Did::Hang(9)], "called too long ago");
}

#[test]
fn calls_ten_at_most() {
    let mut rig = Rig::new();
    rig.offer(&USERS);
    assert_eq!(rig.did().len(), 10);
}

#[test]
fn both_ways_to_one_candidate_may_succeed() {
    let mut rig = Rig::new();
    rig.offer(&["bob"]);
    rig.up(1, "bob");
    rig.up(2, "bob");
    rig.tell(1, 2, "ann");
    rig.down(1);
    rig.tell(2, 2, "ann");
    rig.did();
    rig.search(2, "eve");
    assert_eq!(rig.did(), told(false, 3, "ann"));
}

#[test]
fn follows_its_parent() {
    let mut rig = Rig::leaf();
    rig.child(7, "gus");
    assert_eq!(rig.did(), sent_place(7, 3, "ann"));
    rig.says(1, DistributedMessage::BranchLevel { level: 2 });
    rig.says(1, DistributedMessage::BranchRoot { user: "ann".into() });
    assert_eq!(rig.did(), []);
    rig.says(1, DistributedMessage::BranchLevel { level: 5 });
    let mut expected = vec![moved_level(6), moved_root("ann")];
    expected.extend(sent_place(7, 6, "ann"));
    assert_eq!(rig.did(), expected);
    rig.says(1, DistributedMessage::BranchLevel { level: 0 });
    let mut expected = vec![moved_level(1), moved_root("bob")];
    expected.extend(sent_place(7, 1, "bob"));
    assert_eq!(rig.did(), expected);
    rig.says(1, DistributedMessage::BranchLevel { level: i32::MAX });
    assert_eq!(rig.it.view().level, 1 << 31);
}

#[test]
fn a_restless_parent_or_one_below_us_is_dropped() {
    let mut rig = Rig::leaf();
    for level in 0..40 {
        rig.says(1, DistributedMessage::BranchLevel { level });
    }
    assert_eq!(rig.parent(), None);
    let did = rig.did();
    assert!(did.contains(&Did::Hang(1)) && did.len() < 2 * 31 + 6, "{}", did.len());
    let mut rig = Rig::leaf();
    rig.says(1, DistributedMessage::BranchRoot { user: "alice".into() });
    assert!(rig.did().contains(&Did::Hang(1)));
    assert_eq!(rig.parent(), None);
}

#[test]
fn looks_for_another_parent_when_one_is_lost() {
    let mut rig = Rig::leaf();
    rig.child(7, "gus");
    rig.did();
    rig.down(1);
    let mut expected = told(true, 0, "alice");
    expected.extend(sent_place(7, 0, "alice"));
    expected.push(accepts(false));
    assert_eq!(rig.did(), expected);
    rig.child(8, "hal");
    assert_eq!(rig.did(), [Did::Hang(8)]);
    rig.offer(&["bob", "cat"]);
    assert_eq!(rig.did(), [Did::Call("bob"), Did::Call("cat")]);
    rig.up(2, "cat");
    rig.tell(2, 0, "cat");
    rig.search(2, "eve");
    let mut expected = told(false, 1, "cat");
    expected.extend(sent_place(7, 1, "cat"));
    expected.extend([accepts(true), passed_on(7, "eve")]);
    assert_eq!(rig.did(), expected);
    rig.pass(120);
    assert_eq!(rig.did(), [], "the child stays");
}

#[test]
fn children_without_a_source_are_let_go() {
    let mut rig = Rig::leaf();
    rig.child(7, "gus");
    rig.down(1);
    rig.did();
    rig.pass(59);
    assert_eq!(rig.did(), []);
    rig.pass(1);
    assert_eq!(rig.did(), [Did::Hang(7)]);
}

#[test]
fn a_silent_parent_is_dropped_after_half_an_hour() {
    let mut rig = Rig::leaf();
    rig.pass(1_799);
    rig.says(1, DistributedMessage::Ping);
    rig.pass(1_799);
    assert_eq!(rig.parent().as_deref(), Some("bob"));
    rig.pass(1);
    let mut expected = vec![Did::Hang(1)];
    expected.extend(told(true, 0, "alice"));
    expected.push(accepts(false));
    assert_eq!(rig.did(), expected);
}

#[test]
fn passes_searches_on_untouched() {
    let mut rig = Rig::leaf();
    rig.child(7, "gus");
    rig.child(8, "hal");
    rig.did();
    rig.search(1, "eve");
    assert_eq!(rig.did(), [passed_on(7, "eve"), passed_on(8, "eve")]);
    rig.says(1, DistributedMessage::Embedded { code: 3, body: search("fay").encode_body() });
    assert_eq!(rig.did(), [passed_on(7, "fay"), passed_on(8, "fay")]);
    rig.says(1, DistributedMessage::Embedded { code: 4, body: vec![0, 0, 0, 0] });
    rig.says(1, DistributedMessage::Embedded { code: 3, body: vec![1] });
    rig.says(1, DistributedMessage::ChildDepth { depth: 3 });
    rig.says(1, DistributedMessage::Other { code: 44, body: vec![] });
    rig.embedded("cat");
    assert_eq!(rig.did(), []);
    assert_eq!(rig.searches(), ["eve some words", "fay some words"]);
    // From below they do not come.
    rig.says(7, DistributedMessage::ChildDepth { depth: 0 });
    rig.says(7, DistributedMessage::BranchLevel { level: 4 });
    assert_eq!(rig.did(), []);
    rig.search(8, "eve");
    assert_eq!(rig.did(), [Did::Hang(8)]);
    assert_eq!(rig.searches(), Vec::<String>::new());
}

#[test]
fn is_a_branch_root_when_the_server_embeds_searches() {
    let mut rig = Rig::new();
    rig.speed(1_000_000);
    rig.child(7, "gus");
    assert_eq!(rig.did(), [Did::Hang(7)], "nothing to pass on yet");
    rig.embedded("dan");
    assert_eq!(rig.did(), [accepts(true)]);
    rig.child(7, "gus");
    assert_eq!(rig.did(), sent_place(7, 0, "alice"));
    rig.embedded("dan");
    assert_eq!(rig.did(), [passed_on(7, "dan")]);
    assert_eq!(rig.searches(), ["dan some words", "dan some words"]);
    let view = rig.it.view();
    assert_eq!((view.level, view.root, view.children), (0, Some("alice".into()), vec!["gus".into()]));
    // A parent is better.
    rig.offer(&["bob"]);
    rig.up(1, "bob");
    rig.tell(1, 2, "ann");
    rig.did();
    rig.search(1, "eve");
    let mut expected = told(false, 3, "ann");
    expected.extend(sent_place(7, 3, "ann"));
    expected.push(passed_on(7, "eve"));
    assert_eq!(rig.did(), expected);
}

#[test]
fn children_are_limited_by_speed_settings_and_protocol() {
    for (speed, min, ratio, children_max, upload_limit, limit) in [
        (1_000_000, 1, 50, 10, None, 10),
        (1_000_000, 1, 50, 100, None, 10),
        (1_000_000, 1, 50, 3, None, 3),
        (15_000, 1, 50, 10, None, 3),
        (1_000_000, 1, 50, 10, Some(20_000), 4),
        (1_000_000, 1_000, 50, 10, None, 0),
        (1_000_000, u32::MAX, 50, 10, None, 0),
        (1_000_000, 1, u32::MAX, 10, None, 0),
        (1_000_000, 1, 0, 10, None, 10),
        (0, 1, 50, 10, None, 0),
        (1_000_000, 1, 50, 0, None, 0),
    ] {
        let mut rig = Rig::new();
        rig.it.on_settings(&Settings { children_max, upload_limit, ..settings() }, &mut rig.out);
        rig.server(&FromServer::ParentMinSpeed { speed: min });
        rig.server(&FromServer::ParentSpeedRatio { ratio });
        rig.speed(speed);
        rig.embedded("dan");
        for (conn, user) in (10..).zip(USERS) {
            rig.child(conn, user);
        }
        assert_eq!(rig.it.view().children.len(), limit, "{speed} {min} {ratio} {children_max} {upload_limit:?}");
        let told = rig.did().into_iter().filter(|did| matches!(did, Did::Server(ToServer::AcceptChildren { .. })));
        let expected = if limit == 0 { vec![] } else { vec![accepts(true), accepts(false)] };
        assert_eq!(told.collect::<Vec<_>>(), expected);
        if limit > 0 {
            rig.down(10);
            assert_eq!(rig.did(), [accepts(true)]);
        }
    }
}

#[test]
fn the_owner_may_want_fewer_children() {
    let mut rig = Rig::root();
    for (conn, user) in (10..).zip(&USERS[..5]) {
        rig.child(conn, user);
    }
    rig.did();
    rig.it.on_settings(&Settings { children_max: 3, ..settings() }, &mut rig.out);
    assert_eq!(rig.did(), [Did::Hang(14), Did::Hang(13), accepts(false)]);
    rig.it.on_settings(&Settings { children_max: 0, ..settings() }, &mut rig.out);
    assert_eq!(rig.did().len(), 3);
    assert_eq!(rig.it.view().children, []);
}

#[test]
fn a_child_that_comes_twice_counts_once_and_loses_its_first_connection() {
    let mut rig = Rig::root();
    rig.it.on_settings(&Settings { children_max: 1, ..settings() }, &mut rig.out);
    rig.child(7, "gus");
    rig.child(8, "gus");
    rig.child(9, "gus");
    rig.child(10, "hal");
    let mut expected = sent_place(7, 0, "alice");
    expected.push(accepts(false));
    expected.extend(sent_place(8, 0, "alice"));
    expected.extend([Did::Hang(9), Did::Hang(10)]);
    assert_eq!(rig.did(), expected);
    assert_eq!(rig.it.view().children.len(), 1);
    rig.embedded("dan");
    assert_eq!(rig.did(), [passed_on(7, "dan"), passed_on(8, "dan")]);
    rig.pass(30);
    assert_eq!(rig.did(), [Did::Hang(7)]);
    // It may also close the second by itself.
    let mut rig = Rig::root();
    rig.child(7, "gus");
    rig.child(8, "gus");
    rig.did();
    rig.down(8);
    rig.pass(60);
    assert_eq!(rig.did(), []);
}

#[test]
fn a_parent_is_no_child() {
    let mut rig = Rig::leaf();
    rig.child(7, "bob");
    rig.child(8, "alice");
    assert_eq!(rig.did(), [Did::Hang(7), Did::Hang(8)]);
    let mut rig = Rig::root();
    rig.child(7, "gus");
    rig.did();
    rig.offer(&["gus", "hal"]);
    assert_eq!(rig.did(), [Did::Call("hal")]);
    rig.child(8, "hal");
    rig.up(1, "hal");
    rig.tell(1, 0, "hal");
    rig.did();
    rig.search(1, "eve");
    assert_eq!(rig.did()[0], Did::Hang(8));
}

#[test]
fn reset_drops_everybody() {
    let mut rig = Rig::leaf();
    rig.child(7, "gus");
    rig.did();
    rig.server(&FromServer::ResetDistributed);
    let mut expected = vec![Did::Hang(7), Did::Hang(1)];
    expected.extend(told(true, 0, "alice"));
    expected.push(accepts(false));
    assert_eq!(rig.did(), expected);
    assert_eq!(rig.it.view(), TreeView::default());
    rig.offer(&["bob"]);
    assert_eq!(rig.did(), [Did::Call("bob")]);
    let mut rig = Rig::root();
    rig.server(&FromServer::ResetDistributed);
    rig.child(7, "gus");
    assert_eq!(rig.did().last(), Some(&Did::Hang(7)));
}

#[test]
fn logging_out_drops_everybody_without_a_word_to_the_server() {
    let mut rig = Rig::leaf();
    rig.child(7, "gus");
    rig.did();
    rig.it.on_logged_out(&mut rig.out);
    assert_eq!(rig.did(), [Did::Hang(7), Did::Hang(1)]);
    rig.offer(&["bob"]);
    rig.child(8, "hal");
    rig.up(2, "bob");
    assert_eq!(rig.did(), [Did::Hang(8), Did::Hang(2)]);
    assert_eq!(rig.it.next_timeout(), None);
    rig.it.on_logged_in(&"alice".into());
    rig.speed(1_000_000);
    rig.embedded("dan");
    assert_eq!(rig.did(), [accepts(true)]);
}
