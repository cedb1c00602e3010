//! The whole engine: two or three of them over a network that the dice drive.

mod files;
mod server;
mod world;

use self::world::{World, settings};
use super::*;
use crate::model::music::WireText;
use crate::model::transfer::{Ending, TransferState};
use crate::model::view::{EnqueueRequest, SearchRequest};

const SONG: &str = "music\\Album\\First Song.flac";
const OTHER: &str = "music\\Álbum\\Other Song.mp3";
const LONG: &str = "music\\Sets\\Long Mix.flac";
const SHARES: [(&str, &str, u64, u32); 6] = [
    ("ann", SONG, 300_000, 1),
    ("ann", OTHER, 70_001, 2),
    ("bob", SONG, 300_000, 1),
    ("bob", LONG, 900_000, 3),
    ("bob", "music\\Sets\\Empty.txt", 0, 4),
    // Another file under the same name and of the same size.
    ("cyd", LONG, 900_000, 5),
];
const SUCCEEDED: TransferState = TransferState::Completed(Ending::Succeeded);
const CANCELLED: TransferState = TransferState::Completed(Ending::Cancelled);

/// Ann and Bob, and who of them cannot be called.
fn two(seed: u64, ann: bool, bob: bool) -> World {
    World::new(seed, &[("ann", ann), ("bob", bob)], &SHARES)
}

fn want(user: &str, files: &[(&str, u64)]) -> Command {
    let files = files.iter().map(|(path, size)| (WireText::from(*path), *size)).collect();
    let (batch, search, destination, external) = (None, None, None, None);
    Command::Enqueue(EnqueueRequest { user: user.into(), files, batch, search, destination, external })
}

fn search(id: u128, text: &str) -> Command {
    Command::Search(SearchRequest {
        id: SearchId(id),
        text: text.to_owned(),
        user: None,
        timeout_ms: 15_000,
        response_limit: 100,
        file_limit: 10_000,
        filter_responses: false,
        minimum_files: 0,
        maximum_queue: 1_000_000,
        minimum_speed: 0,
    })
}

fn accepted(reply: &Reply) -> Vec<TransferId> {
    match reply {
        Reply::Enqueued { accepted, failed, .. } if failed.is_empty() => accepted.clone(),
        other => panic!("{other:?}"),
    }
}

/// What is kept of it.
fn state(world: &World, at: usize, id: TransferId) -> TransferState {
    world.stations[at].kept.transfers[&id].state
}

fn position(world: &World, id: TransferId) -> u64 {
    world.stations[0].node.transfer(Direction::Download, id).map_or(0, |record| record.bytes_done)
}

/// A failure says where.
fn told(which: &str, run: impl FnOnce()) {
    if let Err(why) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        eprintln!("{which}");
        std::panic::resume_unwind(why);
    }
}

/// In every way two users can reach one another.
fn every_way(check: impl Fn(&mut World)) {
    for seed in 0..10 {
        for (ann, bob) in [(false, false), (true, false), (false, true)] {
            let run = || check(&mut two(seed, ann, bob));
            told(&format!("seed {seed}, ann firewalled: {ann}, bob firewalled: {bob}"), run);
        }
    }
}

#[test]
fn searches_find_both_ways() {
    every_way(|world| {
        assert_eq!(world.ask(0, search(1, "long mix")), Reply::Done);
        assert_eq!(world.ask(1, search(2, "song album")), Reply::Done);
        let found = |world: &World, at: usize, id: u128| {
            let (_, responses) = world.stations[at].node.search(SearchId(id)).unwrap();
            responses.first().map(|response| (response.user.as_str().to_owned(), response.files.len()))
        };
        world.until("both found", |world| found(world, 0, 1).is_some() && found(world, 1, 2).is_some());
        assert_eq!(found(world, 0, 1), Some(("bob".to_owned(), 1)));
        assert_eq!(found(world, 1, 2), Some(("ann".to_owned(), 1)));
    });
}

