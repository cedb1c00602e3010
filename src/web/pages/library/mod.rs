//! `/library`: what the Collection Doctor found, and its scans.

pub(super) mod issues;
pub(super) mod repair;
pub(super) mod variant;

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use crate::model::health::{
    HealthAnswer, HealthRequest, HealthSummary, IssueGroup, IssueKind, Progress, Scan, ScanRequest, ScanStatus, Scores,
    Severity,
};
use crate::model::id::ScanId;
use crate::model::view::Refusal;
use crate::web::show::{self, Moment};

use super::{Desktop, Fields, Head, answer_or_return, html};

/// From here on a library is well: SPEC-FACTS 18 shows such scores in green.
const WELL: f64 = 0.85;
/// Below it is ill.
const ILL: f64 = 0.6;

/// An answer of another kind than the request has.
fn mismatch() -> Refusal {
    Refusal::Invalid("the program gave an answer of the wrong kind".to_owned())
}

/// Asks the Doctor and unpacks the one kind of answer the request has.
macro_rules! ask {
    ($desktop:expr, $request:expr => $pattern:pat => $value:expr) => {
        match $desktop.web.desk.health($request).await {
            Ok($pattern) => Ok($value),
            Ok(_) => Err(crate::web::pages::library::mismatch()),
            Err(refusal) => Err(refusal),
        }
    };
}
use ask;

#[derive(Template)]
#[template(path = "library.html", config = "web-min/askama.toml")]
struct LibraryPage {
    head: Head,
    files: String,
    score: String,
    /// How the score is coloured.
    mark: &'static str,
    transcodes: u64,
    non_canonical: u64,
    incomplete: u64,
    /// What the tiles come to, in words.
    sentence: String,
    kinds: Vec<KindRow>,
    severities: Vec<(&'static str, u64)>,
    running: Option<Running>,
    last: Option<Last>,
}

struct KindRow {
    name: &'static str,
    title: &'static str,
    count: u64,
    action: String,
}

struct Running {
    id: String,
    phase: &'static str,
    percent: u64,
    files: String,
    bytes: String,
    left: String,
    at: String,
}

struct Last {
    status: &'static str,
    at: Moment,
    sentence: String,
    error: Option<String>,
}

/// The colour of a score.
fn mark(score: f64) -> &'static str {
    if score > WELL {
        "good"
    } else if score >= ILL {
        "warn"
    } else {
        "bad"
    }
}

fn sum_up(summary: &HealthSummary) -> String {
    let count = |kind, one: &str, many: &str| show::count(summary.of(kind), one, many);
    format!(
        "{}, {}, {}.",
        count(IssueKind::SuspectedTranscode, "suspected transcode", "suspected transcodes"),
        count(IssueKind::MissingTrackInRelease, "release missing tracks", "releases missing tracks"),
        count(IssueKind::TrackNotInTaggedRelease, "mis-tagged track", "mis-tagged tracks"),
    )
}

fn running(scan: &Scan, progress: Option<&Progress>) -> Running {
    let default = Progress::default();
    let progress = progress.unwrap_or(&default);
    let so_far = if progress.walked { "" } else { " found so far" };
    Running {
        id: scan.id.to_string(),
        phase: show_phase(progress.phase),
        percent: if progress.bytes_total == 0 { 0 } else { show::percent(progress.bytes_done, progress.bytes_total) },
        files: format!("{} of {}{so_far}", progress.counts.files, progress.files_total),
        bytes: format!("{} of {}{so_far}", super::size(progress.bytes_done), super::size(progress.bytes_total)),
        left: match progress.left_ms {
            Some(ms) => show::duration(ms.div_ceil(1_000)),
            None => "not known yet".to_owned(),
        },
        at: show::visible(&progress.last.to_string()),
    }
}

