//! Leads one job: what to search for, whom to ask, what to do with what came, when it is over.
//!
//! | Track | Becomes | When |
//! |---|---|---|
//! | Pending | Downloading | somebody offers it: the best untried file is asked for |
//! | | Downloading | no user has it, and mesh peers may be asked |
//! | Downloading | Checking | the download lies on the disk |
//! | | Pending | it ended otherwise, or moved too slowly while others offer it |
//! | Checking | Completed | it is the recording that was wanted, and lies in its place |
//! | | Pending | it is another, or a worse copy; that file is not tried again |
//! | Pending | Failed | the last round of searches is over |
//!
//! The shell calls [`tick`] again and again and does what it is told; what came of it comes back through the other
//! doors. All of that can be lost between two records of the job: a tick after a restart asks for it again.

mod mesh;

pub use self::mesh::{Meshing, on_meshed};

use std::collections::BTreeSet;
use std::time::Duration;

use super::judge::Verdict;
use super::offer::{choose, file_key, merge};
use super::query;
use super::work::{Aside, Fetching, Offer, Work};
use crate::model::id::{ContentHash, SearchId, TransferId, Username};
use crate::model::job::{Child, Job, JobState, Proof, TrackState};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::time::UnixMs;

/// A download that has not moved for so long is given up when somebody else offers the track. Chosen: a queue that does
/// not move within it rarely does within the hour.
pub const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Queries for single tracks in one round, so that a long release does not keep the network busy (SOULSEEK-FACTS 3:
/// repeated searches are what servers ban for).
const TRACK_QUERIES: usize = 30;

/// Begins the note of a track whose file is not what was wished for.
const TAKEN: &str = "taken although";

/// How patient the owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Rounds of searches before a job with missing tracks is over.
    pub rounds: u32,
    /// Between two of them.
    pub rest: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { rounds: 4, rest: Duration::from_secs(60 * 60) }
    }
}

/// How the download of a track stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It goes on; bytes that are there.
    Live(u64),
    /// The same, and a rule keeps it from going on for now: bytes that are there.
    Held(u64),
    /// It lies there.
    Finished(String),
    /// It ended without the file, and why.
    Ended(String),
    /// Nobody knows of it.
    Unknown,
}

/// What the shell sees when it calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The search that runs has ended, or is not known any more.
    pub search_is_over: bool,
    /// Downloads of tracks, by index of the track.
    pub downloads: Vec<(usize, Standing)>,
    /// Tracks that are being measured or moved just now.
    pub busy: BTreeSet<usize>,
}

/// A file to be asked for: index of its track, path, bytes.
pub type Asked = (usize, WireText, u64);

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Search, and say under which id by [`on_search`].
    Search(String),
    /// Hand the results of this search to [`on_results`], and forget it.
    Collect(SearchId),
    /// Ask a user for files, and say by [`on_enqueued`] what came of each: track, path, size.
    Fetch(Username, Vec<Asked>),
    /// Ask mesh peers for a track, but for its `mesh_wrong` copies, and say by [`on_meshed`] what came of it.
    AskMesh(usize),
    /// Call a fetch from mesh peers off, and remove what came of it.
    LeaveMesh(ContentHash),
    /// Take a finished fetch from mesh peers off the list; its file stays.
    EndMesh(ContentHash),
    /// Call a download off, and forget its partial file.
    CallOff(TransferId),
    /// Measure the finished file of a track; [`on_judged`] hears the verdict.
    Check(usize, String),
    /// Move the finished file of a track to its place; [`on_placed`] hears of it.
    Place(usize, String),
    /// Remove a finished file that is of no use.
    Discard(String),
}

fn with<T>(list: &mut [T], at: usize, change: impl FnOnce(&mut T)) {
    if let Some(one) = list.get_mut(at) {
        change(one);
    }
}

/// Makes work and children of a job fit, whatever was stored.
fn fit(job: &mut Job, work: &mut Work) {
    job.children.resize_with(job.spec.tracks.len(), Child::new);
    work.tracks.resize_with(job.spec.tracks.len(), Default::default);
}

