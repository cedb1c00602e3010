//! Slots, deadlines of running transfers, joins, the disk, the finished file.

use super::*;
use crate::engine::soulseek::io::PlaceError;
use crate::model::transfer::Rung;

#[test]
fn offers_past_the_slots_are_put_off_and_asked_again() {
    let mut desk = Desk::online();
    desk.settings.download_slots = 1;
    let one = desk.want("bob", "a\\1", 10);
    let two = desk.want("cyd", "a\\2", 10);
    desk.begin(one, "bob", 1, 0);
    assert_eq!(desk.offer("cyd", 2, "a\\2", 10), ["41 cyd 2 Queued"]);
    assert_eq!((desk.state(two), desk.reason(two).as_str()), ("Queued, Locally", "waits for a free download slot"));
    desk.pass(20);
    assert_eq!(desk.drain(), NONE);
    assert_eq!(desk.end(one, ReceiveEnd::Complete), ["place a/1 false", "43 cyd a\\2"]);
    assert_eq!(desk.record(two).attempts, 1, "waiting for a slot costs no attempt");
    assert_eq!(desk.offer("cyd", 3, "a\\2", 10), ["41 cyd 3 ok None"]);
    assert_eq!(desk.offer("cyd", 4, "a\\2", 10), ["41 cyd 4 ok None"], "a second token replaces the first");
    assert!(!desk.with(|d, turn| d.on_file_token(&"cyd".into(), ConnId(3), Token(3), turn)));
    assert!(!desk.with(|d, turn| d.on_file_token(&"bob".into(), ConnId(4), Token(4), turn)), "somebody else's token");
    assert_eq!(desk.connect("cyd", 4), ["receive 4 fresh 10"]);
}

#[test]
fn a_download_too_quick_for_a_report_has_its_speed_and_bytes_all_the_same() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 3 * MIB);
    desk.begin(id, "bob", 1, MIB);
    desk.pass(1);
    desk.end(id, ReceiveEnd::Complete);
    assert_eq!(desk.record(id).average_speed, 2 * MIB);
    assert_eq!(desk.downloads.flow(desk.now).bytes, 2 * MIB);
}

#[test]
fn agreed_and_never_connected_is_a_failed_attempt() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 10);
    desk.offer("bob", 1, "a\\1", 10);
    desk.pass(29);
    assert_eq!(desk.state(id), "Initializing");
    desk.pass(1);
    desk.drain();
    assert_eq!(desk.state(id), "Queued, Locally");
    assert!(desk.reason(id).contains("no file connection"));
    assert!(!desk.with(|d, turn| d.on_file_token(&"bob".into(), ConnId(1), Token(1), turn)), "too late");
    desk.pass(38);
    assert_eq!(desk.drain(), ["43 bob a\\1"]);
    assert_eq!(desk.record(id).attempts, 2);
}

#[test]
fn a_minute_without_a_byte_is_a_stall() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 1000);
    desk.begin(id, "bob", 1, 0);
    for position in [10, 20, 30] {
        desk.pass(59);
        desk.event(id, FileEvent::Progress { position });
    }
    desk.pass(59);
    desk.event(id, FileEvent::Progress { position: 30 });
    assert_eq!(desk.drain(), NONE);
    desk.pass(1);
    assert_eq!(desk.drain(), ["stop"]);
    assert_eq!(desk.state(id), "InProgress", "until the shell has let go");
    desk.end(id, ReceiveEnd::Stopped { position: 30 });
    assert_eq!((desk.state(id), desk.record(id).bytes_done), ("Queued, Locally", 30));
    assert!(desk.reason(id).contains("sent nothing for 60 s"));
    desk.pass(40);
    desk.drain();
    desk.offer("bob", 2, "a\\1", 1000);
    assert_eq!(desk.connect("bob", 2), ["receive 2 continue 1000"]);
    // Silence before the first byte counts too.
    desk.pass(61);
    assert!(desk.drain().contains(&"stop".to_owned()));
}

