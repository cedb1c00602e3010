//! What no user has, from mesh peers.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Order, again, with};
use crate::engine::jobs::work::{Meshed, Work};
use crate::model::id::ContentHash;
use crate::model::job::{Job, TrackState};
use crate::model::limits;
use crate::model::time::UnixMs;

/// Tracks of one job that mesh peers are asked for at once. Chosen.
const AT_ONCE: usize = 2;
/// A round waits so often when the mesh has too much to do. Chosen: half an hour.
const BUSY_MAX: u32 = 30;
/// Before the mesh is asked again when it has too much to do.
const AGAIN: Duration = Duration::from_secs(60);

/// What became of asking the mesh for a track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meshing {
    /// This copy comes; its length, bytes.
    Comes(ContentHash, u64),
    /// It has too much to do, in a few words.
    Busy(String),
    /// Nothing comes in this round; why, if that is worth saying.
    Nothing(Option<String>),
}

/// Asks mesh peers for tracks that they were not asked for in this round, some at a time; false if there are none.
pub(super) fn ask(job: &mut Job, work: &mut Work, wanted: &BTreeSet<u16>, now: UnixMs, out: &mut Vec<Order>) -> bool {
    let mut room = AT_ONCE.saturating_sub(work.tracks.iter().filter(|track| track.mesh.is_some()).count());
    let mut asks = false;
    for at in wanted.iter().map(|at| usize::from(*at)) {
        let Some(track) = work.tracks.get_mut(at).filter(|track| !track.mesh_tried) else { continue };
        asks = true;
        if room == 0 {
            break;
        }
        room -= 1;
        track.mesh_tried = true;
        track.mesh = Some(Meshed { content: None, since: now, bytes: 0 });
        with(&mut job.children, at, |child| {
            child.state = TrackState::Downloading;
            child.size = None;
            child.done = 0;
        });
        out.push(Order::AskMesh(at));
    }
    if asks {
        work.doing = String::new();
    }
    asks
}

/// A copy of theirs was not what was wanted; others are asked for at once.
pub(super) fn was_wrong(work: &mut Work, at: usize, copy: Option<ContentHash>) {
    let (Some(copy), Some(track)) = (copy, work.tracks.get_mut(at)) else { return };
    if track.mesh_wrong.len() < limits::JOB_TRIED && !track.mesh_wrong.contains(&copy) {
        track.mesh_wrong.push(copy);
        track.mesh_tried = false;
    }
}

/// Mesh peers were asked for a track.
pub fn on_meshed(job: &mut Job, work: &mut Work, at: usize, outcome: Meshing, now: UnixMs) {
    match outcome {
        Meshing::Comes(content, size) => {
            with(&mut job.children, at, |child| child.size = Some(size));
            with(&mut work.tracks, at, |track| {
                if let Some(mesh) = &mut track.mesh {
                    mesh.content = Some(content);
                }
            });
        }
        Meshing::Busy(why) => {
            let times = work.tracks.get(at).map_or(BUSY_MAX, |track| track.mesh_busy);
            if times >= BUSY_MAX {
                return again(job, work, at, Some(&why));
            }
            again(job, work, at, None);
            with(&mut work.tracks, at, |track| (track.mesh_tried, track.mesh_busy) = (false, times + 1));
            work.rest_until = Some(now.plus(AGAIN));
            work.doing = format!("waits: {why}");
        }
        Meshing::Nothing(why) => again(job, work, at, why.as_deref()),
    }
}
