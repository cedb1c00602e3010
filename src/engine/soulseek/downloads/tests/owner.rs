//! Wanting, calling off, trying again, places; start and login.

use super::*;

#[test]
fn each_file_is_judged_on_its_own() {
    let mut desk = Desk::online();
    let long = format!("a\\{}", "x".repeat(5_000));
    let lines = desk.enqueue(Desk::request(
        "bob",
        &[("a\\1.mp3", 10), ("a\\1.mp3", 10), ("", 1), ("a\\", 1), (&long, 1), ("a\\big", u64::MAX), ("a\\0", 0)],
    ));
    assert!(lines[1].starts_with("enqueued 2 failed [\"a\\\\1.mp3: already wanted\", \": the path names no file\""));
    assert!(lines[1].contains("5002 bytes, at most 4096") && lines[1].contains("more than any file"), "{lines:?}");
    assert_eq!(lines[2..], ["43 bob a\\1.mp3", "43 bob a\\0"]);
}

#[test]
fn senseless_requests_are_refused_whole() {
    let mut desk = Desk::online();
    let many: Vec<(String, u64)> = (0..=limits::BATCH_FILES).map(|n| (format!("a\\{n}"), 1)).collect();
    let many: Vec<(&str, u64)> = many.iter().map(|(path, size)| (path.as_str(), *size)).collect();
    for (request, why) in [
        (Desk::request("", &[("a", 1)]), "user name is empty"),
        (Desk::request("me", &[("a", 1)]), "our own files"),
        (Desk::request("bob", &[]), "no files"),
        (Desk::request("bob", &many), "1001 files at once"),
    ] {
        let lines = desk.enqueue(request);
        assert!(lines.len() == 1 && lines[0].contains(why), "{lines:?}");
    }
    assert!(desk.downloads.is_empty());
}

#[test]
fn batches_and_destinations_are_recorded() {
    let mut desk = Desk::online();
    let mut request = Desk::request("bob", &[("a\\1.mp3", 10), ("a\\2.mp3", 10)]);
    request.batch = Some(BatchId(5));
    request.destination = Some("../Jazz\\Live".to_owned());
    request.external = Some("mark".to_owned());
    desk.enqueue(request.clone());
    assert_eq!(desk.batches[0].transfers, desk.ids);
    assert_eq!(desk.record(desk.ids[0]).destination.as_deref(), Some("Jazz/Live"));
    assert_eq!(desk.record(desk.ids[0]).batch, Some(BatchId(5)));
    assert_eq!(desk.enqueue(request), ["reply 1 Refused(Duplicate)"]);
}

#[test]
fn nothing_in_bulk_while_nothing_is_shared() {
    let mut desk = Desk::online();
    desk.downloads.set_shared_files(0);
    let files: Vec<(String, u64)> = (0..60).map(|n| (format!("a\\{n}"), 1)).collect();
    let files: Vec<(&str, u64)> = files.iter().map(|(path, size)| (path.as_str(), *size)).collect();
    let lines = desk.enqueue(Desk::request("bob", &files));
    assert!(lines[1].starts_with("enqueued 50") && lines[1].contains("nothing is shared"), "{}", lines[1]);
    desk.downloads.set_shared_files(1);
    assert!(desk.enqueue(Desk::request("bob", &files[55..]))[0].starts_with("enqueued 5 failed []"));
}

#[test]
fn no_more_than_the_limit_is_taken() {
    let mut desk = Desk::new();
    let files: Vec<(String, u64)> = (0..1_000).map(|n| (format!("a\\{n}"), 1)).collect();
    let files: Vec<(&str, u64)> = files.iter().map(|(path, size)| (path.as_str(), *size)).collect();
    for user in 0..limits::DOWNLOADS / 1_000 {
        desk.with(|d, turn| d.enqueue(CommandId(1), Desk::request(&format!("u{user}"), &files), turn));
    }
    desk.with(|d, turn| d.enqueue(CommandId(1), Desk::request("last", &files[..1]), turn));
    assert!(desk.drain().last().unwrap().contains("no more fit"));
    assert_eq!(desk.downloads.len(), limits::DOWNLOADS);
}

#[test]
fn without_login_everything_waits_and_nothing_is_lost() {
    let mut desk = Desk::new();
    assert_eq!(desk.enqueue(Desk::request("bob", &[("a\\1", 10), ("a\\2", 10)])), ["enqueued 2 failed []"]);
    let (one, two) = (desk.ids[0], desk.ids[1]);
    assert_eq!((desk.state(one), desk.reason(one).as_str()), ("Queued, Locally", "not logged in"));
    desk.with(Downloads::on_logged_in);
    assert_eq!(desk.drain(), ["watch bob", "43 bob a\\1", "43 bob a\\2"]);
    desk.begin(one, "bob", 1, 0);
    desk.with(Downloads::on_logged_out);
    assert_eq!(desk.drain(), NONE);
    assert_eq!((desk.state(one), desk.state(two)), ("InProgress", "Queued, Locally"));
    assert_eq!(desk.reason(two), "not logged in");
    desk.pass(30);
    desk.with(Downloads::on_logged_in);
    assert_eq!(desk.drain(), ["watch bob", "43 bob a\\2"]);
    assert_eq!(desk.record(two).attempts, 1, "a lost login costs no attempt");
}

