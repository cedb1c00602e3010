//! `/traces` and `/traces/ID`: what happened to a job, who delivered what.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;

use crate::model::time::UnixMs;
use crate::model::trace::{SourceShare, TraceAnswer, TraceCell, TraceLine, TraceRequest, TraceSummary};
use crate::web::show::{self, Moment};

use super::{Desktop, Head, PageNumber, Pager, ROWS, answer_or_return, html, offset, rate, size};

/// Colours for sources; further ones begin again.
const COLOURS: usize = 6;
/// Cells of one row of the picture.
const COLUMNS: usize = 64;
/// Width and height of a cell, with the gap around it, in the picture's units.
const CELL: (usize, usize) = (10, 18);
/// Width of the timeline and height of one of its rows.
const LANE: (u64, usize) = (640, 22);
/// Sources with a row of their own in the timeline.
const LANES: usize = 12;

#[derive(Template)]
#[template(path = "traces.html", config = "web-min/askama.toml")]
struct TracesPage {
    head: Head,
    rows: Vec<JobRow>,
}

struct JobRow {
    link: String,
    title: String,
    status: String,
    good: bool,
    bad: bool,
    began: Moment,
    took: String,
    amount: String,
    speed: String,
    sources: usize,
}

fn took(ms: u64) -> String {
    if ms < 60_000 { format!("{}.{} s", ms / 1_000, ms % 1_000 / 100) } else { show::duration(ms / 1_000) }
}

/// A file's hash is long where there is no name.
fn title(job: &TraceSummary) -> String {
    show::visible(if job.title.is_empty() { &job.job_id } else { &job.title })
}

impl JobRow {
    fn new(job: &TraceSummary) -> Self {
        Self {
            link: show::segment(&job.job_id),
            title: title(job),
            status: job.status.clone(),
            good: job.status == "completed",
            bad: job.status == "failed",
            began: show::moment(UnixMs(job.started_ms)),
            took: took(job.duration_ms),
            amount: format!("{} of {}", size(job.bytes), size(job.size_bytes)),
            speed: rate(job.mean_speed_bps),
            sources: job.sources.len(),
        }
    }
}

pub(super) async fn list(desktop: Desktop) -> Response {
    let answer = answer_or_return!(desktop, desktop.web.desk.trace(TraceRequest::Jobs).await);
    let TraceAnswer::Jobs(jobs) = answer else { return wrong_kind(&desktop) };
    let mut head = desktop.head("Job traces", "status");
    let running = jobs.iter().any(|job| job.status == "running");
    head.live = if running { "transfer every" } else { "transfer" };
    head.refresh_s = running.then_some(10);
    html(&TracesPage { head, rows: jobs.iter().map(JobRow::new).collect() })
}

fn wrong_kind(desktop: &Desktop) -> Response {
    desktop.problem(StatusCode::INTERNAL_SERVER_ERROR, "the program gave an answer of the wrong kind")
}

#[derive(Template)]
#[template(path = "trace.html", config = "web-min/askama.toml")]
struct TracePage {
    head: Head,
    id: String,
    link: String,
    title: String,
    status: String,
    good: bool,
    bad: bool,
    error: Option<String>,
    verified: Option<bool>,
    began: Moment,
    took: String,
    starts: u64,
    amount: String,
    there: Option<String>,
    speed: String,
    soulseek: String,
    soulseek_percent: u64,
    overlay: String,
    overlay_percent: u64,
    chunks: String,
    rebalances: u64,
    map: Option<PieceMap>,
    sources: Vec<SourceRow>,
    timeline: Option<Timeline>,
    story: Vec<Line>,
    story_cut: bool,
    lines: Vec<Line>,
    lines_open: bool,
    kept: u64,
    left_out: u64,
    pager: Pager,
}

struct PieceMap {
    width: usize,
    height: usize,
    cells: Vec<MapCell>,
    label: String,
    /// Bytes of one cell, for people.
    each: String,
}

