//! Users: pace, refusals, absence, other sizes, other sources.

use super::*;

#[test]
fn one_user_gets_fifty_requests_and_then_one_for_each_that_is_done() {
    let mut desk = Desk::online();
    let files: Vec<(String, u64)> = (0..60).map(|n| (format!("a\\{n:02}"), 10)).collect();
    let files: Vec<(&str, u64)> = files.iter().map(|(path, size)| (path.as_str(), *size)).collect();
    let lines = desk.enqueue(Desk::request("bob", &files));
    assert_eq!(lines.len(), 2 + 50);
    assert_eq!(lines[2], "43 bob a\\00");
    assert!(desk.reason(desk.ids[55]).contains("its turn with bob"));
    assert_eq!(desk.state(desk.ids[55]), "Queued, Locally");
    assert_eq!(desk.offer("bob", 1, "a\\07", 10), ["41 bob 1 ok None", "43 bob a\\50"]);
    assert_eq!(desk.deny("bob", "a\\08", "Cancelled"), ["43 bob a\\51"]);
}

#[test]
fn a_second_carries_a_hundred_requests_users_in_turn() {
    let mut desk = Desk::online();
    let files: Vec<(String, u64)> = (0..50).map(|n| (format!("a\\{n:02}"), 10)).collect();
    let files: Vec<(&str, u64)> = files.iter().map(|(path, size)| (path.as_str(), *size)).collect();
    desk.with(Downloads::on_logged_out);
    for user in ["ann", "bob", "cyd"] {
        desk.enqueue(Desk::request(user, &files));
    }
    desk.with(Downloads::on_logged_in);
    let asked = |lines: Vec<String>| lines.into_iter().filter(|line| line.starts_with("43")).collect::<Vec<_>>();
    let first = asked(desk.drain());
    assert_eq!(first.len(), 100);
    assert_eq!(first[..3], ["43 ann a\\00", "43 bob a\\00", "43 cyd a\\00"]);
    desk.pass(1);
    assert_eq!(asked(desk.drain()).len(), 50);
}

#[test]
fn later_means_later_for_all_of_the_users_files() {
    for reason in ["Too many files", "Too many megabytes", "Pending shutdown."] {
        let mut desk = Desk::online();
        let one = desk.want("bob", "a\\1", 10);
        assert_eq!(desk.deny("bob", "a\\1", reason), NONE);
        assert_eq!((desk.state(one), desk.record(one).attempts), ("Queued, Locally", 1));
        let two = desk.want("bob", "a\\2", 10);
        assert!(desk.reason(two).contains("left alone"));
        desk.pass(5 * 60 - 1);
        assert_eq!(desk.drain(), NONE, "{reason}");
        desk.pass(76);
        let asked = desk.drain().into_iter().filter(|line| line.starts_with("43")).count();
        assert_eq!(asked, 2, "{reason}");
        assert_eq!(desk.record(one).attempts, 1, "being told to wait costs no attempt");
        let mut pauses = Vec::new();
        for _ in 0..4 {
            desk.deny("bob", "a\\1", reason);
            pauses.push(desk.record(one).next_attempt_at.unwrap().since(desk.now.wall).as_secs() / 60);
            desk.pass(31 * 60);
            desk.drain();
        }
        assert!(pauses[0] >= 10 && pauses[1] >= 20 && pauses[3] >= 24 && pauses[3] <= 30, "{pauses:?}");
    }
}

#[test]
fn queued_is_no_refusal() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 10);
    assert_eq!(desk.deny("bob", "a\\1", "Queued"), NONE);
    assert_eq!(desk.state(id), "Queued, Remotely");
}

#[test]
fn a_path_not_shared_is_tried_once_in_latin1() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\Fj\u{f6}rd.mp3", 10);
    assert_eq!(desk.deny("bob", "a\\Fj\u{f6}rd.mp3", "File not shared."), ["43 bob a\\Fj\u{f6}rd.mp3"]);
    assert!(desk.record(id).path.is_latin1());
    assert_eq!(desk.deny("bob", "a\\Fj\u{f6}rd.mp3", "File not shared."), ["unwatch bob"]);
    assert_eq!(desk.state(id), "Completed, Rejected");
    assert_eq!(desk.reason(id), "bob refuses: File not shared");

    let plain = desk.want("bob", "a\\plain.mp3", 10);
    desk.deny("bob", "a\\plain.mp3", "File not shared.");
    assert_eq!(desk.state(plain), "Completed, Rejected");
}