/// Every query of a round, with the track that it is for.
fn queries(job: &Job) -> Vec<(String, Option<usize>)> {
    let mut all: Vec<(String, Option<usize>)> =
        query::for_release(&job.spec).into_iter().map(|query| (query, None)).collect();
    let mut of_tracks = Vec::new();
    for (at, track) in job.spec.tracks.iter().enumerate() {
        let unwanted = job.children.get(at).is_none_or(|child| child.state != TrackState::Pending);
        if !unwanted {
            of_tracks
                .extend(query::for_track(&job.spec, track).into_iter().enumerate().map(|(n, query)| (n, query, at)));
        }
    }
    // The first query of each track before the second of any.
    of_tracks.sort_by_key(|(n, _, at)| (*n, *at));
    for (_, query, at) in of_tracks {
        if all.len() < TRACK_QUERIES && !all.iter().any(|(known, _)| *known == query) {
            all.push((query, Some(at)));
        }
    }
    all
}

fn pending(job: &Job) -> BTreeSet<u16> {
    let open = job.children.iter().enumerate().filter(|(_, child)| child.state == TrackState::Pending);
    open.filter_map(|(at, _)| u16::try_from(at).ok()).collect()
}

fn is_open(work: &Work, offer: &Offer, track: u16, path: &WireText) -> bool {
    let key = file_key(&offer.user, path);
    work.tracks.get(usize::from(track)).is_none_or(|track| !track.tried.contains(&key) && !track.wrong.contains(&key))
}

/// Remembers a file; the oldest is forgotten: what is long past may be tried again.
fn remember(keys: &mut Vec<u64>, key: u64) {
    if keys.len() >= limits::JOB_TRIED {
        keys.remove(0);
    }
    keys.push(key);
}

/// Whether the file of this track may be a lossy copy, as far as their number goes.
pub fn may_be_lossy(job: &Job, work: &Work, at: usize) -> bool {
    lossy_room(job, work, Some(at)) > 0
}

/// Of the lossy copies that may be taken, how many are left; `but`: as if this track had no file.
fn lossy_room(job: &Job, work: &Work, but: Option<usize>) -> u32 {
    let Some(max) = job.spec.constraints.max_lossy_tracks else { return u32::MAX };
    let others = job.children.iter().zip(&work.tracks).enumerate().filter(|(at, _)| Some(*at) != but);
    let taken = others.filter(|(_, (child, track))| {
        let asked = track.fetching.as_ref().map(|fetching| fetching.path.base_name());
        let name = child.file.as_deref().or(asked).or(track.local.as_deref());
        let extension = name.and_then(|name| name.rsplit_once('.')).map(|(_, extension)| extension.to_lowercase());
        child.state != TrackState::Pending
            && extension.and_then(|e| super::offer::codec_of(&e)).is_some_and(|codec| !codec.is_lossless())
    });
    max.saturating_sub(u32::try_from(taken.count()).unwrap_or(u32::MAX))
}

/// What is to be done now. The job and its work change with it; both are to be kept before anything is done.
pub fn tick(job: &mut Job, work: &mut Work, seen: &Seen, rules: &Rules, now: UnixMs) -> Vec<Order> {
    let mut out = Vec::new();
    if job.state != JobState::Running {
        return out;
    }
    fit(job, work);
    for (at, standing) in &seen.downloads {
        download(job, work, *at, standing, now, &mut out);
    }
    finished(job, work, seen, &mut out);
    if let Some(search) = work.search {
        if !seen.search_is_over {
            return out;
        }
        out.push(Order::Collect(search));
        return out;
    }
    let wanted = pending(job);
    if wanted.is_empty() {
        let busy = job.children.iter().any(|child| !matches!(child.state, TrackState::Completed | TrackState::Failed));
        if busy {
            work.doing = String::new();
        } else {
            end(job, work, now);
        }
        return out;
    }
    let room = lossy_room(job, work, None);
    let open = |offer: &Offer, file: &super::work::OfferedFile| {
        (room > 0 || !file.grade.is_lossy()) && is_open(work, offer, file.track, &file.path)
    };
    let chosen = choose(&work.offers, &wanted, open);
    let rests = work.rest_until.is_some_and(|until| until > now);
    let all = queries(job);
    let albums = all.iter().take_while(|(_, track)| track.is_none()).count();
    let asked = usize::try_from(work.asked).unwrap_or(usize::MAX);
    // Whole folders come first: nobody is asked before the album was searched for in every way, unless all is found.
    if chosen.len() < wanted.len() && asked < albums && !rests {
        search(work, &all, asked, &mut out);
        return out;
    }
    if !chosen.is_empty() {
        fetch(job, work, &chosen, room, now, &mut out);
        return out;
    }
    if rests {
        return out;
    }
    if asked < all.len() {
        search(work, &all, asked, &mut out);
        return out;
    }
    // No user is left to ask.
    if job.spec.constraints.use_overlay && mesh::ask(job, work, &wanted, now, &mut out) {
        return out;
    }
    // What was set aside is better than nothing.
    let mut taken = false;
    for at in wanted.iter().map(|at| usize::from(*at)) {
        let Some(aside) = work.tracks.get_mut(at).and_then(|track| track.aside.take()) else { continue };
        taken = true;
        with(&mut job.children, at, |child| {
            child.state = TrackState::Checking;
            child.note = Some(format!("{TAKEN} {}", aside.why));
        });
        with(&mut work.tracks, at, |track| {
            track.local = Some(aside.path.clone());
            track.proven = Some(aside.proof);
        });
    }
    if taken {
        return out;
    }
    let busy = job.children.iter().any(|child| matches!(child.state, TrackState::Downloading | TrackState::Checking));
    if busy {
        // What comes may still be wrong; the round ends when nothing is under way.
        "waits for downloads".clone_into(&mut work.doing);
        return out;
    }
    work.rounds = work.rounds.saturating_add(1);
    if work.rounds < rules.rounds {
        work.asked = 0;
        work.rest_until = Some(now.plus(rules.rest));
        // Who did not answer, or failed, may do better next time; files that were wrong stay wrong.
        work.offers.clear();
        work.tracks.iter_mut().for_each(|track| {
            track.tried.clear();
            (track.mesh_tried, track.mesh_busy) = (false, 0);
        });
        work.doing = format!("{} tracks were not found; it searches again later", wanted.len());
        return out;
    }
    for at in &wanted {
        with(&mut job.children, usize::from(*at), |child| child.state = TrackState::Failed);
    }
    end(job, work, now);
    out
}