struct MapCell {
    x: usize,
    y: usize,
    class: String,
    /// Hundredths, so that a cell that has begun is seen.
    opacity: String,
    bad: bool,
    title: String,
}

struct SourceRow {
    colour: usize,
    name: String,
    short: String,
    network: &'static str,
    state: String,
    amount: String,
    percent: String,
    share: u64,
    chunks: u64,
    speed: String,
    rtt: String,
    errors: u64,
    retries: u64,
    bad_pieces: u64,
}

struct Timeline {
    width: u64,
    height: usize,
    lanes: Vec<Lane>,
    end: String,
}

struct Lane {
    name: String,
    colour: usize,
    /// Middle of the row, and where its name stands.
    y: usize,
    text_y: usize,
    marks: Vec<Mark>,
}

struct Mark {
    x: u64,
    bad: bool,
    title: String,
}

struct Line {
    at: String,
    kind: String,
    who: Option<String>,
    text: String,
    bad: bool,
}

/// Keys are long; their beginning tells them apart.
fn short(who: &str) -> String {
    let hex = who.len() == 64 && who.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex { format!("{}\u{2026}", &who[..12]) } else { show::visible(who) }
}

fn moment(at_us: u64) -> String {
    let (seconds, ms) = (at_us / 1_000_000, at_us / 1_000 % 1_000);
    if seconds < 60 { format!("+{seconds}.{ms:03} s") } else { format!("+{}", show::duration(seconds)) }
}

impl Line {
    fn new(line: &TraceLine) -> Self {
        Self {
            at: moment(line.at_us),
            kind: line.kind.clone(),
            who: line.peer_id.as_deref().map(short),
            text: show::visible(&line.message),
            bad: line.is_error,
        }
    }
}

impl SourceRow {
    fn new(place: usize, source: &SourceShare) -> Self {
        let state = match &source.gone {
            _ if source.connected => "connected".to_owned(),
            Some(why) => show::visible(why),
            None => String::new(),
        };
        Self {
            colour: place % COLOURS,
            name: show::visible(&source.peer_id),
            short: short(&source.peer_id),
            network: if source.source == "soulseek" { "Soulseek" } else { "mesh" },
            state,
            amount: size(source.bytes),
            percent: format!("{:.1} %", source.percent),
            share: super::status::percent_of(source.percent / 100.0),
            chunks: source.chunks_requested,
            speed: rate(source.mean_speed_bps),
            rtt: source.rtt_ms.map_or_else(|| "\u{2013}".to_owned(), |rtt| format!("{rtt:.1} ms")),
            errors: source.errors,
            retries: source.retries,
            bad_pieces: source.bad_pieces,
        }
    }
}

impl PieceMap {
    fn new(job: &TraceSummary) -> Option<Self> {
        if job.cells.is_empty() {
            return None;
        }
        let each = job.size_bytes.div_ceil(job.cells.len() as u64);
        let (columns, rows) = (job.cells.len().min(COLUMNS), job.cells.len().div_ceil(COLUMNS));
        let cells = job.cells.iter().enumerate().map(|(place, cell)| MapCell::new(place, cell, job));
        let whole = job.cells.iter().filter(|cell| cell.percent == 100).count();
        Some(Self {
            width: columns * CELL.0,
            height: rows * CELL.1,
            cells: cells.collect(),
            label: format!("{whole} of {} parts of the file came; the table below says from whom", job.cells.len()),
            each: size(each),
        })
    }
}

