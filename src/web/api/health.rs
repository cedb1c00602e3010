//! The Collection Doctor: scans, issues, what is known of recordings (SPEC-FACTS 18, Health and Canonical).

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::json;

use super::health_shape as shape;
use super::{Answer, Done, Paging, Problem, repair};
use crate::model::health::{
    HealthAnswer, HealthRequest, HealthSummary, IssueFilter, IssueKind, IssueStatus, LocalPath, ScanRequest, Severity,
    parse_uuid,
};
use crate::model::id::ContentHash;
use crate::model::limits;
use crate::web::server::Web;

type Here = State<Arc<Web>>;

fn bad(sentence: String) -> Problem {
    Problem(StatusCode::BAD_REQUEST, sentence)
}

fn id(text: &str, what: &str) -> Result<u128, Problem> {
    parse_uuid(text).ok_or_else(|| bad(format!("`{text}` is no {what} id: 32 hexadecimal digits are wanted")))
}

/// An answer of another kind than the request has.
fn mismatch() -> Problem {
    Problem(StatusCode::INTERNAL_SERVER_ERROR, "the program gave an answer of the wrong kind".to_owned())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    library_path: Option<String>,
    #[serde(default)]
    library_paths: Vec<String>,
    include_subdirectories: Option<bool>,
    file_extensions: Option<Vec<String>>,
    /// Unchanged files are always passed over, unless this says that they are to be measured again.
    #[serde(default)]
    remeasure: bool,
    skip_previously_scanned: Option<bool>,
    #[serde(default)]
    offline: bool,
}

/// The body may be left out: the scheduled or shared folders are scanned then.
pub(super) async fn start(State(web): Here, body: Bytes) -> Result<Response, Problem> {
    let mut request = ScanRequest::of(Vec::new());
    if !body.is_empty() {
        let wanted: Wanted =
            serde_json::from_slice(&body).map_err(|problem| bad(format!("the body is not understood: {problem}")))?;
        let paths = wanted.library_path.into_iter().chain(wanted.library_paths);
        request.paths = paths.map(|path| LocalPath::from(path.as_str())).collect();
        if let Some(path) = request.paths.iter().find(|path| !path.0.starts_with(b"/")) {
            return Err(bad(format!("an absolute path is wanted, not `{path}`")));
        }
        if request.paths.len() > limits::SCAN_PATHS {
            return Err(bad(format!("at most {} folders are scanned at once", limits::SCAN_PATHS)));
        }
        request.include_subdirectories = wanted.include_subdirectories.unwrap_or(true);
        request.remeasure = wanted.remeasure || wanted.skip_previously_scanned == Some(false);
        request.offline = wanted.offline;
        if let Some(extensions) = wanted.file_extensions {
            let dotted = |e: String| if e.starts_with('.') { e } else { format!(".{e}") };
            request.extensions = extensions.into_iter().take(64).map(|e| dotted(e).to_ascii_lowercase()).collect();
        }
    }
    match web.desk.health(HealthRequest::Start(request)).await? {
        HealthAnswer::Started(id) => {
            Ok((StatusCode::ACCEPTED, Json(json!({ "scan_id": id.to_string() }))).into_response())
        }
        _ => Err(mismatch()),
    }
}

pub(super) async fn scans(State(web): Here) -> Answer {
    match web.desk.health(HealthRequest::Scans).await? {
        HealthAnswer::Scans(scans) => Ok(Json(scans.iter().map(|scan| shape::scan(scan, None)).collect())),
        _ => Err(mismatch()),
    }
}

pub(super) async fn scan(State(web): Here, Path(text): Path<String>) -> Answer {
    let wanted = crate::model::id::ScanId(id(&text, "scan")?);
    match web.desk.health(HealthRequest::Scan(wanted)).await? {
        HealthAnswer::Scan(scan, progress) => Ok(Json(shape::scan(&scan, progress.as_deref()))),
        _ => Err(mismatch()),
    }
}

pub(super) async fn stop(State(web): Here, Path(text): Path<String>) -> Done {
    let wanted = crate::model::id::ScanId(id(&text, "scan")?);
    match web.desk.health(HealthRequest::Stop(wanted)).await? {
        HealthAnswer::Done => Ok(StatusCode::NO_CONTENT),
        _ => Err(mismatch()),
    }
}

