//! Manifests: a job as a file that a person can read, keep and carry to another box (SPEC-FACTS 15).
//!
//! A manifest is a stranger's text. It arrives here as a tree of plain values with their lines ([`Node`]); reading YAML
//! is the shell's, with its limits. What is written is the envelope; the envelope and the older flat layout are read
//! (C11). [`write`] and [`read`] are each other's reverse for every job.

mod time;
mod write;

use std::collections::BTreeSet;
use std::fmt;

pub use self::time::{parse as parse_time, show as show_time};
pub use self::write::write;
use crate::model::id::{RecordingId, ReleaseId};
use crate::model::job::{Child, Constraints, Job, JobId, JobState, JobTrack, MbRelease, Proof, TrackState};
use crate::model::limits;
use crate::model::time::UnixMs;
use crate::model::variant::Codec;

/// The version that is written, and the only one that is read.
pub const VERSION: &str = "1.0";
/// Kinds of jobs that are known by name and not done yet.
const NOT_YET: [&str; 3] = ["discography", "label_crate", "multi_source"];
/// Largest number of a medium or place.
const PLACE_MAX: u64 = 9_999;
/// Longest track, milliseconds: a week.
const DURATION_MAX: u64 = 7 * 24 * 3_600_000;

/// A value and the line where it stands, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Line.
    pub line: usize,
    /// What stands there.
    pub value: Value,
}

/// What can stand in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A word or text; `true` if it is in quotes and so no number.
    Text(String, bool),
    /// A list.
    List(Vec<Node>),
    /// Keys, each with its line.
    Map(Vec<(String, usize, Node)>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(..) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a section",
        }
    }
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// In one sentence.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for Problem {}

fn problem(line: usize, reason: impl Into<String>) -> Problem {
    Problem { line, reason: reason.into() }
}

/// A section whose keys are taken one by one; what is left over is unknown.
struct Section<'a> {
    line: usize,
    name: &'static str,
    entries: Vec<(&'a str, usize, &'a Node)>,
}

impl<'a> Section<'a> {
    fn of(node: &'a Node, name: &'static str) -> Result<Self, Problem> {
        let Value::Map(entries) = &node.value else {
            return Err(problem(node.line, format!("{name} is {}, not a section with keys", node.value.kind())));
        };
        let mut known = BTreeSet::new();
        for (key, line, _) in entries {
            if !known.insert(key) {
                return Err(problem(*line, format!("`{}` is given twice", short(key))));
            }
        }
        let entries = entries.iter().map(|(key, line, node)| (key.as_str(), *line, node)).collect();
        Ok(Self { line: node.line, name, entries })
    }

    /// A key's value; nothing counts as not given.
    fn take(&mut self, key: &str) -> Option<&'a Node> {
        let at = self.entries.iter().position(|(known, ..)| *known == key)?;
        let (_, _, node) = self.entries.remove(at);
        (node.value != Value::Null).then_some(node)
    }

    fn take_either(&mut self, key: &str, other: &str) -> Result<Option<&'a Node>, Problem> {
        match (self.take(key), self.take(other)) {
            (Some(_), Some(second)) => Err(problem(second.line, format!("`{key}` and `{other}` mean the same"))),
            (one, other) => Ok(one.or(other)),
        }
    }

    fn need(&mut self, key: &str) -> Result<&'a Node, Problem> {
        let (line, name) = (self.line, self.name);
        self.take(key).ok_or_else(|| problem(line, format!("{name} lacks `{key}`")))
    }

    fn end(self) -> Result<(), Problem> {
        match self.entries.first() {
            None => Ok(()),
            Some((key, line, _)) => Err(problem(*line, format!("`{}` is not known in {}", short(key), self.name))),
        }
    }
}

/// A stranger's word as far as it fits a sentence.
fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect()
}

fn text<'a>(node: &'a Node, key: &str) -> Result<&'a str, Problem> {
    let Value::Text(text, _) = &node.value else {
        return Err(problem(node.line, format!("`{key}` is {}, not a text", node.value.kind())));
    };
    if text.len() > limits::JOB_TEXT {
        let (found, most) = (text.len(), limits::JOB_TEXT);
        return Err(problem(node.line, format!("`{key}` has {found} bytes, at most {most}")));
    }
    Ok(text)
}