impl MapCell {
    fn new(place: usize, cell: &TraceCell, job: &TraceSummary) -> Self {
        let from = cell.source.and_then(|source| job.sources.get(source));
        let title = match from {
            Some(from) => format!("part {}: {} %, {}", place + 1, cell.percent, short(&from.peer_id)),
            None => format!("part {}: not seen coming", place + 1),
        };
        Self {
            x: place % COLUMNS * CELL.0,
            y: place / COLUMNS * CELL.1,
            class: cell.source.map_or_else(|| "missing".to_owned(), |source| format!("source{}", source % COLOURS)),
            opacity: match (cell.source, cell.percent) {
                (None, _) | (_, 100..) => "1".to_owned(),
                (_, percent) => format!("0.{}", 30 + u32::from(percent) / 2),
            },
            bad: cell.bad,
            title,
        }
    }
}

impl Timeline {
    /// A row for the job itself and one for each of the first sources.
    fn new(job: &TraceSummary) -> Option<Self> {
        if job.key_events.is_empty() {
            return None;
        }
        let whole = job.duration_ms.saturating_mul(1_000).max(1);
        // Names on the left, half a mark on the right.
        let (from, to) = (LANE.0 / 4, LANE.0 - 8);
        let x = |at: u64| {
            from + u64::try_from(u128::from(at.min(whole)) * u128::from(to - from) / u128::from(whole)).unwrap_or(0)
        };
        let names = std::iter::once(None).chain(job.sources.iter().take(LANES).map(Some));
        let lanes = names.enumerate().map(|(row, source)| {
            let of = |line: &&TraceLine| line.peer_id.as_deref() == source.map(|source| source.peer_id.as_str());
            let marks = job.key_events.iter().filter(of).map(|line| Mark {
                x: x(line.at_us),
                bad: line.is_error,
                title: format!("{} {}: {}", moment(line.at_us), line.kind, show::visible(&line.message)),
            });
            let name: String = source.map_or_else(|| "job".to_owned(), |source| short(&source.peer_id));
            Lane {
                name: name.chars().take(16).collect(),
                colour: row.saturating_sub(1) % COLOURS,
                y: row * LANE.1 + LANE.1 / 2,
                text_y: row * LANE.1 + LANE.1 / 2 + 5,
                marks: marks.collect(),
            }
        });
        let lanes: Vec<Lane> = lanes.collect();
        Some(Self { width: LANE.0, height: lanes.len() * LANE.1, lanes, end: took(job.duration_ms) })
    }
}

pub(super) async fn show(desktop: Desktop, Path(id): Path<String>, Query(wanted): Query<PageNumber>) -> Response {
    let skip = offset(wanted.page, ROWS) as u64;
    let request = TraceRequest::Job { job: id.clone(), offset: skip, limit: ROWS };
    let answer = match desktop.web.desk.trace(request).await {
        Err(crate::model::view::Refusal::NotFound) => {
            let why = "nothing is written down about this job: traces are kept for a while only";
            return desktop.problem(StatusCode::NOT_FOUND, why);
        }
        answer => answer_or_return!(desktop, answer),
    };
    let TraceAnswer::Job(view) = answer else { return wrong_kind(&desktop) };
    let job = &view.summary;
    let link = show::segment(&id);
    let mut head = desktop.head(title(job), "status");
    if job.status == "running" {
        head.live = "transfer every";
        head.refresh_s = Some(5);
    }
    let pager =
        Pager::new(wanted.page, usize::try_from(job.events).unwrap_or(usize::MAX), ROWS, &format!("/traces/{link}?"));
    html(&TracePage {
        head,
        id: show::visible(&job.job_id),
        link,
        title: title(job),
        status: job.status.clone(),
        good: job.status == "completed",
        bad: job.status == "failed",
        error: job.error.as_deref().map(|why| super::sentence(&show::visible(why))),
        verified: job.verified,
        began: show::moment(UnixMs(job.started_ms)),
        took: took(job.duration_ms),
        starts: job.starts,
        amount: format!("{} of {}", size(job.bytes), size(job.size_bytes)),
        there: (job.there_bytes > 0).then(|| size(job.there_bytes)),
        speed: rate(job.mean_speed_bps),
        soulseek: size(job.soulseek_bytes),
        soulseek_percent: part(job.soulseek_bytes, job.bytes),
        overlay: size(job.overlay_bytes),
        overlay_percent: part(job.overlay_bytes, job.bytes),
        chunks: format!(
            "{} asked for, {} came, {} failed, {} taken back",
            job.chunks_total, job.chunks_ok, job.chunks_failed, job.chunks_cancelled
        ),
        rebalances: job.rebalances,
        map: PieceMap::new(job),
        sources: job.sources.iter().enumerate().map(|(place, source)| SourceRow::new(place, source)).collect(),
        timeline: Timeline::new(job),
        story: job.key_events.iter().map(Line::new).collect(),
        story_cut: job.key_events.len() >= crate::model::limits::TRACE_KEY_LINES,
        lines: view.events.iter().map(Line::new).collect(),
        lines_open: wanted.page > 0,
        kept: job.events,
        left_out: job.events_left_out,
        pager,
    })
}

