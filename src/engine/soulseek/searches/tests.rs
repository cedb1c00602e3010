//! One box, scripted answers, a clock turned by hand.

use super::*;
use crate::engine::soulseek::chance::Chance;
use crate::engine::soulseek::effect::Effect;
use crate::engine::soulseek::io::{Action, ShareAsk};
use crate::engine::soulseek::peer::PeerMessage;
use crate::engine::soulseek::{Secret, Settings};
use crate::model::music::{Attributes, SharedFile, WireText};
use crate::model::record::{Change, Wish};
use crate::model::time::UnixMs;

struct Desk {
    searches: Searches,
    now: Now,
    settings: Settings,
    chance: Chance,
    out: Effects,
    tokens: Vec<Token>,
    told: Vec<SearchId>,
    wishes: BTreeMap<u64, Wish>,
}

impl Desk {
    fn new() -> Self {
        Self {
            searches: Searches::new(),
            now: Now { mono: Duration::from_secs(1_000), wall: UnixMs(1_700_000_000_000) },
            settings: Settings {
                username: "me".into(),
                password: Secret::default(),
                listen_port: 1,
                description: String::new(),
                upload_slots: 1,
                download_slots: 1,
                user_queue_files: 0,
                user_queue_mib: 0,
                queue_files: 0,
                queue_mib: 0,
                banned: vec!["eve".into()],
                children_max: 0,
                upload_limit: None,
                download_attempts_max: 1,
                failover: true,
                private_ranges: Vec::new(),
            },
            chance: Chance::new(3),
            out: Effects::new(),
            tokens: Vec::new(),
            told: Vec::new(),
            wishes: BTreeMap::new(),
        }
    }

    fn online() -> Self {
        let mut desk = Self::new();
        desk.with(Searches::on_logged_in);
        desk
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut Searches, &mut Turn<'_>) -> R) -> R {
        let mut turn = Turn { now: self.now, settings: &self.settings, chance: &mut self.chance, out: &mut self.out };
        f(&mut self.searches, &mut turn)
    }

    fn pass(&mut self, millis: u64) {
        let end = self.now.mono + Duration::from_millis(millis);
        let mut steps = 0;
        while let Some(at) = self.searches.next_timeout().filter(|at| *at <= end) {
            self.turn_to(at.max(self.now.mono));
            self.with(Searches::on_timeout);
            steps += 1;
            assert!(steps < 10_000, "deadlines never end");
        }
        self.turn_to(end);
    }

    fn turn_to(&mut self, mono: Duration) {
        self.now.wall = self.now.wall.plus(mono.saturating_sub(self.now.mono));
        self.now.mono = mono;
    }

    fn drain(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(effect) = self.out.pop() {
            match effect {
                Effect::Act(Action::Net(NetAction::SearchTokens(tokens))) => self.tokens = tokens,
                Effect::Act(Action::Notice(Notice::SearchChanged(id))) => self.told.push(id),
                Effect::Act(Action::Store(changes)) => {
                    for change in changes {
                        match change {
                            Change::Wish(wish) => drop(self.wishes.insert(wish.id, wish)),
                            Change::WishGone(id) => drop(self.wishes.remove(&id)),
                            other => panic!("{other:?}"),
                        }
                    }
                }
                Effect::Act(Action::Share(ShareAsk::Search { user, token, query })) => {
                    lines.push(format!("look up {user} {token} {query}"));
                }
                Effect::Act(Action::Reply(command, reply)) => lines.push(format!("reply {} {reply:?}", command.0)),
                Effect::ToServer(ToServer::FileSearch { query, .. }) => lines.push(format!("search {query}")),
                Effect::ToServer(ToServer::UserSearch { user, query, .. }) => {
                    lines.push(format!("search at {user} {query}"));
                }
                Effect::ToServer(ToServer::WishlistSearch { query, .. }) => lines.push(format!("wish {query}")),
                other => lines.push(format!("{other:?}")),
            }
        }
        let running: Vec<Token> = self
            .searches
            .runs
            .values()
            .filter(|run| run.view.state == SearchState::InProgress)
            .map(|run| Token(run.view.token))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        assert_eq!(self.tokens, running, "the shell lets in what runs");
        assert!(running.len() <= limits::SEARCHES_AT_ONCE);
        lines
    }