#[test]
fn an_offer_is_taken_even_while_logged_out() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 10);
    desk.with(Downloads::on_logged_out);
    assert_eq!(desk.offer("bob", 4, "a\\1", 10), ["41 bob 4 ok None"]);
    assert_eq!(desk.state(id), "Initializing");
}

#[test]
fn a_restart_goes_on_where_the_last_run_ended() {
    let mut desk = Desk::online();
    let running = desk.want("bob", "a\\1", 10);
    let failed = desk.want("bob", "a\\2", 10);
    let asked = desk.want("cyd", "a\\3", 10);
    desk.begin(running, "bob", 1, 0);
    desk.begin(failed, "bob", 2, 0);
    desk.end(failed, ReceiveEnd::Closed { position: 3 });
    let mut records: Vec<Transfer> = desk.stored.values().cloned().collect();
    let mut over = desk.record(asked);
    over.id = TransferId(1);
    over.state = TransferState::Completed(Ending::Errored);
    records.push(over);
    let mut upload = desk.record(asked);
    upload.id = TransferId(2);
    upload.direction = Direction::Upload;
    records.push(upload);
    let (wall, ids) = (desk.now.wall, [running, asked]);

    let mut desk = Desk::new();
    desk.now.wall = wall;
    desk.stored = records.iter().map(|record| (record.id, record.clone())).collect();
    desk.with(|d, turn| d.load(records, turn));
    desk.drain();
    assert_eq!(desk.downloads.len(), 3);
    for id in ids {
        assert_eq!(desk.state(id), "Queued, Locally");
    }
    desk.with(Downloads::on_logged_in);
    assert_eq!(desk.drain(), ["watch bob", "watch cyd", "43 bob a\\1", "43 cyd a\\3"]);
    assert_eq!(desk.record(running).attempts, 1, "a restart costs no attempt");
    desk.pass(45);
    assert!(desk.drain().contains(&"43 bob a\\2".to_owned()), "its pause outlived the restart");
    assert_eq!(desk.record(failed).attempts, 2);
    assert_eq!(desk.offer("bob", 9, "a\\1", 10), ["41 bob 9 ok None"]);
    assert_eq!(desk.connect("bob", 9), ["receive 9 continue 10"]);
}

#[test]
fn a_clock_that_jumped_holds_nothing_for_long() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 10);
    let mut record = desk.record(id);
    record.state = TransferState::QueuedLocally;
    record.next_attempt_at = Some(desk.now.wall.plus(Duration::from_secs(400 * 86_400)));
    let mut desk = Desk::online();
    desk.stored.insert(id, record.clone());
    desk.with(|d, turn| d.load(vec![record], turn));
    desk.pass(30 * 60 + 1);
    assert!(desk.drain().contains(&"43 bob a\\1".to_owned()));
}

#[test]
fn calling_off_works_in_every_phase() {
    type Script = fn(&mut Desk, TransferId);
    let scripts: [(Script, &[&str]); 6] = [
        (|desk, _| desk.with(Downloads::on_logged_out), &[]),
        (|_, _| {}, &["unwatch bob"]),
        (|desk, _| drop(desk.offer("bob", 1, "a\\1.flac", 10)), &["unwatch bob"]),
        (|desk, id| desk.begin(id, "bob", 1, 0), &["stop", "unwatch bob"]),
        (
            |desk, id| {
                desk.begin(id, "bob", 1, 0);
                desk.end(id, ReceiveEnd::Complete);
            },
            &["unwatch bob"],
        ),
        (
            |desk, id| {
                desk.begin(id, "bob", 1, 0);
                desk.end(id, ReceiveEnd::Closed { position: 2 });
            },
            &["discard", "unwatch bob"],
        ),
    ];
    for (at, (script, expected)) in scripts.into_iter().enumerate() {
        let mut desk = Desk::online();
        let id = desk.want("bob", "a\\1.flac", 10);
        script(&mut desk, id);
        desk.drain();
        assert!(desk.with(|d, turn| d.cancel(CommandId(8), id, true, turn)));
        let mut expected: Vec<String> = expected.iter().map(|line| (*line).to_owned()).collect();
        expected.push("reply 8 Done".to_owned());
        assert_eq!(desk.drain(), expected, "script {at}");
        assert_eq!(desk.state(id), "Completed, Cancelled");
        assert!(desk.record(id).removed && desk.record(id).partial.is_none());
        assert!(!desk.with(|d, turn| d.cancel(CommandId(8), id, true, turn)), "not ours any more");
        assert_eq!(desk.offer("bob", 2, "a\\1.flac", 10), ["41 bob 2 Cancelled"]);
    }
}