#[test]
fn questions_about_users_are_answered() {
    every_way(|world| {
        assert_eq!(world.ask(0, Command::Browse("bob".into())), Reply::Browsed { folders: 1, files: 3 });
        let Reply::Info(info) = world.ask(1, Command::UserInfo("ann".into())) else { panic!() };
        assert_eq!(info.description.as_str(), "ann's box");
        let Reply::Folder(folders) = world.ask(0, Command::Folder("bob".into(), "music\\Sets".into())) else {
            panic!()
        };
        assert_eq!(folders[0].files.len(), 2);
        let Reply::Endpoint(at) = world.ask(0, Command::UserEndpoint("bob".into())) else { panic!() };
        assert_eq!(at.port(), 5000);
        assert_eq!(world.ask(0, Command::UserInfo("eve".into())), Reply::Refused(Refusal::UserOffline));
    });
}

#[test]
fn a_download_ends_in_its_place() {
    every_way(|world| {
        let ids =
            accepted(&world.ask(0, want("bob", &[(LONG, 900_000), (SONG, 300_000), ("music\\Sets\\Empty.txt", 0)])));
        world.until("all are there", |world| ids.iter().all(|id| state(world, 0, *id) == SUCCEEDED));
        world.until("bob knows", |world| world.stations[1].live(Direction::Upload).is_empty());
        for id in ids {
            let record = &world.stations[0].kept.transfers[&id];
            let placed = world.stations[0].disk.finished[record.local_path.as_ref().unwrap()];
            assert_eq!(placed.0, record.size);
            assert!(world.stations[0].notices.contains(&Notice::DownloadFinished(id)));
        }
        world.pass(1);
        let sent = world.stations[1].kept.transfers.values().filter(|record| record.state == SUCCEEDED).count();
        assert_eq!(sent, 3, "finished uploads are kept");
    });
}

#[test]
fn a_download_goes_on_after_either_side_is_killed() {
    for (seed, dead) in (0..20).map(|seed| (seed, usize::try_from(seed % 2).unwrap())) {
        let mut world = two(seed, seed % 3 == 0, seed % 3 == 1);
        let id = accepted(&world.ask(0, want("bob", &[(LONG, 900_000)])))[0];
        world.until("bytes flow", |world| position(world, id) > 200_000);
        let power_cut = seed % 5 == 0;
        world.restart(dead, power_cut);
        world.until("it is there", |world| state(world, 0, id) == SUCCEEDED);
        let record = &world.stations[0].kept.transfers[&id];
        assert!(power_cut || record.start_offset > 0, "seed {seed}: began anew");
        assert_eq!(world.stations[0].disk.finished.values().collect::<Vec<_>>(), [&(900_000, 3)], "seed {seed}");
    }
}

#[test]
fn messages_are_kept_before_they_are_acknowledged() {
    for seed in 0..20 {
        let mut world = two(seed, false, false);
        assert_eq!(world.ask(0, Command::SendMessage("bob".into(), "hello".to_owned())), Reply::Done);
        if seed.is_multiple_of(2) {
            // Perhaps between hearing and keeping: then the server says it again.
            (0..seed).for_each(|_| world.step());
            world.restart(1, true);
        }
        world.until("delivered", |world| world.delivered() == (1, 0));
        let kept: Vec<_> = world.stations[1].kept.messages.values().collect();
        assert!(kept.len() == 1 && kept[0].text == "hello" && kept[0].incoming, "seed {seed}: {kept:?}");
    }
}

#[test]
fn the_banned_get_nothing() {
    every_way(|world| {
        let mut settings = settings("bob");
        settings.banned = vec!["ann".into()];
        let id = accepted(&world.ask(0, want("bob", &[(LONG, 900_000)])))[0];
        world.until("bytes flow", |world| position(world, id) > 0);
        assert_eq!(world.ask(1, Command::Configure(Box::new(settings))), Reply::Done);
        world.until("it is over", |world| world.stations[0].live(Direction::Download).is_empty());
        world.pass(1);
        assert_eq!(state(world, 0, id), TransferState::Completed(Ending::Rejected));
        assert!(world.stations[1].live(Direction::Upload).is_empty());
        assert_eq!(world.ask(0, Command::UserInfo("bob".into())), Reply::Refused(Refusal::TimedOut));
    });
}