    fn start(&mut self, id: u128, text: &str) -> Vec<String> {
        self.request(plain_request(SearchId(id), text))
    }

    fn request(&mut self, request: SearchRequest) -> Vec<String> {
        self.with(|s, turn| s.start(CommandId(1), request, turn));
        self.drain()
    }

    fn state(&self, id: u128) -> SearchState {
        self.searches.view(SearchId(id)).unwrap().0.state
    }

    fn reply(&mut self, id: u128, user: &str, files: usize) {
        let token = Token(self.searches.view(SearchId(id)).unwrap().0.token);
        self.send_reply(reply(user, token, files));
    }

    fn send_reply(&mut self, reply: SearchReply) {
        self.with(|s, turn| s.on_reply(reply, turn));
        self.drain();
    }
}

fn reply(user: &str, token: Token, files: usize) -> SearchReply {
    let file = |n: usize| RemoteFile {
        code: 1,
        name: format!("a\\{n}.flac").into(),
        size: 10,
        extension: WireText::default(),
        attributes: vec![(1, 200), (4, 44_100)],
    };
    SearchReply {
        user: user.into(),
        token,
        files: (0..files).map(file).collect(),
        free_slot: true,
        upload_speed: 100,
        queue_length: 3,
        ..SearchReply::default()
    }
}

#[test]
fn a_search_from_start_to_end() {
    let mut desk = Desk::online();
    assert_eq!(desk.start(1, "  blue song "), ["reply 1 Done", "search blue song"]);
    assert_eq!(desk.state(1), SearchState::InProgress);
    for user in ["ann", "bob", "ann"] {
        desk.pass(10_000);
        desk.reply(1, user, 2);
    }
    desk.reply(1, "", 2);
    desk.reply(1, "nobody", 0);
    let (view, responses) = desk.searches.view(SearchId(1)).unwrap();
    assert_eq!((view.responses, view.files), (2, 4), "one answer per user, none of them empty");
    assert_eq!(responses[0].files[0].attributes.duration_s, Some(200));
    // Fifteen seconds after the last answer that was kept.
    desk.pass(4_999);
    assert_eq!(desk.state(1), SearchState::InProgress);
    desk.pass(1);
    desk.drain();
    assert_eq!(desk.state(1), SearchState::TimedOut);
    assert!(desk.tokens.is_empty() && desk.searches.views()[0].ended_at.is_some());
    desk.reply(1, "late", 2);
    assert_eq!(desk.searches.view(SearchId(1)).unwrap().0.responses, 2);
}

#[test]
fn no_search_lasts_longer_than_five_minutes() {
    let mut desk = Desk::online();
    desk.start(1, "x");
    for n in 0..29 {
        desk.pass(10_000);
        desk.reply(1, &format!("u{n}"), 1);
    }
    assert_eq!(desk.state(1), SearchState::InProgress);
    desk.pass(10_000);
    assert_eq!(desk.state(1), SearchState::TimedOut);
    desk.drain();
    let mut short = plain_request(SearchId(2), "x");
    short.timeout_ms = 1;
    desk.request(short);
    desk.pass(4_900);
    assert_eq!(desk.state(2), SearchState::InProgress, "five seconds at least");
    desk.pass(100);
    assert_eq!(desk.state(2), SearchState::TimedOut);
}

#[test]
fn two_run_at_once_and_the_rest_wait_their_turn() {
    let mut desk = Desk::online();
    for id in 1..=4 {
        desk.start(id, &format!("s{id}"));
    }
    assert_eq!([1, 2, 3, 4].map(|id| desk.state(id) == SearchState::InProgress), [true, true, false, false]);
    desk.with(|s, turn| s.stop(CommandId(2), SearchId(1), turn));
    assert_eq!(desk.drain(), ["reply 2 Done", "search s3"]);
    assert_eq!(desk.state(1), SearchState::Cancelled);
    desk.with(|s, turn| s.stop(CommandId(2), SearchId(1), turn));
    desk.with(|s, turn| s.forget(CommandId(3), SearchId(2), turn));
    assert_eq!(desk.drain(), ["reply 2 Done", "reply 3 Done", "search s4"]);
    for id in [2, 9] {
        desk.with(|s, turn| s.stop(CommandId(4), SearchId(id), turn));
        desk.with(|s, turn| s.forget(CommandId(5), SearchId(id), turn));
        assert_eq!(desk.drain(), ["reply 4 Refused(NotFound)", "reply 5 Refused(NotFound)"]);
    }
}