#[derive(Deserialize)]
pub(super) struct Where {
    path: Option<String>,
}

async fn summed(web: &Web, path: Option<String>) -> Result<HealthSummary, Problem> {
    let path = path.map(|path| LocalPath::from(path.as_str()));
    match web.desk.health(HealthRequest::Summary(path)).await? {
        HealthAnswer::Summary(summary) => Ok(*summary),
        _ => Err(mismatch()),
    }
}

pub(super) async fn summary(State(web): Here, Query(Where { path }): Query<Where>) -> Answer {
    Ok(Json(shape::summary(&summed(&web, path).await?)))
}

pub(super) async fn by_type(State(web): Here) -> Answer {
    let summary = summed(&web, None).await?;
    let rows = IssueKind::ALL.into_iter().map(|kind| json!({ "type": kind.name(), "count": summary.of(kind) }));
    Ok(Json(rows.collect()))
}

async fn groups(web: &Web, request: HealthRequest) -> Answer {
    match web.desk.health(request).await? {
        HealthAnswer::Groups(groups) => Ok(Json(groups.iter().map(shape::group).collect())),
        _ => Err(mismatch()),
    }
}

pub(super) async fn by_artist(State(web): Here) -> Answer {
    groups(&web, HealthRequest::ByArtist).await
}

pub(super) async fn by_release(State(web): Here) -> Answer {
    groups(&web, HealthRequest::ByRelease).await
}

#[derive(Deserialize)]
pub(super) struct Filter {
    types: Option<String>,
    severities: Option<String>,
    statuses: Option<String>,
    release: Option<String>,
    artist: Option<String>,
    path: Option<String>,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
}

/// Names separated by commas.
fn list<T>(text: Option<&String>, parse: fn(&str) -> Option<T>, what: &str) -> Result<Vec<T>, Problem> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| parse(name).ok_or_else(|| bad(format!("`{name}` is no {what}")))).collect()
}

impl Filter {
    fn parse(self) -> Result<IssueFilter, Problem> {
        Ok(IssueFilter {
            kinds: list(self.types.as_ref(), IssueKind::parse, "type of issue")?,
            severities: list(self.severities.as_ref(), Severity::parse, "severity")?,
            statuses: list(self.statuses.as_ref(), IssueStatus::parse, "status")?,
            release_id: self.release.map(|text| id(&text, "release")).transpose()?,
            artist: self.artist,
            path: self.path.map(|path| LocalPath::from(path.as_str())),
            offset: self.offset,
            limit: Paging { offset: self.offset, limit: self.limit }.limit(),
        })
    }
}

pub(super) async fn issues(State(web): Here, Query(filter): Query<Filter>) -> Answer {
    match web.desk.health(HealthRequest::Issues(filter.parse()?)).await? {
        HealthAnswer::Issues(rows, total) => {
            let repairs = repair::of_issues(&web.desk, &rows).await;
            Ok(Json(json!({ "total": total, "issues": repair::issues_json(&rows, &repairs) })))
        }
        _ => Err(mismatch()),
    }
}

async fn one_issue(web: &Web, request: HealthRequest) -> Answer {
    match web.desk.health(request).await? {
        HealthAnswer::Issue(issue) => {
            let issues = [*issue];
            let repairs = repair::of_issues(&web.desk, &issues).await;
            Ok(Json(repair::issues_json(&issues, &repairs).remove(0)))
        }
        _ => Err(mismatch()),
    }
}

pub(super) async fn issue(State(web): Here, Path(text): Path<String>) -> Answer {
    let wanted = crate::model::id::IssueId(id(&text, "issue")?);
    one_issue(&web, HealthRequest::Issue(wanted)).await
}

#[derive(Deserialize)]
pub(super) struct NewStatus {
    status: String,
}