fn search(work: &mut Work, all: &[(String, Option<usize>)], asked: usize, out: &mut Vec<Order>) {
    if let Some((text, _)) = all.get(asked) {
        work.doing = format!("searches for \u{201c}{text}\u{201d}");
        out.push(Order::Search(text.clone()));
    }
}

fn fetch(
    job: &mut Job,
    work: &mut Work,
    chosen: &[super::offer::Chosen],
    mut lossy_room: u32,
    now: UnixMs,
    out: &mut Vec<Order>,
) {
    let mut by_user: Vec<(Username, Vec<Asked>)> = Vec::new();
    for one in chosen {
        let Some(offer) = work.offers.get(one.offer) else { continue };
        let Some(file) = offer.files.get(one.file) else { continue };
        if file.grade.is_lossy() {
            if lossy_room == 0 {
                continue;
            }
            lossy_room = lossy_room.saturating_sub(1);
        }
        let at = usize::from(file.track);
        let (user, path, size) = (offer.user.clone(), file.path.clone(), file.size);
        with(&mut job.children, at, |child| {
            child.state = TrackState::Downloading;
            child.size = Some(size);
            child.done = 0;
        });
        with(&mut work.tracks, at, |track| {
            remember(&mut track.tried, file_key(&user, &path));
            track.fetching =
                Some(Fetching { user: user.clone(), path: path.clone(), transfer: None, since: now, bytes: 0 });
        });
        match by_user.iter_mut().find(|(known, _)| *known == user) {
            Some((_, files)) => files.push((at, path, size)),
            None => by_user.push((user, vec![(at, path, size)])),
        }
    }
    work.doing = String::new();
    out.extend(by_user.into_iter().map(|(user, files)| Order::Fetch(user, files)));
}