/// Nothing of nothing is nothing here.
fn part(bytes: u64, of: u64) -> u64 {
    if of == 0 { 0 } else { show::percent(bytes, of) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> TraceSummary {
        let source =
            |name: &str| SourceShare { peer_id: name.into(), source: "soulseek".into(), ..SourceShare::default() };
        let cell = |percent, source| TraceCell { percent, source, bad: source == Some(1) };
        let line =
            |at_us, who: Option<&str>| TraceLine { at_us, peer_id: who.map(str::to_owned), ..TraceLine::default() };
        TraceSummary {
            size_bytes: 66 * 65_536,
            duration_ms: 2_000,
            sources: vec![source("ann"), source("bob")],
            cells: (0..66).map(|n| cell(if n == 65 { 50 } else { 100 }, [None, Some(0), Some(1)][n % 3])).collect(),
            key_events: vec![line(0, None), line(1_000_000, Some("bob")), line(9_000_000, Some("bob"))],
            ..TraceSummary::default()
        }
    }

    #[test]
    fn the_picture_has_every_part_in_its_place() {
        let map = PieceMap::new(&job()).unwrap();
        assert_eq!((map.width, map.height, map.cells.len()), (640, 36, 66));
        assert_eq!((map.cells[65].x, map.cells[65].y), (10, 18));
        let classes: Vec<_> = map.cells[..3].iter().map(|cell| cell.class.as_str()).collect();
        assert_eq!(classes, ["missing", "source0", "source1"]);
        assert!(map.cells[2].bad && !map.cells[1].bad);
        assert_eq!((map.cells[65].opacity.as_str(), map.cells[64].opacity.as_str()), ("0.55", "1"));
        assert_eq!(map.cells[1].title, "part 2: 100 %, ann");
        assert_eq!(map.each, "64.0 KiB");
        assert!(PieceMap::new(&TraceSummary::default()).is_none());
    }

    #[test]
    fn the_timeline_puts_each_line_into_the_row_of_its_source() {
        let line = Timeline::new(&job()).unwrap();
        let marks: Vec<_> = line.lanes.iter().map(|lane| (lane.name.as_str(), lane.marks.len())).collect();
        assert_eq!(marks, [("job", 1), ("ann", 0), ("bob", 2)]);
        let places: Vec<_> = line.lanes[2].marks.iter().map(|mark| mark.x).collect();
        assert_eq!(places, [160 + 236, 632], "what lies behind the end is shown at the end");
        assert_eq!(line.height, 3 * LANE.1);
    }

    #[test]
    fn names_and_times_are_short() {
        assert_eq!(short(&"ab".repeat(32)), "abababababab\u{2026}");
        assert_eq!(short("b\u{202e}b"), "b\u{27e8}U+202E\u{27e9}b");
        assert_eq!((moment(1_234_567).as_str(), moment(61_000_000).as_str()), ("+1.234 s", "+1 min 1 s"));
        assert_eq!((took(59_949).as_str(), took(60_000).as_str()), ("59.9 s", "1 min"));
    }
}
