//! What rescue sees and does: stages, standing aside, a file that came from elsewhere.

use super::*;
use crate::engine::soulseek::io::RescuedFile;
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
fn one_that_is_rescued_succeeds_and_its_user_hears_complete() {
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
    assert_eq!(desk.drain(), ["41 bob 5 Complete"]);
    let file = RescuedFile { path: String::new(), size: 10, rung: Rung::Verified };
    assert!(!desk.with(|downloads, turn| downloads.rescued(CommandId(9), id, file, turn)), "it is over");
}

#[test]
fn who_gets_round_to_us_after_a_restart_hears_complete_for_a_day() {
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
            told.push(desk.drain().join(" ").contains("Complete"));
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
