//! Whole jobs, led by hand through searches, downloads and verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fixtures::{job, spec, track};
use super::judge::Verdict;
use super::offer::offers_of;
use super::plan::{self, Meshing, Order, PATIENCE, Rules, Seen, Standing};
use super::work::Work;
use crate::model::id::{ContentHash, SearchId, TransferId, Username};
use crate::model::job::{Constraints, Job, JobState, MbRelease, Proof, TrackState};
use crate::model::music::{Attributes, WireText};
use crate::model::time::UnixMs;
use crate::model::view::{FileView, ResponseView};

fn file(name: &str, seconds: u32) -> FileView {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    FileView {
        name: name.into(),
        size: 1_000 + u64::from(seconds),
        code: 1,
        extension: extension.to_owned(),
        attributes: Attributes { duration_s: (seconds > 0).then_some(seconds), ..Attributes::default() },
    }
}

fn response(user: &str, files: &[(&str, u32)]) -> ResponseView {
    ResponseView {
        user: user.into(),
        token: 1,
        free_slot: true,
        upload_speed: 1_000,
        queue_length: 0,
        files: files.iter().map(|(name, seconds)| file(name, *seconds)).collect(),
        locked_files: Vec::new(),
    }
}

fn album() -> MbRelease {
    let tracks =
        [track(1, 1, "First Song", "", 100), track(1, 2, "Second Song", "", 200), track(2, 1, "Third", "", 300)];
    spec("Some Band", "Their Album", &tracks)
}

/// What of a response is which track.
fn matched(spec: &MbRelease, files: &[(&str, u32)]) -> Vec<(String, Vec<(u16, String)>)> {
    let offers = offers_of(spec, &response("u", files), &[], 500);
    offers
        .into_iter()
        .map(|offer| {
            let files = offer.files.iter().map(|file| (file.track, file.path.base_name().to_owned())).collect();
            (offer.folder, files)
        })
        .collect()
}

#[test]
fn tracks_are_found_by_title_place_and_length() {
    let files = [
        ("m\\Some Band\\Their Album\\CD1\\01 - First Song.flac", 100),
        ("m\\Some Band\\Their Album\\CD1\\02. second song.flac", 202),
        ("m\\Some Band\\Their Album\\CD2\\01 Third.flac", 299),
        ("m\\Some Band\\Their Album\\CD2\\02 Bonus.flac", 300),
        ("m\\Some Band\\Their Album\\cover.jpg", 0),
        ("m\\Some Band\\Live in Town\\01 - First Song (live).flac", 100),
        ("m\\Some Band\\Demos\\First Song.flac", 190),
    ];
    assert_eq!(
        matched(&album(), &files),
        [(
            "m\\Some Band\\Their Album".to_owned(),
            vec![
                (0, "01 - First Song.flac".to_owned()),
                (1, "02. second song.flac".to_owned()),
                (2, "01 Third.flac".to_owned()),
            ]
        )]
    );
}

#[test]
fn a_title_alone_proves_nothing() {
    let check = |name: &str, seconds: u32| matched(&album(), &[(name, seconds)]).len();
    assert_eq!(check("m\\Other\\Thing\\Third.flac", 0), 0, "neither artist, album nor length");
    assert_eq!(check("m\\Other\\Thing\\Third.flac", 300), 1);
    assert_eq!(check("m\\Some Band\\Thing\\Third.flac", 0), 1);
    assert_eq!(check("m\\Their Album\\2-01 - Some Band - Third.mp3", 0), 1);
    assert_eq!(check("m\\Their Album\\2-01.flac", 300), 1, "place, length and album");
    assert_eq!(check("m\\Their Album\\2-01.flac", 0), 0);
    assert_eq!(check("m\\Their Album\\Third (remix).flac", 300), 0);
    assert_eq!(check("m\\Their Album\\Third.flac", 304), 0, "more than three seconds and what was cut off");
    assert_eq!(check("m\\Their Album\\Third.txt", 300), 0);
    let remix = spec("Some Band", "Remix Album", &[track(1, 1, "Third (remix)", "", 300)]);
    assert_eq!(matched(&remix, &[("m\\Remix Album\\Third (remix).flac", 300)]).len(), 1);
}

#[test]
fn copies_that_are_not_wanted_are_not_offered() {
    let mut strict = album();
    strict.constraints = Constraints { allow_lossy: false, ..Constraints::default() };
    assert_eq!(matched(&strict, &[("Their Album\\First Song.mp3", 100)]), []);
    assert_eq!(matched(&album(), &[("Their Album\\First Song.mp3", 100)]).len(), 1);
}