/// How the download of a track stands.
fn download(job: &mut Job, work: &mut Work, at: usize, standing: &Standing, now: UnixMs, out: &mut Vec<Order>) {
    if job.children.get(at).is_none_or(|child| child.state != TrackState::Downloading) {
        return;
    }
    let others = {
        let alone = BTreeSet::from([u16::try_from(at).unwrap_or(u16::MAX)]);
        !choose(&work.offers, &alone, |offer, file| is_open(work, offer, file.track, &file.path)).is_empty()
    };
    let Some(track) = work.tracks.get_mut(at) else { return };
    let (bytes_then, since, leave) = match (&mut track.fetching, &mut track.mesh) {
        (Some(fetching), _) => {
            (&mut fetching.bytes, &mut fetching.since, fetching.transfer.filter(|_| others).map(Order::CallOff))
        }
        (None, Some(mesh)) => (&mut mesh.bytes, &mut mesh.since, mesh.content.map(Order::LeaveMesh)),
        (None, None) => return again(job, work, at, None),
    };
    match standing {
        Standing::Live(bytes) | Standing::Held(bytes) => {
            // Fewer: the program was started again, and looks at what is there. Patience is with those who could send.
            if *bytes != *bytes_then || matches!(standing, Standing::Held(_)) {
                (*bytes_then, *since) = (*bytes, now);
            }
            let leave = leave.filter(|_| now.since(*since) >= PATIENCE);
            with(&mut job.children, at, |child| child.done = *bytes);
            if let Some(leave) = leave {
                out.push(leave);
                again(job, work, at, Some("it did not move; others are asked"));
            }
        }
        Standing::Finished(path) => {
            out.extend(track.mesh.as_ref().and_then(|mesh| mesh.content).map(Order::EndMesh));
            track.local = Some(path.clone());
            track.proven = None;
            with(&mut job.children, at, |child| {
                child.state = TrackState::Checking;
                child.done = child.size.unwrap_or_default();
            });
        }
        Standing::Ended(why) => {
            let copy = track.mesh.as_ref().and_then(|mesh| mesh.content);
            out.extend(copy.map(Order::LeaveMesh));
            again(job, work, at, Some(why));
            mesh::was_wrong(work, at, copy);
        }
        Standing::Unknown => again(job, work, at, None),
    }
}

/// The track is wanted again.
fn again(job: &mut Job, work: &mut Work, at: usize, why: Option<&str>) {
    with(&mut job.children, at, |child| {
        child.state = TrackState::Pending;
        child.size = None;
        child.done = 0;
        if let Some(why) = why {
            child.note = Some(why.to_owned());
        }
    });
    with(&mut work.tracks, at, |track| {
        track.fetching = None;
        track.mesh = None;
        track.local = None;
        track.proven = None;
    });
}

/// Files that lie there and wait to be measured or moved.
fn finished(job: &mut Job, work: &mut Work, seen: &Seen, out: &mut Vec<Order>) {
    for at in 0..job.children.len() {
        let checking = job.children.get(at).is_some_and(|child| child.state == TrackState::Checking);
        if !checking || seen.busy.contains(&at) {
            continue;
        }
        let Some(track) = work.tracks.get(at) else { continue };
        match (track.local.clone(), track.proven) {
            (Some(path), Some(_)) => out.push(Order::Place(at, path)),
            (Some(path), None) => out.push(Order::Check(at, path)),
            (None, _) => again(job, work, at, None),
        }
    }
}

fn end(job: &mut Job, work: &mut Work, now: UnixMs) {
    let missing: Vec<String> = job
        .spec
        .tracks
        .iter()
        .zip(&job.children)
        .filter(|(_, child)| child.state != TrackState::Completed)
        .map(|(track, _)| track.title.clone())
        .collect();
    (job.state, job.error) = if missing.is_empty() {
        (JobState::Completed, None)
    } else {
        let names = missing.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
        let more = if missing.len() > 10 { ", \u{2026}" } else { "" };
        let (count, all) = (missing.len(), job.spec.tracks.len());
        (JobState::Failed, Some(format!("nobody had {count} of {all} tracks: {names}{more}")))
    };
    job.completed_at = Some(now);
    *work = Work::new(job.spec.tracks.len());
}

/// A search was begun under this id; `None`: it could not be, and is tried again after a while.
pub fn on_search(work: &mut Work, search: Result<SearchId, String>, now: UnixMs) {
    match search {
        Ok(id) => {
            work.search = Some(id);
            work.asked = work.asked.saturating_add(1);
            work.rest_until = None;
        }
        Err(why) => {
            work.rest_until = Some(now.plus(Duration::from_secs(30)));
            work.doing = format!("waits: {why}");
        }
    }
}

/// What the search found.
pub fn on_results(work: &mut Work, offers: Vec<Offer>) {
    work.search = None;
    merge(&mut work.offers, offers);
}

/// A file was asked for, or why not.
pub fn on_enqueued(job: &mut Job, work: &mut Work, at: usize, outcome: Result<TransferId, String>) {
    match outcome {
        Ok(id) => with(&mut work.tracks, at, |track| {
            if let Some(fetching) = &mut track.fetching {
                fetching.transfer = Some(id);
            }
        }),
        Err(why) => again(job, work, at, Some(&why)),
    }
}

