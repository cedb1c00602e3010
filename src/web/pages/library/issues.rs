//! Issues: the filtered list, and one of them with its evidence.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use crate::model::health::{
    Evidence, HealthAnswer, HealthRequest, Issue, IssueFilter, IssueKind, IssueStatus, LocalPath, ResolvedBy, Severity,
    parse_uuid, uuid_text,
};
use crate::model::id::IssueId;
use crate::model::limits;
use crate::model::repair::Repair;
use crate::model::view::Refusal;
use crate::web::api::repair_json;
use crate::web::pages::{Desktop, Fields, Head, Pager, ROWS, answer_or_return, html, offset, sentence};
use crate::web::show::{self, Moment};

use super::ask;
use super::repair::{self, Section};
use super::variant::{Why, length, number, reasons};

/// What the filter's form and the links of other pages ask for.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::web::pages) struct Wanted {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    severity: String,
    #[serde(default)]
    status: String,
    artist: Option<String>,
    release: Option<String>,
    #[serde(default)]
    page: usize,
    /// `all`: the boxes of the page are ticked, as many as can be mended at once.
    #[serde(default)]
    choose: String,
}

/// The word for issues of every status.
const EVERY_STATUS: &str = "every";

impl Wanted {
    /// The filter; words that mean nothing filter nothing.
    fn filter(&self) -> IssueFilter {
        IssueFilter {
            kinds: IssueKind::parse(&self.kind).into_iter().collect(),
            severities: Severity::parse(&self.severity).into_iter().collect(),
            statuses: if self.status == EVERY_STATUS {
                IssueStatus::ALL.to_vec()
            } else {
                IssueStatus::parse(&self.status).into_iter().collect()
            },
            release_id: self.release.as_deref().and_then(parse_uuid),
            artist: self.artist.clone(),
            path: None,
            offset: offset(self.page, ROWS),
            limit: ROWS,
        }
    }

    /// The same as a query, without the page; it ends so that the page can follow.
    fn query(&self) -> String {
        let mut query = String::from("?");
        let kept = [
            ("type", Some(&self.kind).filter(|word| !word.is_empty())),
            ("severity", Some(&self.severity).filter(|word| !word.is_empty())),
            ("status", Some(&self.status).filter(|word| !word.is_empty())),
            ("artist", self.artist.as_ref()),
            ("release", self.release.as_ref()),
        ];
        for (name, value) in kept {
            if let Some(value) = value {
                query.push_str(&format!("{name}={}&", show::segment(value)));
            }
        }
        query
    }
}

#[derive(Template)]
#[template(path = "issues.html", config = "web-min/askama.toml")]
struct IssuesPage {
    head: Head,
    all: String,
    /// Of whom or what, when it is not everything.
    of: Option<String>,
    artist: Option<String>,
    release: Option<String>,
    kinds: Vec<Choice>,
    severities: Vec<Choice>,
    statuses: Vec<Choice>,
    rows: Vec<Row>,
    /// At least one of them has a box.
    fixable: bool,
    /// Query of the same page with its boxes ticked.
    choose_all: String,
    pager: Pager,
}

struct Choice {
    word: &'static str,
    title: &'static str,
    chosen: bool,
}

struct Row {
    id: String,
    name: String,
    folder: String,
    kind: &'static str,
    severity: &'static str,
    status: &'static str,
    reason: String,
    can_fix: bool,
    chosen: bool,
    /// The job that mends it.
    job: Option<String>,
    /// Why it was not mended.
    failure: Option<String>,
}

pub(super) fn text(bytes: &[u8]) -> String {
    show::visible(&String::from_utf8_lossy(bytes))
}

fn row(issue: &Issue, repair: Option<&Repair>) -> Row {
    let why = repair.filter(|_| issue.status == IssueStatus::Failed).and_then(|repair| repair.state.failure());
    let live = repair.filter(|_| issue.status == IssueStatus::Fixing);
    Row {
        id: issue.id.to_string(),
        name: text(issue.path.name()),
        folder: text(issue.path.folder()),
        kind: issue.kind.title(),
        severity: issue.severity.name(),
        status: issue.status.name(),
        reason: sentence(&show::visible(&issue.reason)),
        can_fix: repair::can_fix(issue),
        chosen: false,
        job: live.map(|repair| repair.job.to_string()),
        failure: why.map(|why| sentence(&show::visible(why))),
    }
}