#[test]
fn attempts_back_off_and_end() {
    let mut desk = Desk::online();
    desk.settings.download_attempts_max = 9;
    let id = desk.want("bob", "a\\1", 1000);
    let mut pauses = Vec::new();
    for attempt in 1..=9 {
        assert_eq!(desk.record(id).attempts, attempt);
        desk.begin(id, "bob", attempt, 0);
        desk.end(id, ReceiveEnd::Closed { position: 5 });
        let Some(at) = desk.record(id).next_attempt_at else { break };
        assert_eq!(desk.stored[&id].next_attempt_at, Some(at));
        let pause = at.since(desk.now.wall);
        desk.pass(pause.as_secs() + 1);
        desk.drain();
        pauses.push(pause.as_secs());
    }
    assert_eq!(pauses.len(), 8);
    for (pause, base) in pauses.iter().zip([30, 60, 120, 240, 480, 960, 1440, 1440]) {
        assert!((base..=base * 5 / 4).contains(pause), "{pauses:?}");
    }
    assert_eq!((desk.state(id), desk.downloads.flow(desk.now).failed), ("Completed, Errored", 1));
    assert_eq!(desk.reason(id), "bob closed the connection at 5 of 1000 bytes");
}

#[test]
fn an_uploader_that_begins_anew_is_asked_again() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 1000);
    desk.begin(id, "bob", 1, 0);
    assert_eq!(desk.offer("bob", 2, "a\\1", 1000), ["stop", "41 bob 2 Queued"]);
    assert_eq!(desk.end(id, ReceiveEnd::Stopped { position: 30 }), ["43 bob a\\1"]);
    assert_eq!(desk.record(id).attempts, 1);
}

#[test]
fn upload_failed_is_forgiven_once() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 1000);
    let failed = PeerMessage::UploadFailed { path: "a\\1".into() };
    assert_eq!(desk.hear("bob", &failed), ["43 bob a\\1"]);
    assert_eq!(desk.record(id).attempts, 1);
    desk.offer("bob", 1, "a\\1", 1000);
    assert_eq!(desk.hear("bob", &failed), NONE);
    assert!(desk.reason(id).contains("reports that the upload failed"));
    desk.pass(40);
    desk.drain();
    assert_eq!(desk.record(id).attempts, 2);
    desk.begin(id, "bob", 2, 0);
    assert_eq!(desk.hear("bob", &failed), NONE, "while bytes flow the connection decides");
    assert_eq!(desk.state(id), "InProgress");
}

/// A download of `path` from bob that stopped at 500 and goes over to cyd.
fn handed_over(path: &str) -> (Desk, TransferId) {
    let mut desk = Desk::online();
    desk.settings.failover = true;
    desk.settings.download_attempts_max = 1;
    let path = &path.replace('1', "Song");
    let id = desk.want("bob", path, 1000);
    desk.begin(id, "bob", 1, 0);
    desk.event(id, FileEvent::Synced { synced: 400, boot: 1 });
    desk.end(id, ReceiveEnd::Closed { position: 500 });
    let found = Desk::candidate("cyd", &format!("other\\{path}"), 1000);
    desk.candidates(id, vec![found]);
    desk.offer("cyd", 2, &format!("other\\{path}"), 1000);
    (desk, id)
}

#[test]
fn only_checkable_formats_are_joined() {
    for (path, expected) in [
        ("a\\1.flac", "join"),
        ("a\\1.OGG", "join"),
        ("a\\1.opus", "join"),
        ("a\\1.mp3", "fresh"),
        ("a\\1.wav", "fresh"),
        ("a\\1.m4a", "fresh"),
        ("a\\1", "fresh"),
    ] {
        let (mut desk, id) = handed_over(path);
        assert_eq!(desk.connect("cyd", 2), [format!("receive 2 {expected} 1000")], "{path}");
        let partial = desk.record(id).partial.unwrap();
        let first = if expected == "join" { "bob" } else { "cyd" };
        assert_eq!(partial.first_user, first.into(), "{path}");
        assert_eq!(partial.synced, if expected == "join" { 400 } else { 0 });
    }
}

#[test]
fn a_joined_file_is_checked_and_says_so() {
    let (mut desk, id) = handed_over("a\\1.flac");
    desk.connect("cyd", 2);
    desk.event(id, FileEvent::Started { offset: 500 });
    assert_eq!(desk.stored[&id].partial.as_ref().unwrap().joins, [(500, "cyd".into())]);
    assert_eq!(desk.end(id, ReceiveEnd::Complete), ["place a/Song.flac true"]);
    desk.event(id, FileEvent::Placed(Ok("/x".to_owned())));
    assert_eq!(desk.record(id).rung, Some(Rung::JoinedByOverlap));
    assert_eq!(desk.record(id).tried, ["bob".into(), "cyd".into()]);
}