/// A job with somebody to lead it.
struct World {
    job: Job,
    work: Work,
    now: UnixMs,
    next: u128,
    rules: Rules,
    searches: Vec<String>,
    /// User and track of each download.
    asked: Vec<(String, usize)>,
    live: Vec<(usize, Standing)>,
    /// What the mesh says of each track.
    mesh: BTreeMap<usize, Meshing>,
}

impl World {
    fn new(spec: MbRelease) -> Self {
        let mut job = job(spec);
        job.state = JobState::Running;
        let work = Work::new(job.spec.tracks.len());
        let rules = Rules { rounds: 1, rest: Duration::from_secs(60) };
        Self {
            job,
            work,
            now: UnixMs(1),
            next: 1,
            rules,
            searches: vec![],
            asked: vec![],
            live: vec![],
            mesh: BTreeMap::new(),
        }
    }

    /// One look; every search finds these, and downloads finish or not as `fetched` says.
    fn step(&mut self, found: &[ResponseView]) -> Vec<Order> {
        self.now = self.now.plus(Duration::from_secs(1));
        let seen = Seen { search_is_over: true, downloads: std::mem::take(&mut self.live), busy: BTreeSet::new() };
        let orders = plan::tick(&mut self.job, &mut self.work, &seen, &self.rules, self.now);
        for order in &orders {
            match order {
                Order::Search(text) => {
                    self.searches.push(text.clone());
                    self.next += 1;
                    plan::on_search(&mut self.work, Ok(SearchId(self.next)), self.now);
                }
                Order::Collect(_) => {
                    let offers = found.iter().flat_map(|r| offers_of(&self.job.spec, r, &[], 500)).collect();
                    plan::on_results(&mut self.work, offers);
                }
                Order::Fetch(user, files) => {
                    for (track, _, _) in files {
                        self.next += 1;
                        self.asked.push((user.as_str().to_owned(), *track));
                        plan::on_enqueued(&mut self.job, &mut self.work, *track, Ok(TransferId(self.next)));
                    }
                }
                Order::AskMesh(track) => {
                    self.asked.push(("mesh".to_owned(), *track));
                    let wrong = &self.work.tracks[*track].mesh_wrong;
                    let known = |said: &Meshing| matches!(said, Meshing::Comes(copy, _) if wrong.contains(copy));
                    let said = self.mesh.get(track).cloned().filter(|said| !known(said));
                    let said = said.unwrap_or(Meshing::Nothing(None));
                    plan::on_meshed(&mut self.job, &mut self.work, *track, said, self.now);
                }
                _ => {}
            }
        }
        orders
    }

    /// Leads it until nothing changes. Downloads end at once, and `judge` says what came of (user, track).
    fn run(&mut self, found: &[ResponseView], judge: impl Fn(&str, usize) -> Option<Verdict>) {
        for _ in 0..200 {
            let orders = self.step(found);
            for order in orders {
                match order {
                    Order::Check(track, path) => {
                        let user = path.split(':').next().unwrap_or_default();
                        let verdict = judge(user, track).unwrap_or(Verdict::Right(Proof::Length));
                        plan::on_judged(&mut self.job, &mut self.work, track, verdict, 0.5);
                    }
                    Order::Place(track, path) => {
                        plan::on_placed(&mut self.job, &mut self.work, track, Ok((path, None)));
                    }
                    _ => {}
                }
            }
            for (at, child) in self.job.children.iter().enumerate() {
                if let Some(fetching) = &self.work.tracks[at].fetching
                    && child.state == TrackState::Downloading
                {
                    self.live.push((at, Standing::Finished(format!("{}:{at}", fetching.user))));
                } else if self.work.tracks[at].mesh.is_some() {
                    self.live.push((at, Standing::Finished(format!("mesh:{at}"))));
                }
            }
            if self.job.state.is_over() {
                return;
            }
        }
        panic!("it never ends: {:?} {:?}", self.job, self.work);
    }

    fn files(&self) -> Vec<&str> {
        self.job.children.iter().map(|child| child.file.as_deref().unwrap_or("-")).collect()
    }
}

const ALL: [(&str, u32); 3] = [
    ("Their Album\\CD1\\01 First Song.flac", 100),
    ("Their Album\\CD1\\02 Second Song.flac", 200),
    ("Their Album\\CD2\\01 Third.flac", 300),
];