#[test]
fn either_side_calls_a_transfer_off() {
    every_way(|world| {
        let id = accepted(&world.ask(0, want("bob", &[(LONG, 900_000)])))[0];
        world.until("bytes flow", |world| position(world, id) > 0);
        let cancel = Command::Cancel { direction: Direction::Download, id, remove: false };
        assert_eq!(world.ask(0, cancel), Reply::Done);
        world.until("bob notices", |world| world.stations[1].live(Direction::Upload).is_empty());
        assert_eq!(state(world, 0, id), CANCELLED);
        // And the other way round. A short file may be on its way as a whole before anybody hears of it.
        let id = accepted(&world.ask(0, want("bob", &[(LONG, 900_000)])))[0];
        world.until("bytes flow", |world| position(world, id) > 0);
        let upload = world.stations[1].live(Direction::Upload)[0];
        let cancel = Command::Cancel { direction: Direction::Upload, id: upload, remove: false };
        assert_eq!(world.ask(1, cancel), Reply::Done);
        world.until("ann notices", |world| world.stations[0].live(Direction::Download).is_empty());
        world.pass(1);
        let record = &world.stations[0].kept.transfers[&id];
        // It may have been too late; but what somebody called off is not asked for again.
        let over = [TransferState::Completed(Ending::Rejected), SUCCEEDED].contains(&record.state);
        assert!(over && record.attempts == 1, "{record:?}");
        assert_eq!(state(world, 1, upload), CANCELLED);
    });
}

#[test]
fn the_queue_outlives_a_logout() {
    for seed in 0..10 {
        let mut world = two(seed, false, seed.is_multiple_of(2));
        assert_eq!(world.ask(1, Command::Disconnect), Reply::Done);
        let id = accepted(&world.ask(0, want("bob", &[(LONG, 900_000), (SONG, 300_000)])))[0];
        assert_eq!(world.ask(0, Command::Disconnect), Reply::Done);
        world.pass(3600);
        assert_eq!(world.stations[0].live(Direction::Download).len(), 2);
        // The attempt begun before anybody knew that Bob is away is the only one.
        assert!(world.stations[0].node.live(Direction::Download).all(|record| record.attempts <= 1));
        assert_eq!(world.ask(1, Command::Connect), Reply::Done);
        assert_eq!(world.ask(0, Command::Connect), Reply::Done);
        world.until("it is there", |world| world.stations[0].live(Direction::Download).is_empty());
        world.pass(1);
        assert_eq!(state(&world, 0, id), SUCCEEDED);
    }
}

/// One of these.
fn pick<T: Clone>(dice: &mut Chance, of: &[T]) -> Option<T> {
    of.get(usize::try_from(dice.below(of.len() as u64)).unwrap()).cloned()
}