fn maybe_text(section: &mut Section<'_>, key: &str) -> Result<Option<String>, Problem> {
    section.take(key).map(|node| text(node, key).map(str::to_owned)).transpose()
}

fn number(node: &Node, key: &str, most: u64) -> Result<u64, Problem> {
    let wrong = |what: &str| problem(node.line, format!("`{key}` is {what}, not a number from 0 to {most}"));
    match &node.value {
        Value::Text(digits, false) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let number = digits.parse::<u64>().map_err(|_| wrong("too large"))?;
            if number <= most { Ok(number) } else { Err(wrong(&short(digits))) }
        }
        Value::Text(other, _) => Err(wrong(&format!("`{}`", short(other)))),
        other => Err(wrong(other.kind())),
    }
}

fn maybe_number(section: &mut Section<'_>, key: &str, most: u64) -> Result<Option<u64>, Problem> {
    section.take(key).map(|node| number(node, key, most)).transpose()
}

fn small(section: &mut Section<'_>, key: &str) -> Result<Option<u32>, Problem> {
    let read = maybe_number(section, key, u32::MAX.into())?;
    Ok(read.and_then(|number| u32::try_from(number).ok()))
}

fn flag(section: &mut Section<'_>, key: &str) -> Result<Option<bool>, Problem> {
    let Some(node) = section.take(key) else { return Ok(None) };
    match &node.value {
        Value::Text(word, false) if word == "true" => Ok(Some(true)),
        Value::Text(word, false) if word == "false" => Ok(Some(false)),
        _ => Err(problem(node.line, format!("`{key}` is neither true nor false"))),
    }
}

/// Something that reads itself from a text, or says why not.
fn parsed<T>(node: &Node, key: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Problem> {
    let given = text(node, key)?;
    read(given).map_err(|why| problem(node.line, format!("`{key}`: `{}` is {why}", short(given))))
}

fn id_of(node: &Node, key: &str) -> Result<JobId, Problem> {
    parsed(node, key, |id| id.parse().map_err(|why: crate::model::job::JobIdError| why.to_string()))
}

fn time_of(node: &Node, key: &str) -> Result<UnixMs, Problem> {
    parsed(node, key, |given| {
        parse_time(given).ok_or_else(|| "not a time: expected YYYY-MM-DDThh:mm:ss.sssZ".to_owned())
    })
}

fn maybe_time(section: &mut Section<'_>, key: &str) -> Result<Option<UnixMs>, Problem> {
    section.take(key).map(|node| time_of(node, key)).transpose()
}

fn list<'a>(node: &'a Node, key: &str, most: usize) -> Result<&'a [Node], Problem> {
    let Value::List(items) = &node.value else {
        return Err(problem(node.line, format!("`{key}` is {}, not a list", node.value.kind())));
    };
    if items.len() > most {
        let found = items.len();
        return Err(problem(node.line, format!("`{key}` has {found} entries, at most {most}")));
    }
    Ok(items)
}