#[test]
fn one_bucket_paces_everything() {
    let mut desk = Desk::online();
    let mut sent = Vec::new();
    for id in 0..60_u128 {
        desk.with(|s, turn| {
            s.start(CommandId(1), plain_request(SearchId(id), "x"), turn);
            s.seek(TransferId(id), "other source", turn);
            s.stop(CommandId(1), SearchId(id), turn);
        });
        sent.push((desk.now.mono, desk.drain().iter().filter(|line| line.starts_with("search")).count()));
        desk.pass(20_000);
        sent.push((desk.now.mono, desk.drain().iter().filter(|line| line.starts_with("search")).count()));
    }
    let total: usize = sent.iter().map(|(_, count)| count).sum();
    assert!(total > 100, "{total}");
    for (at, _) in &sent {
        let window: usize =
            sent.iter().filter(|(t, _)| *t > *at && *t <= *at + Duration::from_secs(219)).map(|(_, n)| n).sum();
        assert!(window <= 34, "{window} at {at:?}");
    }
}

#[test]
fn the_bucket_holds_back_the_thirty_fifth() {
    let mut desk = Desk::online();
    for id in 0..35 {
        desk.start(id, "x");
        desk.with(|s, turn| s.stop(CommandId(1), SearchId(id), turn));
        desk.drain();
    }
    let queued = desk.start(99, "y");
    assert_eq!(queued, ["reply 1 Done"]);
    desk.pass(219_000);
    assert_eq!(desk.state(99), SearchState::Queued);
    desk.pass(1_000);
    assert_eq!(desk.drain(), ["search y"]);
}

#[test]
fn senseless_searches_are_refused() {
    let mut desk = Desk::new();
    assert_eq!(desk.start(1, "x"), ["reply 1 Refused(NotConnected)"]);
    desk.with(Searches::on_logged_in);
    for text in ["", "  ", "-live", "-- ?", &"x".repeat(257)] {
        assert!(desk.start(1, text)[0].starts_with("reply 1 Refused(Invalid("), "{text}");
    }
    desk.start(1, "x");
    assert_eq!(desk.start(1, "y"), ["reply 1 Refused(Duplicate)"]);
    let mut one = plain_request(SearchId(2), "x");
    one.user = Some("bob".into());
    assert_eq!(desk.request(one), ["reply 1 Done", "search at bob x"]);
    desk.reply(2, "ann", 1);
    desk.reply(2, "bob", 1);
    assert_eq!(desk.searches.view(SearchId(2)).unwrap().1[0].user, "bob".into());
}

#[test]
fn twenty_are_kept_and_the_oldest_finished_one_goes() {
    let mut desk = Desk::online();
    for id in 1..=20 {
        desk.start(id, "x");
    }
    assert_eq!(desk.start(21, "x"), ["reply 1 Refused(Full(\"20 searches are unfinished\"))"]);
    desk.with(|s, turn| s.stop(CommandId(1), SearchId(7), turn));
    desk.drain();
    desk.start(21, "x");
    assert!(desk.searches.view(SearchId(7)).is_none());
    assert_eq!(desk.searches.views().len(), 20);
    assert_eq!(desk.searches.views()[0].id, SearchId(21), "newest first");
}

#[test]
fn a_search_never_sent_ends_as_errored() {
    let mut desk = Desk::online();
    for id in 1..=3 {
        desk.start(id, "x");
    }
    desk.searches.on_logged_out();
    desk.pass(5 * 60_000);
    desk.drain();
    assert_eq!(desk.state(1), SearchState::TimedOut, "what was sent goes on without the server");
    assert_eq!(desk.state(3), SearchState::Errored);
    assert_eq!(desk.searches.next_timeout(), None);
}