/// Ticks the boxes of the first rows that have one.
fn choose(rows: &mut [Row]) {
    for row in rows.iter_mut().filter(|row| row.can_fix).take(limits::FIX_AT_ONCE) {
        row.chosen = true;
    }
}

pub(in crate::web::pages) async fn list(desktop: Desktop, Query(wanted): Query<Wanted>) -> Response {
    let filter = wanted.filter();
    let found = ask!(desktop, HealthRequest::Issues(filter) => HealthAnswer::Issues(rows, all) => (rows, all));
    let (rows, all) = answer_or_return!(desktop, found);
    let mut head = desktop.head("Issues", "library");
    head.live = "library";
    let choices = |words: &[(&'static str, &'static str)], now: &str| {
        let choice = |&(word, title): &(&'static str, &'static str)| Choice { word, title, chosen: word == now };
        words.iter().map(choice).collect::<Vec<_>>()
    };
    let mut kinds = vec![("", "all")];
    kinds.extend(IssueKind::ALL.map(|kind| (kind.name(), kind.title())));
    let mut severities = vec![("", "all")];
    severities.extend(Severity::ALL.map(|severity| (severity.name(), severity.name())));
    let mut statuses = vec![("", "open"), (EVERY_STATUS, "all")];
    statuses.extend(IssueStatus::ALL.map(|status| (status.name(), status.name())));
    if rows.iter().any(|issue| issue.status == IssueStatus::Fixing) {
        head.live = "library every";
        head.refresh_s = Some(10);
    }
    let first = rows.first();
    let repairs = repair_json::of_issues(&desktop.web.desk, &rows).await;
    let mut shown: Vec<Row> = rows.iter().map(|issue| row(issue, repairs.get(&issue.id))).collect();
    if wanted.choose == "all" {
        choose(&mut shown);
    }
    html(&IssuesPage {
        head,
        all: show::count(all as u64, "issue", "issues"),
        of: match (&wanted.artist, &wanted.release) {
            (_, Some(release)) => {
                let album = first.map(|issue| show::visible(&issue.album)).filter(|album| !album.is_empty());
                Some(album.unwrap_or_else(|| show::visible(release)))
            }
            (Some(artist), None) if artist.is_empty() => Some("files without a known artist".to_owned()),
            (Some(artist), None) => Some(show::visible(artist)),
            (None, None) => None,
        },
        kinds: choices(&kinds, &wanted.kind),
        severities: choices(&severities, &wanted.severity),
        statuses: choices(&statuses, &wanted.status),
        fixable: shown.iter().any(|row| row.can_fix),
        choose_all: format!("{}page={}&choose=all", wanted.query(), wanted.page.max(1)),
        rows: shown,
        pager: Pager::new(wanted.page, all, ROWS, &format!("/library/issues{}", wanted.query())),
        artist: wanted.artist,
        release: wanted.release,
    })
}