#[test]
fn a_join_with_too_little_to_overlap_is_one_users_file() {
    let (mut desk, id) = handed_over("a\\1.flac");
    desk.connect("cyd", 2);
    desk.event(id, FileEvent::Started { offset: 0 });
    let partial = desk.record(id).partial.unwrap();
    assert_eq!((partial.first_user, partial.joins.len(), partial.synced), ("cyd".into(), 0, 0));
    assert_eq!(desk.end(id, ReceiveEnd::Complete), ["place a/Song.flac false"]);
}

#[test]
fn a_second_stretch_of_the_joined_user_overlaps_again() {
    let (mut desk, id) = handed_over("a\\1.flac");
    desk.settings.download_attempts_max = 3;
    desk.connect("cyd", 2);
    desk.event(id, FileEvent::Started { offset: 500 });
    desk.end(id, ReceiveEnd::Closed { position: 700 });
    desk.pass(40);
    desk.drain();
    desk.offer("cyd", 3, "other\\a\\Song.flac", 1000);
    assert_eq!(desk.connect("cyd", 3), ["receive 3 join 1000"]);
    desk.event(id, FileEvent::Started { offset: 700 });
    assert_eq!(desk.record(id).partial.unwrap().joins.len(), 1, "the ledger names a user's run once");
}

#[test]
fn a_damaged_join_is_fetched_anew_from_one_user() {
    let (mut desk, id) = handed_over("a\\1.flac");
    desk.settings.download_attempts_max = 3;
    desk.connect("cyd", 2);
    desk.event(id, FileEvent::Started { offset: 500 });
    desk.end(id, ReceiveEnd::Complete);
    let failed = Err(PlaceError::CheckFailed("damaged frame".to_owned()));
    assert_eq!(desk.event(id, FileEvent::Placed(failed)), ["discard"]);
    assert!(desk.reason(id).contains("damaged frame"));
    assert_eq!((desk.record(id).partial, desk.record(id).bytes_done), (None, 0));
    desk.pass(40);
    desk.drain();
    desk.offer("cyd", 3, "other\\a\\Song.flac", 1000);
    assert_eq!(desk.connect("cyd", 3), ["receive 3 fresh 1000"]);
    desk.event(id, FileEvent::Started { offset: 0 });
    assert_eq!(desk.end(id, ReceiveEnd::Complete), ["place a/Song.flac false"]);
}

#[test]
fn a_full_disk_stops_everything_and_costs_no_attempt() {
    let mut desk = Desk::online();
    let one = desk.want("bob", "a\\1", 1000);
    let two = desk.want("cyd", "a\\2", 1000);
    desk.begin(one, "bob", 1, 0);
    assert_eq!(desk.end(one, ReceiveEnd::DiskFull { position: 300 }), NONE);
    assert!(desk.downloads.disk_full());
    assert!(desk.reason(one).starts_with("disk full"));
    assert_eq!(desk.offer("cyd", 2, "a\\2", 1000), ["41 cyd 2 Queued"]);
    assert!(desk.reason(two).starts_with("disk full"));
    let three = desk.want("dan", "a\\3", 1000);
    assert!(desk.reason(three).starts_with("disk full"));
    for round in 0..3_u32 {
        desk.pass(61);
        let asked = desk.drain();
        assert!(asked.contains(&"43 bob a\\1".to_owned()), "{round}: {asked:?}");
        assert!(desk.downloads.disk_full(), "until a byte is there");
        desk.begin(one, "bob", 10 + round, 300);
        assert_eq!(
            desk.offer("cyd", 20 + round, "a\\2", 1000).last().unwrap(),
            &format!("41 cyd {} Queued", 20 + round)
        );
        desk.end(one, ReceiveEnd::DiskFull { position: 300 });
    }
    desk.pass(61);
    desk.drain();
    desk.begin(one, "bob", 30, 300);
    assert_eq!(desk.offer("cyd", 39, "a\\2", 1000), ["41 cyd 39 Queued"]);
    assert_eq!(desk.event(one, FileEvent::Progress { position: 400 }), ["43 cyd a\\2"]);
    assert!(!desk.downloads.disk_full());
    assert_eq!((desk.record(one).attempts, desk.record(one).bytes_done), (1, 400));
    assert_eq!(desk.offer("cyd", 40, "a\\2", 1000), ["41 cyd 40 ok None"]);
}