#[test]
fn filters_and_limits_are_the_requests() {
    let mut desk = Desk::online();
    let filtered = SearchRequest {
        filter_responses: true,
        minimum_files: 2,
        maximum_queue: 5,
        minimum_speed: 50,
        response_limit: 3,
        ..plain_request(SearchId(1), "x")
    };
    desk.request(filtered);
    let token = Token(desk.searches.view(SearchId(1)).unwrap().0.token);
    desk.send_reply(reply("few", token, 1));
    desk.send_reply(SearchReply { queue_length: 6, ..reply("long", token, 2) });
    desk.send_reply(SearchReply { upload_speed: 49, ..reply("slow", token, 2) });
    assert_eq!(desk.searches.view(SearchId(1)).unwrap().0.responses, 0);
    for user in ["a", "b", "c"] {
        desk.reply(1, user, 2);
    }
    assert_eq!(desk.state(1), SearchState::ResponseLimitReached);

    desk.request(SearchRequest { file_limit: 5, ..plain_request(SearchId(2), "x") });
    desk.reply(2, "a", 3);
    desk.reply(2, "b", 3);
    assert_eq!(desk.state(2), SearchState::FileLimitReached);
}

#[test]
fn rows_are_bounded_and_what_finds_no_room_is_counted() {
    let mut desk = Desk::online();
    desk.start(1, "x");
    for n in 0..3 {
        desk.reply(1, &format!("u{n}"), 900);
    }
    desk.reply(1, "more", 1);
    let (view, responses) = desk.searches.view(SearchId(1)).unwrap();
    assert_eq!((view.files, responses.len(), responses[2].files.len()), (2_000, 3, 200));
    assert_eq!(desk.searches.counters().replies_dropped, 1);
}

#[test]
fn pages_hear_at_most_twice_a_second() {
    let mut desk = Desk::online();
    desk.start(1, "x");
    desk.told.clear();
    for n in 0..100 {
        desk.pass(20);
        desk.reply(1, &format!("u{n}"), 1);
    }
    assert!((3..=5).contains(&desk.told.len()), "{}", desk.told.len());
    desk.pass(500);
    desk.drain();
    let told = desk.told.len();
    desk.pass(5_000);
    desk.drain();
    assert_eq!(desk.told.len(), told, "no news, no notice");
    desk.pass(15_000);
    desk.drain();
    assert_eq!(desk.told.len(), told + 1, "the end is news");
}

#[test]
fn other_sources_are_collected_for_twelve_seconds() {
    let mut desk = Desk::online();
    desk.with(|s, turn| s.seek(TransferId(5), "blue song", turn));
    assert_eq!(desk.drain(), ["search blue song"]);
    assert!(desk.searches.views().is_empty(), "the owner did not ask for it");
    let token = desk.tokens[0];
    desk.send_reply(reply("ann", token, 2));
    desk.pass(11_900);
    assert_eq!(desk.searches.pop_event(), None);
    desk.pass(100);
    desk.drain();
    let Some(SearchEvent::Candidates { transfer, candidates }) = desk.searches.pop_event() else { panic!() };
    assert_eq!((transfer, candidates.len()), (TransferId(5), 2));
    assert_eq!((candidates[0].user.as_str(), candidates[0].size, candidates[0].speed), ("ann", 10, 100));
    assert!(desk.told.is_empty() && desk.searches.runs.is_empty());
}

#[test]
fn a_search_for_other_sources_that_cannot_be_sent_finds_nothing() {
    let mut desk = Desk::online();
    desk.with(|s, turn| s.seek(TransferId(1), "", turn));
    assert!(matches!(desk.searches.pop_event(), Some(SearchEvent::Candidates { .. })));
    desk.searches.on_logged_out();
    for id in 0..70 {
        desk.with(|s, turn| s.seek(TransferId(id), "x", turn));
        desk.with(|s, turn| s.seek(TransferId(id), "x", turn));
    }
    let refused = std::iter::from_fn(|| desk.searches.pop_event()).count();
    assert_eq!(refused, 12, "each time it was asked for");
    desk.pass(60 * 60_000);
    assert_eq!(desk.searches.pop_event(), None, "an outage is not taken for an answer");
    desk.with(Searches::on_logged_in);
    desk.pass(20 * 60_000);
    desk.drain();
    assert_eq!(std::iter::from_fn(|| desk.searches.pop_event()).count(), 64);
}