/// A finished file was measured.
pub fn on_judged(job: &mut Job, work: &mut Work, at: usize, verdict: Verdict, score: f32) -> Vec<Order> {
    let mut out = Vec::new();
    let Some(track) = work.tracks.get_mut(at) else { return out };
    let Some(path) = track.local.clone() else { return out };
    let from = track.fetching.clone();
    let copy = track.mesh.as_ref().and_then(|mesh| mesh.content);
    match verdict {
        Verdict::Right(proof) => {
            track.proven = Some(proof);
            if let Some(aside) = track.aside.take() {
                out.push(Order::Discard(aside.path));
            }
            return out;
        }
        Verdict::Wrong(why) => {
            out.push(Order::Discard(path));
            again(job, work, at, Some(&why));
        }
        Verdict::Poor(proof, why) => {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1,000")]
            let score = (score.clamp(0.0, 1.0) * 1_000.0) as u16;
            let aside = Aside { path, score, proof, why: why.clone() };
            let worse = match track.aside.take() {
                Some(old) if old.score >= aside.score => {
                    track.aside = Some(old);
                    Some(aside)
                }
                old => {
                    track.aside = Some(aside);
                    old
                }
            };
            out.extend(worse.map(|worse| Order::Discard(worse.path)));
            again(job, work, at, Some(&why));
        }
    }
    mesh::was_wrong(work, at, copy);
    // One file of a folder that was not what it claimed to be: the others probably are not either.
    if let Some(from) = from {
        with(&mut work.tracks, at, |track| remember(&mut track.wrong, file_key(&from.user, &from.path)));
        for offer in &mut work.offers {
            if offer.user == from.user && offer.files.iter().any(|file| file.path == from.path) {
                offer.in_doubt = true;
            }
        }
    }
    out
}

/// A finished file has this size now, bytes: its tags were written. On record before it is moved, by it the file is known
/// when the move was interrupted.
pub fn on_sized(job: &mut Job, at: usize, size: u64) {
    with(&mut job.children, at, |child| {
        child.size = Some(size);
        child.done = size;
    });
}

/// A file lies in its place under a name, and what is to be said of it besides; or why it does not.
pub fn on_placed(job: &mut Job, work: &mut Work, at: usize, outcome: Result<(String, Option<String>), String>) {
    let proof: Option<Proof> = work.tracks.get(at).and_then(|track| track.proven);
    match outcome {
        Ok((file, said)) => {
            with(&mut job.children, at, |child| {
                child.state = TrackState::Completed;
                child.done = child.size.unwrap_or_default();
                child.file = Some(file);
                child.proof = proof;
                // What was wrong with files before it is past.
                let taken = child.note.take().filter(|note| note.starts_with(TAKEN));
                let both = taken.into_iter().chain(said).collect::<Vec<_>>().join("; ");
                child.note = Some(both).filter(|note| !note.is_empty());
            });
            with(&mut work.tracks, at, |track| {
                *track = super::work::TrackWork::default();
            });
        }
        // The disk may be full: it is tried again at the next tick.
        Err(why) => with(&mut job.children, at, |child| child.note = Some(why)),
    }
}

/// A finished file is not put in the place that it was fetched for, and will not be: why.
pub fn on_refused(job: &mut Job, work: &mut Work, at: usize, why: String) -> Vec<Order> {
    let Some(track) = work.tracks.get_mut(at) else { return Vec::new() };
    let gone = std::mem::take(track).local.map(Order::Discard);
    with(&mut job.children, at, |child| {
        child.state = TrackState::Failed;
        child.note = Some(why);
    });
    gone.into_iter().collect()
}

/// Downloads and files to let go of when a job is called off; with `keep` (a pause) downloads stop and all stays, but what
/// mesh peers are asked for, which they are asked for anew.
pub fn let_go(job: &mut Job, work: &mut Work, keep: bool) -> Vec<Order> {
    let mut out = Vec::new();
    for at in 0..work.tracks.len() {
        let goes_on = job.children.get(at).is_some_and(|child| child.state == TrackState::Downloading);
        let mesh = work.tracks.get(at).and_then(|track| track.mesh.clone());
        if let Some(mesh) = mesh.filter(|_| goes_on) {
            out.extend(mesh.content.map(Order::LeaveMesh));
            again(job, work, at, None);
            with(&mut work.tracks, at, |track| track.mesh_tried = false);
        }
    }
    for track in &work.tracks {
        out.extend(track.fetching.iter().filter_map(|fetching| fetching.transfer).map(Order::CallOff));
        if !keep {
            out.extend(track.local.iter().cloned().map(Order::Discard));
            out.extend(track.aside.iter().map(|aside| Order::Discard(aside.path.clone())));
        }
    }
    out
}