#[test]
fn a_finished_file_waits_for_room_and_is_not_fetched_again() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 1000);
    desk.begin(id, "bob", 1, 0);
    desk.end(id, ReceiveEnd::Complete);
    desk.event(id, FileEvent::Placed(Err(PlaceError::DiskFull)));
    assert!(desk.downloads.disk_full() && desk.reason(id).starts_with("disk full"));
    desk.pass(61);
    assert_eq!(desk.drain(), ["place a/1 false"]);
    assert_eq!(desk.offer("bob", 2, "a\\1", 1000), ["41 bob 2 Complete"]);
    desk.event(id, FileEvent::Placed(Ok("/x".to_owned())));
    assert_eq!(desk.state(id), "Completed, Succeeded");
    assert!(!desk.downloads.disk_full());
}

#[test]
fn a_file_that_was_whole_at_the_end_of_the_last_run_is_only_placed() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 1000);
    desk.begin(id, "bob", 1, 0);
    desk.end(id, ReceiveEnd::Complete);
    let record = desk.stored[&id].clone();
    let mut desk = Desk::online();
    desk.stored.insert(id, record.clone());
    desk.with(|d, turn| d.load(vec![record], turn));
    assert_eq!(desk.drain(), ["watch bob", "place a/1 false"]);
}

#[test]
fn a_misplaced_file_is_tried_twice_and_then_fetched_anew() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 1000);
    desk.begin(id, "bob", 1, 0);
    desk.end(id, ReceiveEnd::Complete);
    let error = || FileEvent::Placed(Err(PlaceError::Disk("read-only".to_owned())));
    assert_eq!(desk.event(id, error()), NONE);
    assert_eq!(desk.reason(id), "disk: read-only");
    desk.pass(40);
    assert_eq!(desk.drain(), ["place a/1 false"]);
    assert_eq!(desk.event(id, error()), ["discard"]);
    desk.pass(40);
    assert_eq!(desk.drain(), ["43 bob a\\1"]);
}

#[test]
fn a_finished_file_waits_for_the_disk_it_belongs_on() {
    let mut desk = Desk::online();
    let (one, two) = (desk.want("bob", "a\\1", 1000), desk.want("cyd", "b\\2", 1000));
    desk.begin(one, "bob", 1, 0);
    desk.end(one, ReceiveEnd::Complete);
    for _ in 0..50 {
        desk.event(one, FileEvent::Placed(Err(PlaceError::FolderAway("the stick is not plugged in".to_owned()))));
        assert_eq!(desk.reason(one), "disk: the stick is not plugged in");
        assert!(!desk.downloads.disk_full());
        desk.pass(61);
        assert!(desk.drain().contains(&"place a/1 false".to_owned()), "neither discarded nor given up");
    }
    // Others go on meanwhile, onto the disk of the partial files.
    desk.begin(two, "cyd", 2, 0);
    desk.event(one, FileEvent::Placed(Ok("/x".to_owned())));
    assert_eq!((desk.state(one), desk.record(one).attempts), ("Completed, Succeeded", 1));
}

#[test]
fn a_disk_that_never_answers_is_not_waited_for_forever() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 1000);
    desk.begin(id, "bob", 1, 0);
    desk.end(id, ReceiveEnd::Complete);
    desk.pass(31 * 60);
    assert_eq!(desk.drain(), ["place a/1 false"]);
    desk.event(id, FileEvent::Placed(Ok("/x".to_owned())));
    assert_eq!(desk.state(id), "Completed, Succeeded");
}

#[test]
fn other_disk_errors_are_failed_attempts() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 1000);
    desk.begin(id, "bob", 1, 0);
    desk.end(id, ReceiveEnd::DiskError("input/output error".to_owned()));
    assert_eq!((desk.state(id), desk.reason(id).as_str()), ("Queued, Locally", "disk: input/output error"));
}