#[test]
fn wishes_take_turns_at_the_servers_interval() {
    let mut desk = Desk::new();
    for text in ["one", "two", "Two", "-"] {
        desk.with(|s, turn| s.add_wish(CommandId(1), text, turn));
    }
    let lines = desk.drain();
    assert_eq!(lines[..3], ["reply 1 Wish(1)", "reply 1 Wish(2)", "reply 1 Refused(Duplicate)"]);
    assert!(lines[3].contains("Invalid"));
    desk.pass(3_600_000);
    assert_eq!(desk.drain(), [""; 0], "nothing without a login");
    desk.with(Searches::on_logged_in);
    let now = desk.now;
    desk.searches.on_wish_interval(300, now);
    desk.pass(30_000);
    assert_eq!(desk.drain(), ["wish one"]);
    let (id, token) = (desk.searches.views()[0].id, desk.tokens[0]);
    assert_eq!(desk.searches.views()[0].text, "wish: one");
    desk.send_reply(reply("ann", token, 3));
    desk.pass(20_000);
    desk.drain();
    assert_eq!((desk.wishes[&1].found, desk.wishes[&1].searched_at.is_some()), (3, true));
    assert_eq!(desk.searches.view(id).unwrap().1.len(), 1, "its last run can be looked at");
    desk.pass(279_999);
    assert_eq!(desk.drain(), [""; 0]);
    desk.pass(1);
    assert_eq!(desk.drain(), ["wish two"]);
    desk.pass(300_000);
    assert_eq!(desk.drain(), ["wish one"]);
    assert_eq!(desk.searches.views().len(), 2, "one run per wish");
    // A quick reconnect does not shorten the interval.
    desk.searches.on_logged_out();
    desk.with(Searches::on_logged_in);
    desk.pass(299_000);
    assert_eq!(desk.drain(), [""; 0]);
    desk.with(|s, turn| s.remove_wish(CommandId(2), 2, turn.out));
    desk.with(|s, turn| s.remove_wish(CommandId(3), 2, turn.out));
    assert_eq!(desk.drain(), ["reply 2 Done", "reply 3 Refused(NotFound)"]);
    assert_eq!(desk.searches.wishes(), desk.wishes.values().cloned().collect::<Vec<_>>());
}

#[test]
fn wishes_outlive_a_restart_and_are_bounded() {
    let mut desk = Desk::new();
    for n in 0..=limits::WISHES {
        desk.with(|s, turn| s.add_wish(CommandId(1), &format!("wish{n}"), turn));
    }
    assert!(desk.drain().last().unwrap().contains("100 wishes"));
    let wishes = desk.searches.wishes();
    let mut desk = Desk::online();
    desk.searches.load_wishes(wishes);
    desk.pass(30_000);
    assert_eq!(desk.drain(), ["wish wish0"]);
}