#[test]
fn other_refusals_end_it() {
    for reason in ["File read error.", "Banned", "Cancelled", "Disallowed extension", "Complete", "queued", "\u{202e}x"]
    {
        let mut desk = Desk::online();
        let id = desk.want("bob", "a\\1", 10);
        desk.deny("bob", "a\\1", reason);
        assert_eq!(desk.state(id), "Completed, Rejected", "{reason}");
    }
}

#[test]
fn silence_asks_for_the_place_and_then_for_the_file() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 10);
    desk.pass(5);
    assert_eq!(desk.drain(), ["51 bob a\\1"]);
    desk.pass(5 * 60 - 1);
    assert_eq!(desk.drain(), NONE, "five minutes between two questions");
    desk.pass(25 * 60);
    let lines = desk.drain();
    assert_eq!(lines.iter().filter(|line| line.starts_with("51")).count(), 5, "{lines:?}");
    desk.pass(60);
    assert_eq!(desk.drain(), ["43 bob a\\1"]);
    assert_eq!(desk.record(id).attempts, 1);
    // As long as the user answers, the wait may last for days.
    for _ in 0..200 {
        desk.pass(5 * 60);
        desk.hear("bob", &PeerMessage::PlaceInQueueResponse { path: "a\\1".into(), place: 900 });
        assert!(!desk.drain().contains(&"43 bob a\\1".to_owned()));
    }
    assert_eq!(desk.state(id), "Queued, Remotely");
}

#[test]
fn an_offline_user_is_waited_for_and_asked_on_return() {
    let mut desk = Desk::online();
    let one = desk.want("bob", "a\\1", 10);
    let two = desk.want("bob", "a\\2", 10);
    assert_eq!(desk.unreachable("bob", one, true), NONE);
    for id in [one, two] {
        assert_eq!((desk.state(id), desk.reason(id).as_str()), ("Queued, Locally", "bob is offline"));
        assert_eq!(desk.record(id).attempts, 1);
    }
    let three = desk.want("bob", "a\\3", 10);
    assert_eq!(desk.reason(three), "bob is offline");
    desk.pass(20 * 60);
    assert_eq!(desk.drain(), NONE);
    desk.with(|d, turn| d.on_user_status(&"bob".into(), true, turn));
    assert_eq!(desk.drain(), ["43 bob a\\1", "43 bob a\\2", "43 bob a\\3"]);
    assert_eq!(desk.record(one).attempts, 1, "absence costs no attempt");
    desk.with(|d, turn| d.on_user_status(&"bob".into(), true, turn));
    assert_eq!(desk.drain(), NONE, "online as before");
    desk.with(|d, turn| d.on_user_status(&"bob".into(), false, turn));
    assert_eq!(desk.state(one), "Queued, Locally");
    // The word that the user is back never comes: one request finds out.
    desk.pass(30 * 60);
    assert_eq!(desk.drain(), ["43 bob a\\1"]);
    desk.hear("bob", &PeerMessage::PlaceInQueueResponse { path: "a\\1".into(), place: 1 });
    desk.pass(30 * 60);
    assert!(desk.downloads.live.values().all(|d| !matches!(d.phase, Phase::Ready)), "and then all are asked");
}

#[test]
fn a_pause_after_a_failure_ends_when_the_user_comes_back() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 10);
    desk.unreachable("bob", id, false);
    assert!(desk.reason(id).contains("cannot be reached"));
    desk.with(|d, turn| d.on_user_status(&"bob".into(), false, turn));
    desk.drain();
    desk.with(|d, turn| d.on_user_status(&"bob".into(), true, turn));
    assert_eq!(desk.drain(), ["43 bob a\\1"]);
    assert_eq!(desk.record(id).attempts, 2);
}