/// What a scan is at, for people.
fn show_phase(phase: &'static str) -> &'static str {
    match phase {
        "" => "Beginning",
        "files" => "Measuring files",
        "gone" => "Looking for files that are gone",
        "identifying" => "Identifying recordings",
        "recordings" => "Comparing copies",
        "releases" => "Checking albums",
        other => other,
    }
}

fn last(scan: &Scan) -> Last {
    let counts = &scan.counts;
    let ended = scan.completed_at.unwrap_or(scan.started_at);
    let took = ended.0.saturating_sub(scan.started_at.0).div_ceil(1_000);
    Last {
        status: match scan.status {
            ScanStatus::Running => "running",
            ScanStatus::Completed => "finished",
            ScanStatus::Failed => "failed",
            ScanStatus::Cancelled => "stopped",
        },
        at: show::moment(ended),
        sentence: format!(
            "{} looked at, {} of them measured, {} read, in {}",
            show::count(counts.files, "file", "files"),
            counts.measured,
            super::size(counts.bytes),
            show::duration(took)
        ),
        error: scan.error.as_deref().map(|error| super::sentence(&show::visible(error))),
    }
}

/// The running scan with its progress, straight from the Doctor: the snapshot learns of it a second later.
async fn under_way(desktop: &Desktop) -> Result<Option<Running>, Refusal> {
    let scans = ask!(desktop, HealthRequest::Scans => HealthAnswer::Scans(scans) => scans)?;
    let Some(id) = scans.iter().find(|scan| scan.status == ScanStatus::Running).map(|scan| scan.id) else {
        return Ok(None);
    };
    let (scan, progress) =
        ask!(desktop, HealthRequest::Scan(id) => HealthAnswer::Scan(scan, progress) => (scan, progress))?;
    // It may have ended between the two questions.
    Ok((scan.status == ScanStatus::Running).then(|| running(&scan, progress.as_deref())))
}

pub(super) async fn show(desktop: Desktop) -> Response {
    let summary = ask!(desktop, HealthRequest::Summary(None) => HealthAnswer::Summary(summary) => summary);
    let summary = answer_or_return!(desktop, summary);
    let running = answer_or_return!(desktop, under_way(&desktop).await);
    let mut head = desktop.head("Library health", "library");
    head.live = "library";
    if running.is_some() {
        head.live = "library every";
        head.refresh_s = Some(5);
    }
    let known = summary.files > 0;
    html(&LibraryPage {
        head,
        files: show::count(summary.files, "file", "files"),
        score: if known { format!("{:.2}", summary.health_score) } else { "–".to_owned() },
        mark: if known { mark(summary.health_score) } else { "" },
        transcodes: summary.of(IssueKind::SuspectedTranscode),
        non_canonical: summary.of(IssueKind::NonCanonicalVariant),
        incomplete: summary.of(IssueKind::MissingTrackInRelease),
        sentence: sum_up(&summary),
        kinds: IssueKind::ALL
            .into_iter()
            .filter(|kind| summary.of(*kind) > 0)
            .map(|kind| KindRow {
                name: kind.name(),
                title: kind.title(),
                count: summary.of(kind),
                action: super::sentence(kind.suggested_action()),
            })
            .collect(),
        severities: Severity::ALL
            .into_iter()
            .zip(summary.by_severity)
            .filter(|(_, n)| *n > 0)
            .map(|(severity, n)| (severity.name(), n))
            .collect(),
        running,
        last: summary.last_scan.as_ref().map(last),
    })
}

pub(super) async fn scan(desktop: Desktop, fields: Fields) -> Response {
    let mut request = ScanRequest::of(Vec::new());
    request.remeasure = !fields.get("remeasure").is_empty();
    let started = ask!(desktop, HealthRequest::Start(request) => HealthAnswer::Started(_) => ());
    match started {
        Err(Refusal::Duplicate) => desktop.problem(StatusCode::CONFLICT, "a scan is running already"),
        started => {
            answer_or_return!(desktop, started);
            desktop.done("/library", "rescan")
        }
    }
}

pub(super) async fn stop(desktop: Desktop, fields: Fields) -> Response {
    let Ok(id) = fields.get("id").parse::<ScanId>() else {
        return desktop.refused(Refusal::NotFound);
    };
    match ask!(desktop, HealthRequest::Stop(id) => HealthAnswer::Done => ()) {
        // It came to its end by itself.
        Err(Refusal::NotFound) => desktop.go("/library"),
        stopped => {
            answer_or_return!(desktop, stopped);
            desktop.done("/library", "scan_stopped")
        }
    }
}

#[derive(Template)]
#[template(path = "groups.html", config = "web-min/askama.toml")]
struct GroupsPage {
    head: Head,
    what: &'static str,
    groups: Vec<GroupRow>,
}

struct GroupRow {
    name: String,
    /// Query of its issues; none for what cannot be asked for.
    query: Option<String>,
    count: u64,
    severity: &'static str,
}

fn row(group: &IssueGroup, by_release: bool) -> GroupRow {
    let unknown = if by_release { "no release known" } else { "no artist known" };
    let untitled = group.name.is_empty() && group.release_id.is_some();
    GroupRow {
        name: match (group.name.as_str(), group.release_id) {
            ("", Some(release)) if untitled => crate::model::health::uuid_text(release),
            ("", _) => unknown.to_owned(),
            (name, _) => show::visible(name),
        },
        query: match (by_release, group.release_id) {
            (true, release) => release.map(|id| format!("release={}", crate::model::health::uuid_text(id))),
            (false, _) => Some(format!("artist={}", show::segment(&group.name))),
        },
        count: group.count,
        severity: group.severity.name(),
    }
}

async fn groups(desktop: Desktop, by_release: bool) -> Response {
    let request = if by_release { HealthRequest::ByRelease } else { HealthRequest::ByArtist };
    let groups = ask!(desktop, request => HealthAnswer::Groups(groups) => groups);
    let groups = answer_or_return!(desktop, groups);
    let (title, what) = if by_release { ("Issues by release", "Release") } else { ("Issues by artist", "Artist") };
    let mut head = desktop.head(title, "library");
    head.live = "library";
    html(&GroupsPage { head, what, groups: groups.iter().map(|group| row(group, by_release)).collect() })
}

pub(super) async fn by_artist(desktop: Desktop) -> Response {
    groups(desktop, false).await
}

pub(super) async fn by_release(desktop: Desktop) -> Response {
    groups(desktop, true).await
}

#[derive(Template)]
#[template(path = "scores.html", config = "web-min/askama.toml")]
struct ScoresPage {
    head: Head,
    all: String,
    steps: Vec<Step>,
}

/// One step of the distribution, with its bar: places and sizes in the picture's own points.
struct Step {
    range: String,
    clean: u64,
    uncertain: u64,
    transcode: u64,
    all: u64,
    bars: Vec<Bar>,
    x: usize,
    /// Written below the bar.
    label: Option<String>,
}

struct Bar {
    class: &'static str,
    y: u64,
    height: u64,
}

/// Height of the tallest bar.
const TALLEST: u64 = 200;
/// From one bar to the next.
const STRIDE: usize = 30;

fn steps(scores: &Scores) -> Vec<Step> {
    let most = scores.steps.iter().map(|step| step.iter().sum::<u64>()).max().unwrap_or(0).max(1);
    let bound = |n: usize| format!("{}.{:02}", n * 5 / 100, n * 5 % 100);
    scores
        .steps
        .iter()
        .enumerate()
        .map(|(n, &[clean, uncertain, transcode])| {
            let mut top = TALLEST;
            let mut bars = Vec::new();
            for (class, count) in [("clean", clean), ("uncertain", uncertain), ("transcode", transcode)] {
                if count > 0 {
                    // Whatever is there is seen.
                    let height = (count.saturating_mul(TALLEST) / most).clamp(1, top.max(1));
                    top = top.saturating_sub(height);
                    bars.push(Bar { class, y: top, height });
                }
            }
            Step {
                range: format!("{}–{}", bound(n), bound(n + 1)),
                clean,
                uncertain,
                transcode,
                all: clean + uncertain + transcode,
                bars,
                x: n * STRIDE,
                label: n.is_multiple_of(4).then(|| bound(n)),
            }
        })
        .collect()
}

pub(super) async fn scores(desktop: Desktop) -> Response {
    let scores = ask!(desktop, HealthRequest::Scores => HealthAnswer::Scores(scores) => scores);
    let scores = answer_or_return!(desktop, scores);
    let all: u64 = scores.steps.iter().flatten().sum();
    html(&ScoresPage {
        head: desktop.head("Quality scores", "library"),
        all: show::count(all, "copy", "copies"),
        steps: steps(&scores),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::LocalPath;
    use crate::model::time::UnixMs;

    #[test]
    fn a_score_is_green_above_the_bar() {
        assert_eq!([0.86, 0.85, 0.6, 0.59].map(mark), ["good", "warn", "warn", "bad"]);
    }

    #[test]
    fn progress_is_told_in_files_bytes_and_time() {
        let scan = Scan {
            id: ScanId(1),
            request: ScanRequest::of(Vec::new()),
            status: ScanStatus::Running,
            started_at: UnixMs(0),
            completed_at: None,
            error: None,
            counts: crate::model::health::ScanCounts::default(),
        };
        let mut progress = Progress {
            phase: "files",
            files_total: 40,
            bytes_total: 4 << 20,
            bytes_done: 1 << 20,
            last: LocalPath::from("/music/a\u{202e}.flac"),
            left_ms: Some(61_500),
            ..Progress::default()
        };
        progress.counts.files = 10;
        let shown = running(&scan, Some(&progress));
        assert_eq!((shown.phase, shown.percent), ("Measuring files", 25));
        assert_eq!((shown.files.as_str(), shown.left.as_str()), ("10 of 40 found so far", "1 min 2 s"));
        assert!(shown.bytes.starts_with("1.0 MiB of 4.0 MiB") && shown.at.contains("U+202E"), "{}", shown.at);
        let beginning = running(&scan, None);
        assert_eq!((beginning.phase, beginning.percent), ("Beginning", 0));
    }

    #[test]
    fn bars_stand_on_one_line_and_the_tallest_fits() {
        let mut scores = Scores::default();
        scores.steps[19] = [10, 5, 5];
        scores.steps[3] = [0, 1, 0];
        let steps = steps(&scores);
        let tall: Vec<(u64, u64)> = steps[19].bars.iter().map(|bar| (bar.y, bar.height)).collect();
        assert_eq!(tall, [(100, 100), (50, 50), (0, 50)]);
        assert_eq!((steps[3].bars[0].y, steps[3].bars[0].height, steps[0].bars.len()), (190, 10, 0));
        assert_eq!((steps[0].range.as_str(), steps[19].range.as_str()), ("0.00–0.05", "0.95–1.00"));
    }

    #[test]
    fn groups_without_a_name_are_named() {
        let group = |name: &str, release_id| IssueGroup {
            name: name.to_owned(),
            release_id,
            count: 1,
            severity: Severity::High,
        };
        let artist = row(&group("", None), false);
        assert_eq!((artist.name.as_str(), artist.query.as_deref()), ("no artist known", Some("artist=")));
        assert_eq!(row(&group("A & B", None), false).query.as_deref(), Some("artist=A%20%26%20B"));
        let release = row(&group("", None), true);
        assert_eq!((release.name.as_str(), release.query), ("no release known", None));
        assert!(row(&group("", Some(7)), true).query.is_some_and(|query| query.ends_with("000007")));
    }
}