/// Reads a job. `allowed` says whether an album may go to a folder, and if not, why. `now` stands for times that the
/// flat layout does not tell.
///
/// # Errors
/// The first mistake with its line.
pub fn read(root: &Node, allowed: impl Fn(&str) -> Result<(), String>, now: UnixMs) -> Result<Job, Problem> {
    let mut top = Section::of(root, "the manifest")?;
    if let Some(node) = top.take("manifest_version") {
        let version = text(node, "manifest_version")?;
        if version != VERSION {
            return Err(problem(
                node.line,
                format!("manifest_version `{}` is not known; {VERSION} is", short(version)),
            ));
        }
    } else if top.entries.iter().any(|(key, ..)| *key == "spec") {
        return Err(problem(root.line, "the manifest lacks `manifest_version`"));
    }
    let kind = top.take_either("job_type", "type")?;
    let kind = kind.ok_or_else(|| problem(root.line, "the manifest lacks `job_type`"))?;
    match text(kind, "job_type")? {
        Job::KIND => {}
        known if NOT_YET.contains(&known) => {
            return Err(problem(kind.line, format!("{known} jobs cannot be done by this version yet")));
        }
        other => return Err(problem(kind.line, format!("`{}` is no kind of job that is known", short(other)))),
    }
    let id = id_of(top.need("job_id")?, "job_id")?;
    let origin = top.take("origin_id").map(|node| id_of(node, "origin_id")).transpose()?;
    let created_at = maybe_time(&mut top, "created_at")?.unwrap_or(now);
    let updated_at = maybe_time(&mut top, "updated_at")?.unwrap_or(created_at);
    let status = top.take("status");
    let spec = match top.take("spec") {
        Some(node) => {
            let mut section = Section::of(node, "spec")?;
            let spec = release(&mut section, &allowed)?;
            section.end()?;
            spec
        }
        None => release(&mut top, &allowed)?,
    };
    let mut job = Job {
        id,
        origin,
        created_at,
        updated_at,
        started_at: None,
        completed_at: None,
        children: vec![Child::new(); spec.tracks.len()],
        spec,
        state: JobState::Pending,
        error: None,
    };
    match status {
        None => {}
        Some(node) if matches!(node.value, Value::Text(..)) => job.state = state_of(node)?,
        Some(node) => read_status(node, &mut job)?,
    }
    top.end()?;
    Ok(job)
}

fn state_of(node: &Node) -> Result<JobState, Problem> {
    parsed(node, "state", |name| JobState::named(name).ok_or_else(|| "no state of a job".to_owned()))
}

fn release(section: &mut Section<'_>, allowed: &impl Fn(&str) -> Result<(), String>) -> Result<MbRelease, Problem> {
    let node = section.need("mb_release_id")?;
    let release = parsed(node, "mb_release_id", |id| id.parse::<ReleaseId>().map_err(|why| why.to_string()))?;
    let title = text(section.need("title")?, "title")?.to_owned();
    let artist = maybe_text(section, "artist")?.unwrap_or_default();
    let target_dir = match section.take("target_dir") {
        None => crate::engine::jobs::place::folder(&artist, &title, None),
        Some(node) => {
            let dir = text(node, "target_dir")?;
            allowed(dir).map_err(|why| problem(node.line, format!("`target_dir`: {why}")))?;
            dir.to_owned()
        }
    };
    let node = section.need("tracks")?;
    let items = list(node, "tracks", limits::JOB_TRACKS)?;
    if items.is_empty() {
        return Err(problem(node.line, "`tracks` is empty: a job wants at least one"));
    }
    let (mut tracks, mut places) = (Vec::with_capacity(items.len()), BTreeSet::new());
    for item in items {
        let track = track(item)?;
        let place = (track.medium, track.position);
        if !places.insert(place) {
            return Err(problem(item.line, format!("track {} of medium {} is given twice", place.1, place.0)));
        }
        tracks.push(track);
    }
    let constraints = match section.take("constraints") {
        None => Constraints::default(),
        Some(node) => constraints(node)?,
    };
    Ok(MbRelease { release, title, artist, target_dir, tracks, constraints })
}

fn track(node: &Node) -> Result<JobTrack, Problem> {
    let mut section = Section::of(node, "a track")?;
    let place = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let medium = place(maybe_number(&mut section, "medium", PLACE_MAX)?.unwrap_or(1));
    let position = place(number(section.need("position")?, "position", PLACE_MAX)?);
    let title = text(section.need("title")?, "title")?.to_owned();
    let artist = maybe_text(&mut section, "artist")?.unwrap_or_default();
    let recording = section.need("mb_recording_id")?;
    let recording =
        parsed(recording, "mb_recording_id", |id| id.parse::<RecordingId>().map_err(|why| why.to_string()))?;
    let duration_ms = maybe_number(&mut section, "duration_ms", DURATION_MAX)?;
    section.end()?;
    Ok(JobTrack { medium, position, title, artist, recording, duration_ms })
}

