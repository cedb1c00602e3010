//! What rescue sees and does: stages, standing aside, a file that came from elsewhere.

use super::*;
use crate::engine::soulseek::io::{Compared, RescuedFile};
use crate::engine::swarm::rescue::Stage;
use crate::model::transfer::{Ending, Rung};

fn stage(desk: &Desk) -> Vec<Stage> {
    desk.downloads.seen().iter().map(|seen| seen.stage).collect()
}

fn rescue(desk: &mut Desk, id: TransferId) -> Vec<String> {
    let file = RescuedFile { path: "/d/a/1.mp3".into(), size: 10, rung: Rung::Verified };
    assert!(desk.with(|downloads, turn| downloads.rescued(CommandId(9), id, file, turn)));
    desk.drain()
}

#[test]
fn what_waits_for_us_is_told_from_what_waits_for_its_user() {
    let mut desk = Desk::new();
    desk.enqueue(Desk::request("bob", &[("a\\1.mp3", 10)]));
    assert_eq!(stage(&desk), [Stage::Held], "not logged in");
    desk.with(Downloads::on_logged_in);
    assert_eq!(stage(&desk), [Stage::Queued]);
    desk.with(|downloads, turn| downloads.on_user_status(&"bob".into(), false, turn));
    assert_eq!(stage(&desk), [Stage::Offline]);
    desk.with(|downloads, turn| downloads.on_user_status(&"bob".into(), true, turn));
    assert_eq!(stage(&desk), [Stage::Queued]);
    assert!(!desk.downloads.met(desk.ids[0]));
}

#[test]
fn one_that_is_rescued_succeeds_and_its_user_may_say_whether_it_is_right() {
    let mut desk = Desk::online();
    desk.enqueue(Desk::request("bob", &[("a\\1.mp3", 10)]));
    let id = desk.ids[0];
    let lines = rescue(&mut desk, id);
    assert!(
        lines.contains(&"reply 9 Done".to_owned()) && !lines.iter().any(|line| line.contains("Cancel")),
        "{lines:?}"
    );
    let record = desk.record(id);
    assert_eq!(record.state, TransferState::Completed(Ending::Succeeded));
    assert_eq!(
        (record.rung, record.local_path.as_deref(), record.bytes_done),
        (Some(Rung::Verified), Some("/d/a/1.mp3"), 10)
    );
    assert_eq!(desk.finished, [id]);
    let offer = PeerMessage::TransferRequest { upload: true, token: Token(5), path: "a\\1.mp3".into(), size: Some(10) };
    assert!(desk.with(|downloads, turn| downloads.on_peer_message(&"bob".into(), &offer, turn)));
    assert_eq!(desk.drain(), ["41 bob 5 ok None"], "its file's end is compared");
    let file = RescuedFile { path: String::new(), size: 10, rung: Rung::Verified };
    assert!(!desk.with(|downloads, turn| downloads.rescued(CommandId(9), id, file, turn)), "it is over");
}

#[test]
fn who_gets_round_to_us_after_a_restart_is_known_for_a_day() {
    let mut desk = Desk::online();
    desk.enqueue(Desk::request("bob", &[("a\\1.mp3", 10)]));
    let id = desk.ids[0];
    rescue(&mut desk, id);
    let kept: Vec<Transfer> = desk.stored.values().cloned().collect();
    let hears = |ahead: i64| {
        let mut desk = Desk::online();
        let wall = desk.now.wall.0.saturating_add_signed(ahead * 3_600_000);
        desk.now.wall = crate::model::time::UnixMs(wall);
        let kept = kept.clone();
        desk.with(|downloads, turn| downloads.load(kept, turn));
        let offer =
            PeerMessage::TransferRequest { upload: true, token: Token(5), path: "a\\1.mp3".into(), size: Some(10) };
        desk.drain();
        let mut told = Vec::new();
        for hours in [0, 12, 30] {
            desk.now.mono += Duration::from_secs(hours * 3_600);
            assert!(desk.with(|downloads, turn| downloads.on_peer_message(&"bob".into(), &offer, turn)));
            // The first is asked about its file, the others hear `Complete`; after a day neither.
            told.push(!desk.drain().join(" ").contains("Cancelled"));
        }
        told
    };
    assert_eq!(hears(1), [true, true, false], "an hour later, and on");
    assert_eq!(hears(20), [true, false, false], "four hours are left");
    assert_eq!(hears(25), [false; 3]);
    assert_eq!(hears(-1_000), [true, true, false], "a calendar that jumped back makes it no more than a day");
}

#[test]
fn one_that_stands_aside_takes_no_slot_and_never_gives_up() {
    let mut desk = Desk::online();
    desk.enqueue(Desk::request("bob", &[("a\\1.mp3", 10)]));
    let id = desk.ids[0];
    assert!(desk.with(|downloads, turn| downloads.aside(CommandId(9), id, true, turn)));
    for _ in 0..10 {
        desk.with(|downloads, turn| downloads.fail(id, Ending::Errored, "broken".to_owned(), turn));
        desk.pass(3_600);
    }
    assert!(desk.downloads.get(id).is_some());
    let active = |desk: &mut Desk| {
        desk.downloads.active.insert(id);
        desk.with(|downloads, turn| downloads.free_slots(turn))
    };
    assert_eq!(active(&mut desk), 3);
    assert!(desk.with(|downloads, turn| downloads.aside(CommandId(9), id, false, turn)));
    assert_eq!(active(&mut desk), 2);
    desk.downloads.active.clear();
    desk.with(|downloads, turn| downloads.fail(id, Ending::Errored, "broken".to_owned(), turn));
    assert!(desk.downloads.get(id).is_none(), "its attempts are used up");
}