#[test]
fn an_unreachable_user_is_tried_with_one_request_at_a_time() {
    let mut desk = Desk::online();
    desk.settings.download_attempts_max = 2;
    let one = desk.want("bob", "a\\1", 10);
    let two = desk.want("bob", "a\\2", 10);
    desk.unreachable("bob", one, false);
    desk.unreachable("bob", two, false);
    desk.pass(30);
    assert_eq!(desk.drain(), NONE, "left alone for a minute");
    desk.pass(31);
    assert_eq!(desk.drain().len(), 1);
    let asked = if desk.state(one) == "Queued, Remotely" { one } else { two };
    desk.unreachable("bob", asked, false);
    assert_eq!(desk.state(asked), "Completed, TimedOut");
}

#[test]
fn at_most_a_hundred_users_are_watched() {
    let mut desk = Desk::online();
    let ids: Vec<TransferId> = (0..105).map(|n| desk.want(&format!("u{n:03}"), "a\\1", 10)).collect();
    let watched = |desk: &Desk| desk.downloads.users.values().filter(|user| user.watched).count();
    assert_eq!(watched(&desk), 100);
    desk.with(|d, turn| d.cancel(CommandId(1), ids[0], false, turn));
    let lines = desk.drain();
    assert_eq!(lines[..2], ["unwatch u000", "watch u100"]);
    assert_eq!(watched(&desk), 100);
}

#[test]
fn another_size_is_another_file() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 10);
    assert_eq!(desk.offer("bob", 1, "a\\1", 11), ["41 bob 1 Cancelled", "unwatch bob"]);
    assert_eq!(desk.state(id), "Completed, Rejected");
    assert_eq!(desk.reason(id), "bob offers 11 bytes instead of 10");

    let unknown = desk.want("bob", "a\\2", 0);
    assert_eq!(desk.offer("bob", 2, "a\\2", 11), ["41 bob 2 ok None"]);
    assert_eq!(desk.record(unknown).size, 11);
    assert_eq!(desk.connect("bob", 2), ["receive 2 fresh 11"]);
}

#[test]
fn a_size_cut_to_32_bits_is_corrected_and_the_partial_forgotten() {
    let mut desk = Desk::online();
    let real = 5 << 30;
    let id = desk.want("bob", "a\\1", 1 << 30);
    desk.begin(id, "bob", 1, 0);
    desk.end(id, ReceiveEnd::Closed { position: 5 });
    desk.pass(40);
    desk.drain();
    assert_eq!(desk.offer("bob", 2, "a\\1", real), ["discard", "41 bob 2 ok None"]);
    assert_eq!(desk.record(id).size, real);
    assert_eq!(desk.connect("bob", 2), [format!("receive 2 fresh {real}")]);
}

fn failing(path: &str) -> (Desk, TransferId) {
    let mut desk = Desk::online();
    desk.settings.failover = true;
    desk.settings.download_attempts_max = 1;
    let id = desk.want("bob", path, 1000);
    (desk, id)
}