fn constraints(node: &Node) -> Result<Constraints, Problem> {
    let mut section = Section::of(node, "constraints")?;
    let usual = Constraints::default();
    let preferred_codecs = match section.take("preferred_codecs") {
        None => usual.preferred_codecs,
        Some(node) => {
            let codecs = list(node, "preferred_codecs", Codec::ALL.len())?.iter().map(|node| {
                parsed(node, "preferred_codecs", |name| {
                    Codec::named(name).ok_or_else(|| "no codec that is known".to_owned())
                })
            });
            codecs.collect::<Result<_, _>>()?
        }
    };
    let canonical = section.take_either("prefer_canonical", "prefer_canonical_variants")?;
    let prefer_canonical = match canonical.map(|node| (node.line, &node.value)) {
        None => usual.prefer_canonical,
        Some((_, Value::Text(word, false))) if word == "true" => true,
        Some((_, Value::Text(word, false))) if word == "false" => false,
        Some((line, _)) => return Err(problem(line, "`prefer_canonical` is neither true nor false")),
    };
    let speed = section.take("overlay_bandwidth_kbps");
    let line = speed.map_or(node.line, |node| node.line);
    let speed = speed.map(|node| number(node, "overlay_bandwidth_kbps", u32::MAX.into())).transpose()?;
    let read = Constraints {
        preferred_codecs,
        allow_lossy: flag(&mut section, "allow_lossy")?.unwrap_or(usual.allow_lossy),
        max_lossy_tracks: small(&mut section, "max_lossy_tracks_per_album")?,
        prefer_canonical,
        use_overlay: flag(&mut section, "use_overlay")?.unwrap_or(usual.use_overlay),
        overlay_bandwidth_kbps: speed.and_then(|number| u32::try_from(number).ok()),
    };
    section.end()?;
    read.too_slow().map_or(Ok(read), |why| Err(problem(line, why)))
}

fn read_status(node: &Node, job: &mut Job) -> Result<(), Problem> {
    let mut section = Section::of(node, "status")?;
    job.state = section.take("state").map(state_of).transpose()?.unwrap_or_default();
    job.started_at = maybe_time(&mut section, "started_at")?;
    job.completed_at = maybe_time(&mut section, "completed_at")?;
    // Sums of what the tracks tell.
    for key in ["completed_tracks", "in_progress_tracks", "pending_tracks"] {
        maybe_number(&mut section, key, limits::JOB_TRACKS as u64)?;
    }
    for key in ["bytes_total", "bytes_done"] {
        maybe_number(&mut section, key, u64::MAX)?;
    }
    job.error = maybe_text(&mut section, "error_message")?;
    if let Some(node) = section.take("tracks") {
        let items = list(node, "tracks", limits::JOB_TRACKS)?;
        if items.len() != job.spec.tracks.len() {
            let (found, wanted) = (items.len(), job.spec.tracks.len());
            return Err(problem(node.line, format!("status has {found} tracks, the job wants {wanted}")));
        }
        job.children = items.iter().map(child).collect::<Result<_, _>>()?;
    }
    section.end()
}

fn child(node: &Node) -> Result<Child, Problem> {
    let mut section = Section::of(node, "a track's status")?;
    let state = section.need("state")?;
    let state = parsed(state, "state", |name| TrackState::named(name).ok_or_else(|| "no state of a track".to_owned()))?;
    let size = maybe_number(&mut section, "size", u64::MAX)?;
    let done = maybe_number(&mut section, "bytes_done", u64::MAX)?.unwrap_or_default();
    let file = match section.take("file") {
        None => None,
        Some(node) => Some(parsed(node, "file", |name| {
            let bare = !name.is_empty() && !matches!(name, "." | "..") && !name.contains(['/', '\\', '\0']);
            if bare { Ok(name.to_owned()) } else { Err("no bare file name".to_owned()) }
        })?),
    };
    let proof = section.take("verified_by").map(|node| {
        parsed(node, "verified_by", |name| Proof::named(name).ok_or_else(|| "no proof that is known".to_owned()))
    });
    let (proof, note) = (proof.transpose()?, maybe_text(&mut section, "note")?);
    section.end()?;
    Ok(Child { state, size, done, file, proof, note })
}