#[derive(Template)]
#[template(path = "issue.html", config = "web-min/askama.toml")]
struct IssuePage {
    head: Head,
    id: String,
    title: &'static str,
    reason: String,
    severity: &'static str,
    status: String,
    facts: Vec<(&'static str, String)>,
    detected_at: Moment,
    resolved_at: Option<Moment>,
    evidence: Vec<(&'static str, String)>,
    reasons: Vec<Why>,
    missing: Vec<(String, String)>,
    copies: Vec<[String; 3]>,
    /// The copy it is better than, or rather the one that is better.
    better: Option<String>,
    action: String,
    /// Content of the file it is about.
    copy: Option<String>,
    name: String,
    open: bool,
    acknowledged: bool,
    resolved: bool,
    fixing: bool,
    can_fix: bool,
    repair: Option<Section>,
}

fn status(issue: &Issue) -> String {
    match (issue.status, issue.resolved_by) {
        (IssueStatus::Ignored, _) => "dismissed as a false positive".to_owned(),
        (IssueStatus::Resolved, Some(ResolvedBy::AutoFixed)) => "resolved by this program".to_owned(),
        (IssueStatus::Resolved, _) => "resolved: no longer found".to_owned(),
        (IssueStatus::Fixing, _) => "being fixed".to_owned(),
        (IssueStatus::Failed, _) => "open: the last repair failed".to_owned(),
        (status, _) => status.name().to_lowercase(),
    }
}

/// The numbers of the evidence that are told one by one.
fn evidence(evidence: &Evidence) -> Vec<(&'static str, String)> {
    let yes_no = |it: bool| if it { "yes" } else { "no" }.to_owned();
    match evidence {
        Evidence::Transcode { quality_score, codec, bitrate_kbps, dynamic_range, bandwidth_hz, confidence, .. } => {
            let mut rows = vec![
                ("Coding", format!("{}, {bitrate_kbps} kbit/s", codec.name())),
                ("Sound up to", number("bandwidth_hz", f64::from(*bandwidth_hz)).1),
                ("Quality score", format!("{quality_score:.2}")),
                ("Confidence", format!("{confidence:.2}")),
            ];
            rows.extend(dynamic_range.map(|dr| ("Dynamic range", format!("DR {dr:.1}"))));
            rows
        }
        Evidence::NonCanonical {
            current_quality, canonical_quality, canonical_codec, canonical_bitrate_kbps, ..
        } => vec![
            ("This copy scores", format!("{current_quality:.2}")),
            ("The better one scores", format!("{canonical_quality:.2}")),
            ("The better one is", format!("{}, {canonical_bitrate_kbps} kbit/s", canonical_codec.name())),
        ],
        Evidence::NotInRelease { tracks } => vec![("Tracks of the release", tracks.to_string())],
        Evidence::Missing { missing_count, tracks, .. } => {
            vec![("Tracks of the release", tracks.to_string()), ("Missing", missing_count.to_string())]
        }
        Evidence::Corrupted { bad_frames, first_bad, md5_differs, samples_missing } => {
            let mut rows = vec![("Damaged frames", bad_frames.to_string())];
            rows.extend(first_bad.map(|(byte, ms)| ("The first", format!("at byte {byte}, {}", length(ms)))));
            rows.push(("Sound differs from what was encoded", yes_no(*md5_differs)));
            rows.push(("Samples missing", samples_missing.to_string()));
            rows
        }
        Evidence::Unknown { has_tags, has_fingerprint } => {
            vec![("Has artist and title", yes_no(*has_tags)), ("Has a fingerprint", yes_no(*has_fingerprint))]
        }
        Evidence::Copies { copies } => vec![("Copies", copies.len().to_string())],
        Evidence::Duration { file_duration_ms, mb_duration_ms } => {
            vec![("The file lasts", length(*file_duration_ms)), ("The recording lasts", length(*mb_duration_ms))]
        }
    }
}

fn facts(issue: &Issue) -> Vec<(&'static str, String)> {
    let what = if issue.kind == IssueKind::MissingTrackInRelease { "Folder" } else { "File" };
    let texts = [("Artist", &issue.artist), ("Album", &issue.album), ("Title", &issue.title)];
    let mut facts = vec![(what, show::visible(&issue.path.to_string()))];
    facts
        .extend(texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, show::visible(text))));
    facts.extend(issue.recording_id.map(|id| ("MusicBrainz recording", uuid_text(id))));
    facts.extend(issue.release_id.map(|id| ("MusicBrainz release", uuid_text(id))));
    facts
}

pub(super) fn wanted_id(text: &str) -> Result<IssueId, Refusal> {
    text.parse().map_err(|_| Refusal::NotFound)
}

/// Content of the file that lies there, if it was measured.
async fn copy_at(desktop: &Desktop, path: LocalPath) -> Result<Option<String>, Refusal> {
    let found = ask!(desktop, HealthRequest::CopyAt(path) => HealthAnswer::Variants(found) => found)?;
    Ok(found.first().map(|variant| variant.hash().to_string()))
}