#[test]
fn the_best_fitting_user_takes_over() {
    let (mut desk, id) = failing("a\\Blue Song.flac");
    let lines = desk.deny("bob", "a\\Blue Song.flac", "Banned");
    assert_eq!(lines, ["seek Blue Song"]);
    assert_eq!(desk.state(id), "Queued, Locally");
    assert_eq!(desk.reason(id), "bob refuses: Banned; looking for another user");
    let c = Desk::candidate;
    let found = vec![
        c("bob", "b\\Blue Song.flac", 1000),
        c("me", "b\\Blue Song.flac", 1000),
        c("ann", "x\\Blue Song.flac", 999),
        c("ann", "x\\Blue Song.mp3", 1000),
        Candidate { speed: 9, ..c("cyd", "c\\Blue Song.FLAC", 1000) },
        Candidate { free_slot: true, speed: 5, ..c("dan", "d\\Blue Song.flac", 1000) },
        Candidate { free_slot: true, speed: 5, queue: 3, ..c("eve", "e\\Blue Song.flac", 1000) },
    ];
    assert_eq!(desk.candidates(id, found), ["unwatch bob", "watch dan", "43 dan d\\Blue Song.flac"]);
    let record = desk.record(id);
    assert_eq!((record.attempts, record.tried), (1, vec!["bob".into(), "dan".into()]));
    assert_eq!(desk.offer("bob", 1, "a\\Blue Song.flac", 1000), ["41 bob 1 Cancelled"], "no longer wanted there");
    // The next ones are known already: no second search.
    let lines = desk.deny("dan", "d\\Blue Song.flac", "File read error.");
    assert_eq!(lines.last().unwrap(), "43 eve e\\Blue Song.flac");
    desk.deny("eve", "e\\Blue Song.flac", "Cancelled");
    let lines = desk.deny("cyd", "c\\Blue Song.FLAC", "Cancelled");
    assert_eq!(lines, ["seek Blue Song"]);
    assert_eq!(desk.candidates(id, vec![c("dan", "d\\Blue Song.flac", 1000)]), ["unwatch cyd"]);
    assert_eq!((desk.state(id), desk.reason(id).as_str()), ("Completed, Rejected", "cyd refuses: Cancelled"));
}

#[test]
fn exhausted_attempts_lead_elsewhere_and_end_when_nobody_else_has_it() {
    let (mut desk, id) = failing("a\\Song.flac");
    desk.begin(id, "bob", 1, 0);
    assert_eq!(desk.end(id, ReceiveEnd::Closed { position: 5 }), ["seek Song"]);
    assert_eq!(desk.candidates(id, Vec::new()), ["unwatch bob"]);
    assert_eq!(desk.state(id), "Completed, Errored");

    let stalled = desk.want("bob", "a\\Tune.flac", 1000);
    desk.offer("bob", 2, "a\\Tune.flac", 1000);
    desk.pass(31);
    desk.drain();
    assert_eq!(desk.state(stalled), "Queued, Locally");
    desk.pass(15 * 60);
    desk.drain();
    assert_eq!(desk.state(stalled), "Completed, TimedOut", "a search that never answers found nothing");
}

#[test]
fn without_failover_it_ends() {
    let (mut desk, id) = failing("a\\Song.flac");
    desk.settings.failover = false;
    assert_eq!(desk.deny("bob", "a\\Song.flac", "Banned"), ["unwatch bob"]);
    assert_eq!(desk.state(id), "Completed, Rejected");
}

#[test]
fn at_most_eight_users_are_tried() {
    let (mut desk, id) = failing("a\\Song.flac");
    let mut user = "bob".to_owned();
    for n in 2..=8 {
        desk.deny(&user, "a\\Song.flac", "Banned");
        user = format!("u{n}");
        desk.candidates(id, vec![Desk::candidate(&user, "a\\Song.flac", 1000)]);
        assert_eq!(desk.record(id).tried.len(), n);
    }
    desk.deny(&user, "a\\Song.flac", "Banned");
    assert_eq!(desk.state(id), "Completed, Rejected");
}

#[test]
fn a_user_whose_paths_changed_is_found_again() {
    let (mut desk, id) = failing("@@abc\\Song.flac");
    desk.deny("bob", "@@abc\\Song.flac", "File not shared.");
    let found =
        vec![Desk::candidate("bob", "@@abc\\Song.flac", 1000), Desk::candidate("bob", "@@xyz\\Song.flac", 1000)];
    assert_eq!(desk.candidates(id, found).last().unwrap(), "43 bob @@xyz\\Song.flac");
    desk.begin(id, "bob", 1, 0);
    assert_eq!(desk.record(id).tried, ["bob".into()]);
}