#[test]
fn one_complete_folder_is_enough() {
    let mut world = World::new(album());
    let part = response("a-part", &ALL[..2]);
    world.run(&[part, response("whole", &ALL)], |_, _| None);
    assert_eq!(world.job.state, JobState::Completed);
    assert_eq!(world.files(), ["whole:0", "whole:1", "whole:2"]);
    assert_eq!(world.searches, ["some band their album"], "no more than was needed");
}

#[test]
fn two_users_complement_one_another() {
    let mut world = World::new(album());
    world.run(&[response("a", &ALL[..2]), response("b", &ALL[1..])], |_, _| None);
    assert_eq!(world.job.state, JobState::Completed);
    assert_eq!(world.files(), ["a:0", "a:1", "b:2"]);
}

#[test]
fn a_wrong_take_is_fetched_elsewhere_and_its_folder_comes_last() {
    let mut world = World::new(album());
    let wrong =
        |user: &str, track: usize| (user == "a" && track == 0).then(|| Verdict::Wrong("another take".to_owned()));
    world.run(&[response("a", &ALL), response("b", &ALL)], wrong);
    assert_eq!(world.job.state, JobState::Completed);
    assert_eq!(world.files(), ["b:0", "a:1", "a:2"]);
    assert_eq!(world.asked.iter().filter(|(user, track)| (user.as_str(), *track) == ("a", 0)).count(), 1);
}

#[test]
fn a_poor_copy_is_taken_only_when_there_is_no_other() {
    let poor = |user: &str, track: usize| {
        (user == "a" && track < 2).then(|| Verdict::Poor(Proof::AcoustId, "lossy".to_owned()))
    };
    let mut world = World::new(album());
    // Only track 0 is offered by another.
    world.run(&[response("a", &ALL), response("b", &ALL[..1])], poor);
    assert_eq!(world.job.state, JobState::Completed);
    assert_eq!(world.files(), ["b:0", "a:1", "a:2"]);
    assert_eq!(world.job.children[1].proof, Some(Proof::AcoustId));
    assert!(world.job.children[1].note.as_deref().is_some_and(|note| note.contains("lossy")));
}

#[test]
fn what_nobody_has_is_named_and_the_rest_is_there() {
    let mut world = World::new(album());
    world.rules.rounds = 3;
    world.run(&[response("a", &ALL[..2])], |_, _| None);
    assert_eq!(world.job.state, JobState::Failed);
    assert_eq!(world.job.error.as_deref(), Some("nobody had 1 of 3 tracks: Third"));
    assert_eq!(world.files(), ["a:0", "a:1", "-"]);
    assert_eq!(world.job.children[2].state, TrackState::Failed);
    let whole = world.searches.iter().filter(|query| *query == "some band their album").count();
    assert_eq!(whole, 3, "once a round");
    assert!(world.searches.contains(&"some band third".to_owned()), "then for the track alone");
}

#[test]
fn a_download_that_does_not_move_is_left_when_another_has_it() {
    let mut world = World::new(album());
    let found = [response("a", &ALL), response("b", &ALL)];
    while world.asked.is_empty() {
        world.step(&found);
    }
    let begun = world.asked.len();
    world.now = world.now.plus(PATIENCE);
    world.live = vec![(0, Standing::Live(0)), (1, Standing::Live(50)), (2, Standing::Live(0))];
    let orders = world.step(&found);
    assert_eq!(orders.iter().filter(|order| matches!(order, Order::CallOff(_))).count(), 2, "one moved");
    assert_eq!(world.asked[begun..], [("b".to_owned(), 0), ("b".to_owned(), 2)]);
}

#[test]
fn a_user_who_fails_is_asked_again_in_the_next_round_only() {
    let mut world = World::new(spec("Some Band", "Their Album", &[track(1, 1, "First Song", "", 100)]));
    world.rules.rounds = 2;
    let found = [response("a", &ALL[..1])];
    for _ in 0..100 {
        world.step(&found);
        if world.job.children[0].state == TrackState::Downloading {
            world.live = vec![(0, Standing::Ended("a: gone".to_owned()))];
        }
    }
    assert_eq!(world.job.state, JobState::Failed);
    assert_eq!(world.asked.len(), 2);
}