pub(in crate::web::pages) async fn show(desktop: Desktop, Path(id): Path<String>) -> Response {
    let id = answer_or_return!(desktop, wanted_id(&id));
    let issue = ask!(desktop, HealthRequest::Issue(id) => HealthAnswer::Issue(issue) => issue);
    let issue = answer_or_return!(desktop, issue);
    let copy = answer_or_return!(desktop, copy_at(&desktop, issue.path.clone()).await);
    let repair = repair::section(&desktop, id).await;
    let mut head = desktop.head(format!("{}: {}", issue.kind.title(), text(issue.path.name())), "library");
    if issue.status == IssueStatus::Fixing || repair.as_ref().is_some_and(|repair| repair.is_live) {
        head.live = "library every";
        head.refresh_s = Some(5);
    }
    let mut page = IssuePage {
        head,
        id: issue.id.to_string(),
        title: issue.kind.title(),
        reason: sentence(&show::visible(&issue.reason)),
        severity: issue.severity.name(),
        status: status(&issue),
        facts: facts(&issue),
        detected_at: show::moment(issue.detected_at),
        resolved_at: issue.resolved_at.map(show::moment),
        evidence: evidence(&issue.evidence),
        reasons: Vec::new(),
        missing: Vec::new(),
        copies: Vec::new(),
        better: None,
        action: sentence(issue.kind.suggested_action()),
        copy,
        name: text(issue.path.name()),
        open: issue.status.is_open(),
        acknowledged: issue.status == IssueStatus::Acknowledged,
        resolved: issue.status == IssueStatus::Resolved,
        fixing: issue.status == IssueStatus::Fixing,
        can_fix: repair::can_fix(&issue),
        repair,
    };
    match &issue.evidence {
        Evidence::Transcode { reasons: fired, .. } => page.reasons = reasons(fired),
        Evidence::NonCanonical { canonical_variant, .. } => page.better = Some(canonical_variant.to_string()),
        Evidence::Missing { missing, .. } => {
            let place =
                |disc: u32, position: u32| if disc > 1 { format!("{disc}-{position}") } else { position.to_string() };
            let row = missing.iter().map(|track| (place(track.disc, track.position), show::visible(&track.title)));
            page.missing = row.collect();
        }
        Evidence::Copies { copies } => {
            let row = |copy: &crate::model::health::CopyOf| {
                let coding = format!("{}, {} kbit/s", copy.codec.name(), copy.bitrate_kbps);
                [show::visible(&copy.path.to_string()), coding, format!("{:.2}", copy.quality_score)]
            };
            page.copies = copies.iter().map(row).collect();
        }
        _ => {}
    }
    html(&page)
}

/// What an owner may say of an issue, and the word that tells it was heard.
fn said(word: &str) -> Option<(IssueStatus, &'static str)> {
    match word {
        "dismiss" => Some((IssueStatus::Ignored, "dismissed")),
        "acknowledge" => Some((IssueStatus::Acknowledged, "acknowledged")),
        "reopen" => Some((IssueStatus::Detected, "reopened")),
        _ => None,
    }
}

pub(in crate::web::pages) async fn change(desktop: Desktop, Path(id): Path<String>, fields: Fields) -> Response {
    let id = answer_or_return!(desktop, wanted_id(&id));
    let Some((status, word)) = said(fields.get("say")) else {
        return desktop.problem(StatusCode::BAD_REQUEST, "the form was not understood");
    };
    let changed = ask!(desktop, HealthRequest::SetStatus(id, status) => HealthAnswer::Issue(_) => ());
    answer_or_return!(desktop, changed);
    desktop.done(format!("/library/issues/{id}"), word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_what_the_words_say() {
        let wanted = Wanted {
            kind: "CorruptedFile".to_owned(),
            severity: "nonsense".to_owned(),
            status: "every".to_owned(),
            artist: Some("A&B".to_owned()),
            release: None,
            page: 3,
            choose: "all".to_owned(),
        };
        let filter = wanted.filter();
        assert_eq!((filter.kinds.as_slice(), filter.severities.as_slice()), (&[IssueKind::CorruptedFile][..], &[][..]));
        assert_eq!((filter.statuses.len(), filter.offset, filter.limit), (6, 200, 100));
        assert_eq!(wanted.query(), "?type=CorruptedFile&severity=nonsense&status=every&artist=A%26B&");
        assert_eq!((Wanted::default().query().as_str(), Wanted::default().filter().statuses.len()), ("?", 0));
    }

    #[test]
    fn the_owner_has_three_words() {
        assert_eq!(said("dismiss"), Some((IssueStatus::Ignored, "dismissed")));
        assert_eq!(said("fix"), None);
    }

    #[test]
    fn damage_is_located() {
        let rows = evidence(&Evidence::Corrupted {
            bad_frames: 3,
            first_bad: Some((12_345, 61_500)),
            md5_differs: true,
            samples_missing: 0,
        });
        assert!(rows.contains(&("The first", "at byte 12345, 1:01.5".to_owned())), "{rows:?}");
        assert!(rows.contains(&("Sound differs from what was encoded", "yes".to_owned())));
    }
}