/// Something that a person, the network or bad luck does.
fn disturb(world: &mut World, dice: &mut Chance) {
    let at = usize::try_from(dice.below(world.stations.len() as u64)).unwrap();
    let names: Vec<Username> = world.stations.iter().map(world::Station::name).collect();
    let other = pick(dice, &names).unwrap();
    let (path, size) = pick(dice, &[(SONG, 300_000), (OTHER, 70_001), (LONG, 900_000), ("music\\none", 9)]).unwrap();
    let direction = pick(dice, &[Direction::Download, Direction::Upload]).unwrap();
    let live = pick(dice, &world.stations[at].live(direction));
    let known: Vec<TransferId> = world.stations[at].kept.transfers.keys().copied().collect();
    let known = pick(dice, &known);
    let command = match dice.below(24) {
        0..6 => want(other.as_str(), &[(path, size)]),
        6 => search(dice.wide(), "song"),
        7 => Command::Browse(other),
        8 => Command::Folder(other, "music\\Sets".into()),
        9 => Command::UserInfo(other),
        10 => Command::UserStatus(other),
        11 => Command::UserEndpoint(other),
        12 => Command::SendMessage(other, "psst".to_owned()),
        13 | 14 => {
            let Some(id) = live.or(known) else { return };
            Command::Cancel { direction, id, remove: dice.below(2) == 0 }
        }
        15 => {
            let Some(id) = live.or(known) else { return };
            pick(dice, &[Command::Retry(id), Command::Place(id)]).unwrap()
        }
        16 => {
            let over = known.map(|id| &world.stations[at].kept.transfers[&id]);
            let Some(record) = over.filter(|r| r.state.is_over() && r.direction == Direction::Download) else { return };
            Command::Revive(Box::new(record.clone()))
        }
        17 => {
            let mut settings = world.stations[at].settings.clone();
            settings.banned = if settings.banned.is_empty() { vec![other] } else { Vec::new() };
            Command::Configure(Box::new(settings))
        }
        18 => pick(dice, &[Command::Disconnect, Command::Connect, Command::Connect]).unwrap(),
        19 => pick(dice, &[Command::WishAdd("mix".to_owned()), Command::WishRemove(1)]).unwrap(),
        20 => return world.restart(at, dice.below(3) == 0),
        21 => return world.server_hangs_up(at),
        22 => {
            let conns: Vec<_> = world.stations[at].ends.keys().copied().collect();
            if let Some(conn) = pick(dice, &conns) {
                world.cut(at, conn);
            }
            return;
        }
        _ => return world.pass(dice.below(100)),
    };
    world.command(at, command);
}

fn random_run(seed: u64) {
    let names = [("ann", seed % 3 == 1), ("bob", seed % 3 == 2), ("cyd", false)];
    let mut world = World::new(seed, &names, &SHARES);
    let mut dice = Chance::new(seed ^ 0x5eed);
    world.faults = seed.is_multiple_of(2);
    for _ in 0..60 {
        disturb(&mut world, &mut dice);
        for _ in 0..dice.below(40) {
            world.step();
        }
    }
    // Everything is well again: everything ends.
    world.faults = false;
    for at in 0..names.len() {
        let mut settings = world.stations[at].settings.clone();
        settings.banned.clear();
        world.command(at, Command::Configure(Box::new(settings)));
        world.command(at, Command::Connect);
    }
    world.pass(12 * 3600);
    assert_eq!(world.delivered().1, 0);
    for station in &world.stations {
        let name = station.name();
        for direction in [Direction::Download, Direction::Upload] {
            let live: Vec<_> = station.node.live(direction).collect();
            assert!(live.is_empty(), "{name} still has {live:?}");
        }
        let silent: Vec<_> = station.asked.iter().filter(|(_, reply)| reply.is_none()).collect();
        assert!(silent.is_empty(), "{name} never heard of {silent:?}");
        for record in station.kept.transfers.values().filter(|record| record.direction == Direction::Download) {
            assert!(record.state.is_over(), "{name} keeps {record:?}");
            if record.state == SUCCEEDED {
                let (bytes, content) = station.disk.finished[record.local_path.as_ref().unwrap()];
                let owned = SHARES.iter().any(|(_, path, _, whose)| record.path.as_str() == *path && *whose == content);
                assert!(owned && bytes == record.size, "{name}: {record:?} holds {content}");
            }
        }
    }
}

#[test]
fn whatever_happens_the_books_are_kept_and_everything_ends() {
    let only = std::env::var("SLSKDN_SEED").ok().map(|seed| seed.parse().unwrap());
    let seeds = only.map_or(0..300, |seed| seed..seed + 1);
    for seed in seeds {
        told(&format!("replay with SLSKDN_SEED={seed}"), || random_run(seed));
    }
}