#[test]
fn few_lossy_copies_are_few() {
    let mut some = album();
    some.constraints.max_lossy_tracks = Some(1);
    let mut world = World::new(some);
    let lossy = ALL.map(|(name, seconds)| (name.replace("flac", "mp3"), seconds));
    let lossy: Vec<(&str, u32)> = lossy.iter().map(|(name, seconds)| (name.as_str(), *seconds)).collect();
    let found = [response("a", &lossy)];
    // Nothing ever finishes.
    (0..50).for_each(|_| drop(world.step(&found)));
    assert_eq!(world.asked.len(), 1, "{:?}", world.asked);
}

/// An album that mesh peers may be asked for, and the copies they have of these tracks.
fn with_mesh(has: &[usize]) -> World {
    let mut spec = album();
    spec.constraints.use_overlay = true;
    let mut world = World::new(spec);
    world.mesh = has.iter().map(|at| (*at, Meshing::Comes(ContentHash([7; 32]), 500))).collect();
    world
}

#[test]
fn what_no_user_has_comes_from_the_mesh() {
    let mut world = with_mesh(&[0, 2]);
    world.run(&[response("a", &ALL[..2])], |_, _| None);
    assert_eq!(world.job.state, JobState::Completed);
    assert_eq!(world.files(), ["a:0", "a:1", "mesh:2"], "users come first");
    assert_eq!(world.asked.last(), Some(&("mesh".to_owned(), 2)));
    // Only where the owner allows it.
    let mut world = with_mesh(&[2]);
    world.job.spec.constraints.use_overlay = false;
    world.run(&[response("a", &ALL[..2])], |_, _| None);
    assert_eq!((world.job.state, world.files()), (JobState::Failed, vec!["a:0", "a:1", "-"]));
}

#[test]
fn a_copy_of_the_mesh_is_checked_like_any_other_and_comes_before_a_poor_one() {
    let mut world = with_mesh(&[0, 1]);
    let judge = |user: &str, track: usize| match (user, track) {
        ("a", _) => Some(Verdict::Poor(Proof::AcoustId, "lossy".to_owned())),
        ("mesh", 1) => Some(Verdict::Wrong("another recording".to_owned())),
        _ => None,
    };
    world.run(&[response("a", &ALL)], judge);
    assert_eq!(world.files(), ["mesh:0", "a:1", "a:2"]);
    let of_mesh = world.asked.iter().filter(|(user, _)| user == "mesh").count();
    assert_eq!((world.job.state, of_mesh), (JobState::Completed, 4), "once more where a copy was wrong, for another");
}

#[test]
fn the_mesh_is_asked_for_two_tracks_at_a_time_and_again_when_it_had_too_much_to_do() {
    let mut world = with_mesh(&[0, 1, 2]);
    let asked_mesh = |world: &World| world.asked.iter().map(|(_, track)| *track).collect::<Vec<_>>();
    (0..80).for_each(|_| drop(world.step(&[])));
    assert_eq!(asked_mesh(&world), [0, 1]);
    // One that does not move is left, which makes room; what is over is taken off the list.
    world.now = world.now.plus(PATIENCE);
    world.live = vec![(0, Standing::Live(0)), (1, Standing::Ended("not what was wanted".to_owned()))];
    let orders = world.step(&[]);
    let left = orders.iter().filter(|order| matches!(order, Order::LeaveMesh(_))).count();
    assert_eq!((left, asked_mesh(&world)), (2, vec![0, 1, 1, 2]));
    assert_eq!(world.job.children[1].note.as_deref(), Some("not what was wanted"));

    let mut world = with_mesh(&[]);
    world.mesh.insert(0, Meshing::Busy("max_concurrent_rescue_jobs".to_owned()));
    while world.asked.is_empty() {
        world.step(&[]);
    }
    assert_eq!(asked_mesh(&world), [0, 1]);
    assert!(world.work.doing.contains("max_concurrent_rescue_jobs"), "{}", world.work.doing);
    (0..50).for_each(|_| drop(world.step(&[])));
    assert_eq!(asked_mesh(&world), [0, 1], "not at once");
    for _ in 0..3_000 {
        world.step(&[]);
    }
    assert_eq!(world.job.state, JobState::Failed, "it does not wait for ever");
    let mut world = with_mesh(&[]);
    world.mesh.insert(0, Meshing::Busy("max_concurrent_rescue_jobs".to_owned()));
    while world.asked.is_empty() {
        world.step(&[]);
    }
    world.mesh.insert(0, Meshing::Nothing(Some("the mesh is off".to_owned())));
    (0..80).for_each(|_| drop(world.step(&[])));
    assert_eq!((asked_mesh(&world), world.job.state), (vec![0, 1, 0, 2], JobState::Failed));
    assert_eq!(world.job.children[0].note.as_deref(), Some("the mesh is off"));
}