pub(super) async fn set_status(
    State(web): Here,
    Path(text): Path<String>,
    Json(NewStatus { status }): Json<NewStatus>,
) -> Answer {
    let wanted = crate::model::id::IssueId(id(&text, "issue")?);
    let status = IssueStatus::parse(&status).ok_or_else(|| bad(format!("`{status}` is no status")))?;
    one_issue(&web, HealthRequest::SetStatus(wanted, status)).await
}

pub(super) async fn canonical(State(web): Here, Path(text): Path<String>) -> Answer {
    let recording = id(&text, "recording")?;
    let HealthAnswer::Canonical(rows) = web.desk.health(HealthRequest::Canonical(recording)).await? else {
        return Err(mismatch());
    };
    let HealthAnswer::Consensus(known) = web.desk.health(HealthRequest::Consensus(recording)).await? else {
        return Err(mismatch());
    };
    let mut value = json!({
        "mb_recording_id": crate::model::health::uuid_text(recording),
        "profiles": rows.iter().map(shape::canonical).collect::<Vec<_>>(),
    });
    shape::add(&mut value, known.map_or_else(|| json!({}), |known| shape::consensus(&known)));
    Ok(Json(value))
}

/// Copies of a recording, the best first: what to keep and what could go. Nothing is deleted.
pub(super) async fn dedupe(State(web): Here, Path(text): Path<String>) -> Answer {
    let recording = id(&text, "recording")?;
    match web.desk.health(HealthRequest::Variants(recording)).await? {
        HealthAnswer::Variants(variants) => Ok(Json(json!({
            "mb_recording_id": crate::model::health::uuid_text(recording),
            "best_variant": variants.first().map(|best| best.hash().to_string()),
            "variants": variants.iter().map(|variant| shape::variant(variant, false)).collect::<Vec<_>>(),
        }))),
        _ => Err(mismatch()),
    }
}

#[derive(Deserialize)]
pub(super) struct Fingerprint {
    #[serde(default)]
    fingerprint: bool,
}

pub(super) async fn variant(
    State(web): Here,
    Path(text): Path<String>,
    Query(Fingerprint { fingerprint }): Query<Fingerprint>,
) -> Answer {
    let hash = shape::parse_hash(&text).ok_or_else(|| bad(format!("`{text}` is no content hash")))?;
    match web.desk.health(HealthRequest::Variant(ContentHash(hash))).await? {
        HealthAnswer::Variants(variants) => match variants.first() {
            Some(variant) => Ok(Json(shape::variant(variant, fingerprint))),
            None => Err(Problem(StatusCode::NOT_FOUND, "there is no such thing".to_owned())),
        },
        _ => Err(mismatch()),
    }
}

#[derive(Deserialize)]
pub(super) struct Force {
    #[serde(default)]
    force: bool,
}

/// Scores and verdicts anew from what was measured, without decoding again.
pub(super) async fn migrate(State(web): Here, Query(Force { force }): Query<Force>) -> Answer {
    match web.desk.health(HealthRequest::Rejudge(force)).await? {
        HealthAnswer::Rejudged(changed) => Ok(Json(json!({ "changed": changed }))),
        _ => Err(mismatch()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(types: &str, statuses: &str) -> Filter {
        Filter {
            types: Some(types.to_owned()),
            severities: None,
            statuses: Some(statuses.to_owned()),
            release: None,
            artist: None,
            path: None,
            offset: 0,
            limit: None,
        }
    }

    #[test]
    fn filters_are_lists_of_names() {
        let parsed = filter("corruptedfile, WrongDuration", "").parse().unwrap();
        assert_eq!(parsed.kinds, [IssueKind::CorruptedFile, IssueKind::WrongDuration]);
        assert_eq!((parsed.statuses.len(), parsed.limit), (0, 100));
        assert_eq!(filter("", "Gone").parse().unwrap_err().1, "`Gone` is no status");
    }

    #[test]
    fn a_scan_is_asked_for_by_the_names_of_the_facts() {
        let wanted: Wanted =
            serde_json::from_value(json!({ "library_path": "/m", "skip_previously_scanned": false })).unwrap();
        assert_eq!(wanted.library_path.as_deref(), Some("/m"));
        assert!(serde_json::from_value::<Wanted>(json!({ "path": "/m" })).is_err());
    }
}