#[test]
fn differing_bytes_drop_the_user_and_at_last_begin_anew() {
    let (mut desk, id) = failing("a\\Song.flac");
    desk.begin(id, "bob", 1, 0);
    desk.end(id, ReceiveEnd::Closed { position: 500 });
    desk.candidates(
        id,
        vec![Desk::candidate("cyd", "c\\Song.flac", 1000), Desk::candidate("dan", "d\\Song.flac", 1000)],
    );
    desk.offer("cyd", 2, "c\\Song.flac", 1000);
    assert_eq!(desk.connect("cyd", 2), ["receive 2 join 1000"]);
    assert_eq!(desk.end(id, ReceiveEnd::OverlapDiffers).last().unwrap(), "43 dan d\\Song.flac");
    assert!(desk.record(id).partial.is_some(), "bob's bytes are kept for the next one");
    desk.offer("dan", 3, "d\\Song.flac", 1000);
    assert_eq!(desk.connect("dan", 3), ["receive 3 join 1000"]);
    assert_eq!(desk.end(id, ReceiveEnd::OverlapDiffers), ["seek Song"]);
    assert_eq!(desk.candidates(id, Vec::new()), ["discard", "43 dan d\\Song.flac"]);
    desk.offer("dan", 4, "d\\Song.flac", 1000);
    assert_eq!(desk.connect("dan", 4), ["receive 4 fresh 1000"]);
}

#[test]
fn four_searches_for_other_sources_run_at_once() {
    let mut desk = Desk::online();
    desk.settings.failover = true;
    let ids: Vec<TransferId> = (0..6).map(|n| desk.want("bob", &format!("a\\Song{n}.flac"), 1000)).collect();
    let mut sought = Vec::new();
    for n in 0..6 {
        sought.extend(desk.deny("bob", &format!("a\\Song{n}.flac"), "Banned"));
    }
    assert_eq!(sought, ["seek Song0", "seek Song1", "seek Song2", "seek Song3"]);
    let lines = desk.candidates(ids[1], Vec::new());
    assert!(lines.iter().any(|line| line.starts_with("seek Song")), "{lines:?}");
    desk.with(|d, turn| d.cancel(CommandId(1), ids[0], false, turn));
    let lines = desk.drain();
    assert!(lines.iter().any(|line| line.starts_with("seek Song")), "{lines:?}");
    assert_eq!(desk.candidates(ids[0], vec![Desk::candidate("x", "a\\Song0.flac", 1000)]), NONE, "called off");
}

#[test]
fn a_name_without_words_is_not_searched_for() {
    let (mut desk, id) = failing("a\\1.flac");
    assert_eq!(desk.deny("bob", "a\\1.flac", "Banned"), ["unwatch bob"]);
    assert_eq!(desk.state(id), "Completed, Rejected");
}

#[test]
fn a_ban_goes_for_all_files_and_is_remembered_for_an_hour() {
    let mut desk = Desk::online();
    let files: Vec<(String, u64)> = (0..60).map(|n| (format!("a\\Song {n}.flac"), 10)).collect();
    let files: Vec<(&str, u64)> = files.iter().map(|(path, size)| (path.as_str(), *size)).collect();
    desk.enqueue(Desk::request("bob", &files));
    assert_eq!(desk.deny("bob", "a\\Song 8.flac", "Banned"), ["unwatch bob"], "nothing more is asked");
    assert_eq!(desk.downloads.len(), 0);
    assert!(desk.ids.iter().all(|id| desk.state(*id) == "Completed, Rejected"));
    assert_eq!(desk.reason(desk.ids[59]), "bob refuses: Banned");
    // Not a source for others' files either; what the owner wants there is asked for, but only one at a time.
    desk.settings.failover = true;
    let id = desk.want("ann", "b\\Tune.flac", 1000);
    desk.deny("ann", "b\\Tune.flac", "Cancelled");
    desk.candidates(id, vec![Desk::candidate("bob", "x\\Tune.flac", 1000)]);
    assert_eq!(desk.state(id), "Completed, Rejected");
    desk.settings.failover = false;
    let asked = |lines: Vec<String>| lines.iter().filter(|line| line.starts_with("43")).count();
    assert_eq!(asked(desk.enqueue(Desk::request("bob", &files))), 1);
    desk.deny("bob", "a\\Song 0.flac", "Banned");
    assert_eq!(desk.downloads.len(), 0);
    desk.pass(3_600);
    assert_eq!(asked(desk.enqueue(Desk::request("bob", &files))), 50);
}