#[test]
fn searches_of_others_are_looked_up_and_answered() {
    let mut desk = Desk::online();
    let ask = |desk: &mut Desk, user: &str, token: u32, query: &str| {
        desk.with(|s, turn| s.on_search(&user.into(), Token(token), query, turn));
        desk.drain()
    };
    assert_eq!(ask(&mut desk, "bob", 7, "blue"), ["look up bob 7 blue"]);
    for (user, query) in [("me", "x"), ("eve", "x"), ("bob", " "), ("", "x"), ("bob", &"x".repeat(257))] {
        assert_eq!(ask(&mut desk, user, 8, query), [""; 0], "{user} {query}");
    }
    assert_eq!(ask(&mut desk, "bob", 7, "blue"), [""; 0], "already being looked up");
    let file = SharedFile {
        path: "m\\a.mp3".to_owned(),
        size: 5,
        attributes: Attributes { bitrate_kbps: Some(320), vbr: Some(false), ..Attributes::default() },
    };
    let standing = Standing { free_slot: true, speed: 9, queue_length: 2 };
    let hits = |desk: &mut Desk, token: u32, files: Vec<SharedFile>| {
        desk.with(|s, turn| s.on_hits(&"bob".into(), Token(token), files, standing, turn));
        let mut replies = Vec::new();
        while let Some(effect) = desk.out.pop() {
            let Effect::ToUser { user, message: PeerMessage::FileSearchResponse(reply), .. } = effect else {
                panic!("{effect:?}")
            };
            replies.push((user, reply));
        }
        replies
    };
    let replies = hits(&mut desk, 7, vec![file.clone()]);
    let (user, reply) = &replies[0];
    assert_eq!((user.as_str(), reply.user.as_str(), reply.token), ("bob", "me", Token(7)));
    assert_eq!((reply.free_slot, reply.upload_speed, reply.queue_length), (true, 9, 2));
    assert_eq!(reply.files[0].attributes, [(0, 320), (2, 0)]);
    assert!(hits(&mut desk, 7, vec![file.clone()]).is_empty(), "nobody asked");
    ask(&mut desk, "bob", 9, "blue");
    assert!(hits(&mut desk, 9, Vec::new()).is_empty(), "nothing found, nothing said");
    let counters = desk.searches.counters();
    assert_eq!((counters.seen, counters.answered), (7, 1));
}

#[test]
fn nobody_gets_more_than_a_share_of_the_lookups() {
    let mut desk = Desk::online();
    let ask = |desk: &mut Desk, user: &str, token: u32| {
        desk.with(|s, turn| s.on_search(&user.into(), Token(token), "x", turn));
        let looked_up = desk.drain().len();
        desk.with(|s, turn| s.on_hits(&user.into(), Token(token), Vec::new(), Standing::default(), turn));
        looked_up
    };
    assert_eq!((0..40).map(|n| ask(&mut desk, "bob", n)).sum::<usize>(), 20);
    assert_eq!(ask(&mut desk, "ann", 1), 1);
    desk.pass(10_000);
    assert_eq!(ask(&mut desk, "bob", 50), 1);
    // Many names do not fill the memory.
    for n in 0..3_000 {
        ask(&mut desk, &format!("u{n}"), n);
    }
    assert!(desk.searches.incoming.rates.len() <= 1_024);
    assert_eq!(desk.searches.counters().dropped, 20 + 3_000 - (1_024 - 1), "bob alone is still counted");
}

#[test]
fn lookups_that_never_end_make_room_again() {
    let mut desk = Desk::online();
    let ask = |desk: &mut Desk, n: u32| {
        desk.with(|s, turn| s.on_search(&format!("u{n}").as_str().into(), Token(n), "x", turn));
        desk.drain().len()
    };
    assert_eq!((0..100).map(|n| ask(&mut desk, n)).sum::<usize>(), limits::PENDING_LOOKUPS);
    desk.pass(30_000);
    assert_eq!(ask(&mut desk, 200), 1);
}

#[test]
fn excluded_phrases_are_handed_on() {
    let desk = Desk::online();
    let mut out = Effects::new();
    desk.searches.on_excluded(&["Bad Words".into(), " ".into()], &mut out);
    let Some(Effect::Act(Action::Share(ShareAsk::Excluded(phrases)))) = out.pop() else { panic!() };
    assert_eq!(phrases, ["bad words"]);
}

#[test]
fn what_an_answer_offered_is_known_while_the_search_is_kept() {
    let mut desk = Desk::online();
    desk.start(1, "blue");
    desk.reply(1, "bob", 2);
    let offers = |desk: &Desk, user: &str, path: &str| desk.searches.offers(&user.into(), &path.into());
    assert!(offers(&desk, "bob", "a\\1.flac"));
    assert!(!offers(&desk, "bob", "a\\2.flac") && !offers(&desk, "ann", "a\\1.flac"));
    desk.with(|searches, turn| searches.forget(CommandId(2), SearchId(1), turn));
    assert!(!offers(&desk, "bob", "a\\1.flac"));
}