#[test]
fn what_a_rule_holds_is_not_called_slow() {
    let mut world = with_mesh(&[0]);
    while world.asked.is_empty() {
        world.step(&[]);
    }
    let left = |world: &mut World, standing: Standing| {
        world.live = vec![(0, standing)];
        world.step(&[]).iter().any(|order| matches!(order, Order::LeaveMesh(_)))
    };
    for _ in 0..3 {
        world.now = world.now.plus(PATIENCE);
        assert!(!left(&mut world, Standing::Held(100)), "nobody was asked for more");
    }
    assert!(!left(&mut world, Standing::Live(100)), "it may go on from now");
    world.now = world.now.plus(PATIENCE);
    assert!(left(&mut world, Standing::Live(100)), "with what came of it");
}

#[test]
fn a_file_that_is_not_put_in_its_place_ends_its_track() {
    let mut world = World::new(spec("Some Band", "Their Album", &[track(1, 1, "First Song", "", 100)]));
    let found = [response("a", &ALL[..1])];
    while world.job.children[0].state != TrackState::Checking {
        world.step(&found);
        if world.job.children[0].state == TrackState::Downloading {
            world.live = vec![(0, Standing::Finished("a:0".to_owned()))];
        }
    }
    let orders = plan::on_refused(&mut world.job, &mut world.work, 0, "read-only".to_owned());
    assert_eq!(orders, [Order::Discard("a:0".to_owned())]);
    assert_eq!(world.job.children[0].note.as_deref(), Some("read-only"));
    world.step(&found);
    assert_eq!(world.job.state, JobState::Failed, "and so its job, which has no other");
}

#[test]
fn a_pause_leaves_the_mesh_and_it_is_asked_anew() {
    let mut world = with_mesh(&[2]);
    while world.job.children[2].state != TrackState::Downloading {
        world.step(&[response("a", &ALL[..2])]);
        world.live = (0..2).map(|at| (at, Standing::Live(1))).collect();
    }
    let orders = plan::let_go(&mut world.job, &mut world.work, true);
    assert_eq!(orders.iter().filter(|order| **order == Order::LeaveMesh(ContentHash([7; 32]))).count(), 1);
    assert_eq!(world.job.children[2].state, TrackState::Pending);
    world.run(&[response("a", &ALL[..2])], |_, _| None);
    assert_eq!(world.files(), ["a:0", "a:1", "mesh:2"]);
}

#[test]
fn what_is_stopped_is_left_alone() {
    let mut world = World::new(album());
    world.job.state = JobState::Paused;
    assert_eq!(world.step(&[]), []);
    assert_eq!(plan::let_go(&mut world.job, &mut world.work, true), []);
}

#[test]
fn names_of_users_part_their_files() {
    let path: WireText = "a\\b".into();
    let key = |user: &str| super::offer::file_key(&Username::from(user), &path);
    assert_eq!(key("x"), key("x"));
    assert_ne!(key("x"), key("y"));
}

#[test]
fn a_file_that_was_tagged_has_its_new_size_and_what_is_said_of_it() {
    let mut world = World::new(spec("Some Band", "Their Album", &[track(1, 1, "First Song", "", 100)]));
    let found = [response("a", &ALL[..1])];
    while world.job.children[0].state != TrackState::Checking {
        world.step(&found);
        if world.job.children[0].state == TrackState::Downloading {
            world.live = vec![(0, Standing::Finished("there".to_owned()))];
        }
    }
    plan::on_judged(&mut world.job, &mut world.work, 0, Verdict::Right(Proof::Tags), 1.0);
    plan::on_sized(&mut world.job, 0, 77);
    assert_eq!(world.step(&found), [Order::Place(0, "there".to_owned())], "its place is still to come");
    plan::on_placed(&mut world.job, &mut world.work, 0, Ok(("x.flac".to_owned(), Some("said".to_owned()))));
    let child = &world.job.children[0];
    assert_eq!((child.size, child.done, child.note.as_deref()), (Some(77), 77, Some("said")));
    assert_eq!(child.state, TrackState::Completed);
}