#[test]
fn bytes_are_forgotten_once_the_shell_lets_go() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1.flac", 10);
    desk.begin(id, "bob", 1, 0);
    desk.with(|d, turn| d.cancel(CommandId(8), id, false, turn));
    desk.drain();
    let record = desk.record(id);
    desk.with(|d, turn| d.revive(CommandId(9), record, turn));
    assert_eq!(desk.drain(), ["watch bob", "reply 9 Done", "43 bob a\\1.flac"]);
    assert_eq!(desk.offer("bob", 2, "a\\1.flac", 10), ["41 bob 2 Queued"], "the shell still writes");
    assert_eq!(desk.end(id, ReceiveEnd::Stopped { position: 4 }), ["discard"]);
    assert_eq!(desk.offer("bob", 3, "a\\1.flac", 10), ["41 bob 3 ok None"]);
}

#[test]
fn failed_ones_are_revived_and_finished_ones_are_not() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1.flac", 10);
    desk.begin(id, "bob", 1, 0);
    desk.end(id, ReceiveEnd::Closed { position: 4 });
    desk.settings.download_attempts_max = 1;
    desk.pass(40);
    desk.begin(id, "bob", 2, 4);
    desk.end(id, ReceiveEnd::Closed { position: 5 });
    assert_eq!(desk.state(id), "Completed, Errored");
    let record = desk.record(id);
    assert!(record.partial.is_some(), "the bytes stay for a later try");
    desk.with(|d, turn| d.revive(CommandId(9), record.clone(), turn));
    desk.drain();
    desk.with(|d, turn| d.revive(CommandId(9), record.clone(), turn));
    assert_eq!(desk.drain(), ["reply 9 Refused(Duplicate)"]);
    desk.offer("bob", 3, "a\\1.flac", 10);
    assert_eq!(desk.connect("bob", 3), ["receive 3 continue 10"]);
    let mut done = record;
    done.id = TransferId(3);
    done.state = TransferState::Completed(Ending::Succeeded);
    desk.with(|d, turn| d.revive(CommandId(9), done, turn));
    assert!(desk.drain()[0].contains("it is Completed, Succeeded"));
}

#[test]
fn a_waiting_one_is_tried_now_when_the_owner_says_so() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 10);
    desk.deny("bob", "a\\1", "Too many files");
    assert_eq!(desk.state(id), "Queued, Locally");
    assert!(desk.with(|d, turn| d.retry(CommandId(4), id, turn)));
    assert_eq!(desk.drain(), ["reply 4 Done", "43 bob a\\1"]);
    assert!(!desk.with(|d, turn| d.retry(CommandId(4), TransferId(0), turn)));
}

#[test]
fn places_are_asked_rarely_and_answered_from_memory() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 10);
    let place = |desk: &mut Desk, command: u64| {
        assert!(desk.with(|d, turn| d.place(CommandId(command), id, turn)));
        desk.drain()
    };
    let answer = PeerMessage::PlaceInQueueResponse { path: "a\\1".into(), place: 6 };
    assert_eq!(place(&mut desk, 1), ["51 bob a\\1"]);
    assert_eq!(place(&mut desk, 2), NONE, "one question for both");
    assert_eq!(desk.hear("bob", &answer), ["reply 1 Place(6)", "reply 2 Place(6)"]);
    assert_eq!(desk.record(id).place_in_queue, Some(6));
    assert_eq!(place(&mut desk, 3), ["reply 3 Place(6)"]);
    desk.pass(5 * 60);
    desk.drain();
    desk.pass(5 * 60 + 1);
    desk.drain();
    assert!(!desk.with(|d, turn| d.place(CommandId(1), TransferId(0), turn)));
    desk.offer("bob", 1, "a\\1", 10);
    assert!(place(&mut desk, 4)[0].contains("it is Initializing"));
}

#[test]
fn a_place_nobody_tells_times_out() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 10);
    desk.with(|d, turn| d.place(CommandId(1), id, turn));
    desk.drain();
    desk.pass(11);
    assert_eq!(desk.drain(), ["reply 1 Refused(TimedOut)"]);
    desk.with(|d, turn| d.place(CommandId(2), id, turn));
    desk.with(|d, turn| d.cancel(CommandId(3), id, false, turn));
    assert_eq!(desk.drain(), ["unwatch bob", "reply 2 Refused(NotFound)", "reply 3 Done"]);
    let id = desk.want("bob", "a\\1", 10);
    for command in 0..=64 {
        desk.with(|d, turn| d.place(CommandId(100 + command), id, turn));
    }
    assert!(desk.drain().last().unwrap().contains("64 questions"));
}