fn offers(desk: &mut Desk, token: u32, size: u64) -> Vec<String> {
    let offer =
        PeerMessage::TransferRequest { upload: true, token: Token(token), path: "a\\1.mp3".into(), size: Some(size) };
    assert!(desk.with(|downloads, turn| downloads.on_peer_message(&"bob".into(), &offer, turn)));
    desk.drain()
}

fn calls(desk: &mut Desk, user: &str, token: u32) -> bool {
    desk.with(|downloads, turn| downloads.on_file_token(&user.into(), ConnId(7), Token(token), turn))
}

fn compared(desk: &mut Desk, compared: Compared) -> Vec<(TransferId, Origin)> {
    let id = desk.ids[0];
    desk.with(|downloads, turn| downloads.on_file_event(id, FileEvent::Compared(compared), turn));
    desk.drain();
    std::mem::take(&mut desk.origins)
}

/// A download that mesh peers finished.
fn finished() -> Desk {
    let mut desk = Desk::online();
    desk.enqueue(Desk::request("bob", &[("a\\1.mp3", 10)]));
    let id = desk.ids[0];
    rescue(&mut desk, id);
    desk
}

#[test]
fn whoever_gets_round_to_what_mesh_peers_brought_is_asked_for_its_end_once() {
    for (heard, said) in [
        (Compared::Same, Some(Origin::Agrees)),
        (Compared::Other, Some(Origin::Differs)),
        (Compared::Unknown("it closed".to_owned()), None),
    ] {
        let mut desk = finished();
        let before = desk.stored.clone();
        assert_eq!(offers(&mut desk, 5, 10), ["41 bob 5 ok None"]);
        assert_eq!(offers(&mut desk, 6, 10), ["41 bob 6 Complete"], "while it is being asked");
        assert!(!calls(&mut desk, "bob", 6) && !calls(&mut desk, "eve", 5));
        assert!(calls(&mut desk, "bob", 5));
        assert_eq!(desk.drain(), ["compare 7 /d/a/1.mp3 10"]);
        assert!(!calls(&mut desk, "bob", 5), "one connection for each offer");
        let id = desk.ids[0];
        assert_eq!(compared(&mut desk, heard.clone()), said.map(|said| (id, said)).into_iter().collect::<Vec<_>>());
        assert_eq!(compared(&mut desk, heard), [], "said once");
        assert_eq!(offers(&mut desk, 8, 10), ["41 bob 8 Complete"]);
        assert_eq!(desk.stored, before, "the download is what it was");
        assert_eq!(desk.downloads.next_timeout(), None);
    }
}

#[test]
fn another_size_is_another_file_and_needs_no_bytes() {
    let mut desk = finished();
    let id = desk.ids[0];
    assert_eq!(offers(&mut desk, 5, 11), ["41 bob 5 Complete"]);
    assert_eq!(desk.origins, [(id, Origin::OtherSize(11))]);
    // Old clients say none.
    assert_eq!(offers(&mut finished(), 5, 0), ["41 bob 5 ok None"]);
}

#[test]
fn who_offers_and_does_not_come_is_not_waited_for() {
    let mut desk = finished();
    offers(&mut desk, 5, 10);
    desk.pass(31);
    assert!(!calls(&mut desk, "bob", 5));
    // Nor is what the shell lost.
    let mut desk = finished();
    offers(&mut desk, 5, 10);
    assert!(calls(&mut desk, "bob", 5));
    desk.pass(181);
    assert_eq!(compared(&mut desk, Compared::Same), []);
    assert_eq!(desk.downloads.next_timeout(), None);
}

#[test]
fn no_more_are_asked_at_once_than_the_limit() {
    let mut desk = Desk::online();
    let paths: Vec<String> = (0..=limits::ORIGINS_ASKED).map(|n| format!("a\\{n}.mp3")).collect();
    desk.enqueue(Desk::request("bob", &paths.iter().map(|path| (path.as_str(), 10)).collect::<Vec<_>>()));
    for id in desk.ids.clone() {
        rescue(&mut desk, id);
    }
    let mut said = Vec::new();
    for (path, token) in paths.iter().zip(1..) {
        let (path, size) = (path.as_str().into(), Some(10));
        let offer = PeerMessage::TransferRequest { upload: true, token: Token(token), path, size };
        assert!(desk.with(|downloads, turn| downloads.on_peer_message(&"bob".into(), &offer, turn)));
        said.push(desk.drain().concat().contains("ok"));
    }
    assert_eq!(said.iter().filter(|ok| **ok).count(), limits::ORIGINS_ASKED);
    assert_eq!(said.last(), Some(&false));
}

#[test]
fn what_its_own_user_sent_is_not_asked_for() {
    let mut desk = finished();
    let mut kept: Vec<Transfer> = desk.stored.values().cloned().collect();
    kept[0].rung = Some(Rung::SingleSource);
    desk = Desk::online();
    desk.with(|downloads, turn| downloads.load(kept.clone(), turn));
    desk.drain();
    assert_eq!(offers(&mut desk, 5, 10), ["41 bob 5 Complete"]);
    kept[0].rung = Some(Rung::RescuedCopy);
    desk = Desk::online();
    desk.with(|downloads, turn| downloads.load(kept, turn));
    desk.drain();
    assert_eq!(offers(&mut desk, 5, 10), ["41 bob 5 ok None"], "after a restart it is");
}