#[test]
fn a_file_placed_after_it_was_called_off_stays_where_it_is() {
    for (result, expected) in [(Ok("/x".to_owned()), &[][..]), (Err(PlaceError::DiskFull), &["discard"][..])] {
        let mut desk = Desk::online();
        let id = desk.want("bob", "a\\1", 1000);
        desk.begin(id, "bob", 1, 0);
        desk.end(id, ReceiveEnd::Complete);
        desk.with(|d, turn| d.cancel(CommandId(1), id, false, turn));
        desk.drain();
        assert_eq!(desk.event(id, FileEvent::Placed(result)), expected);
        assert_eq!(desk.state(id), "Completed, Cancelled");
        assert!(desk.downloads.leaving.is_empty());
    }
}

#[test]
fn the_end_of_the_program_is_no_failed_attempt() {
    let mut desk = Desk::online();
    desk.settings.download_attempts_max = 1;
    let id = desk.want("bob", "a\\1", 1000);
    desk.begin(id, "bob", 1, 0);
    desk.end(id, ReceiveEnd::Stopped { position: 30 });
    assert_eq!((desk.record(id).attempts, desk.record(id).bytes_done), (1, 30));
    assert!(!desk.record(id).state.is_over(), "{}", desk.state(id));
}

#[test]
fn a_receive_that_begins_again_at_zero_keeps_the_boot() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 1000);
    desk.begin(id, "bob", 1, 0);
    desk.event(id, FileEvent::Synced { synced: 0, boot: 7 });
    desk.end(id, ReceiveEnd::Closed { position: 0 });
    desk.pass(40);
    desk.drain();
    desk.begin(id, "bob", 2, 0);
    // In the same boot the shell has nothing new to tell.
    assert_eq!(desk.stored[&id].partial.as_ref().unwrap().boot, 7);
}

#[test]
fn a_complete_file_is_placed_without_its_user() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\1", 1000);
    desk.begin(id, "bob", 1, 0);
    desk.end(id, ReceiveEnd::Complete);
    let stored: Vec<Transfer> = desk.stored.values().cloned().collect();
    // Killed before the answer came; now nobody is on the network.
    let mut desk = Desk::new();
    desk.with(|downloads, turn| downloads.load(stored, turn));
    assert_eq!(desk.drain(), ["place a/1 false"]);
    desk.event(id, FileEvent::Placed(Err(PlaceError::DiskFull)));
    desk.drain();
    desk.pass(60);
    assert_eq!(desk.drain(), ["place a/1 false"], "room is looked for again, still without a login");
}

#[test]
fn where_a_file_goes_is_recorded_before_it_goes_there_and_tried_first_after_a_restart() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\Song.flac", 1000);
    desk.begin(id, "bob", 1, 0);
    assert_eq!(desk.end(id, ReceiveEnd::Complete), ["place a/Song.flac false"]);
    assert_eq!(desk.event(id, FileEvent::Meant("/d/a/Song.flac".to_owned())), ["place a/Song.flac to /d/a/Song.flac"]);
    assert_eq!(desk.stored[&id].local_path.as_deref(), Some("/d/a/Song.flac"));
    // Killed in the middle: no user is needed to find it.
    let mut after = Desk::new();
    let kept = desk.stored[&id].clone();
    after.with(|downloads, turn| downloads.load(vec![kept], turn));
    assert_eq!(after.drain(), ["place a/Song.flac to /d/a/Song.flac"]);
    after.event(id, FileEvent::Placed(Ok("/d/a/Song.flac".to_owned())));
    assert_eq!(after.stored[&id].state, TransferState::Completed(Ending::Succeeded));
}

#[test]
fn a_place_chosen_for_a_download_that_was_called_off_is_not_used() {
    let mut desk = Desk::online();
    let id = desk.want("bob", "a\\Song.flac", 1000);
    desk.begin(id, "bob", 1, 0);
    desk.end(id, ReceiveEnd::Complete);
    desk.with(|downloads, turn| downloads.cancel(CommandId(1), id, false, turn));
    desk.drain();
    assert_eq!(desk.event(id, FileEvent::Meant("/d/a/Song.flac".to_owned())), ["discard"]);
}
