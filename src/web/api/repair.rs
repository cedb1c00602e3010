//! Repairs of what is wrong in the library (SPEC-FACTS 5.3, 18).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::health_json::{add, digits, issue as issue_json};
use super::{Answer, Problem, shape};
use crate::model::health::{Issue, LocalPath};
use crate::model::id::IssueId;
use crate::model::job::JobId;
use crate::model::limits;
use crate::model::repair::{Begun, Repair, RepairAnswer, RepairRequest};
use crate::web::desk::Desk;
use crate::web::routes::{Route, route};
use crate::web::server::Web;
use crate::web::settings::Role::{Readonly, Readwrite};
use crate::web::show::iso_ms;

type Here = State<Arc<Web>>;

pub(super) fn table() -> Vec<Route> {
    vec![
        route("POST", "/api/library/health/issues/fix", Readwrite, "Mend issues by fetching good copies", fix),
        route("POST", "/api/library/health/issues/{id}/fix", Readwrite, "Mend one issue", fix_one),
        route("POST", "/api/library/health/issues/{id}/undo", Readwrite, "Put the file of a repair back", undo),
        route("GET", "/api/library/health/issues/{id}/repair", Readonly, "What was done about an issue", one),
    ]
}

fn mismatch() -> Problem {
    Problem(StatusCode::INTERNAL_SERVER_ERROR, "the program gave an answer of the wrong kind".to_owned())
}

fn bad(sentence: impl Into<String>) -> Problem {
    Problem(StatusCode::BAD_REQUEST, sentence.into())
}

fn issue_id(text: &str) -> Result<IssueId, Problem> {
    text.parse().map_err(|_| bad(format!("`{text}` is no issue id: 32 hexadecimal digits are wanted")))
}

fn path(path: Option<&LocalPath>) -> Option<String> {
    path.map(ToString::to_string)
}

/// A repair as the API shows it.
pub(crate) fn repair_json(r: &Repair) -> Value {
    let (old, new) = (r.old.as_ref(), r.new.as_ref());
    let refusal = r.not_undone_because();
    json!({
        "issue_id": r.issue.to_string(), "job_id": r.job.as_str(), "track": r.track,
        "strategy": r.strategy.name(), "manner": r.manner.name(), "state": r.state.name(),
        "error": r.state.failure(), "by_itself": r.by_itself, "keep_tags": r.keep_tags,
        "old_path": path(old.map(|old| &old.path)), "old_content_hash": old.map(|old| old.content.to_string()),
        "old_size": old.map(|old| old.size), "old_score": old.and_then(|old| old.score).map(digits),
        "new_path": path(r.places.as_ref().map(|places| &places.new)),
        "new_content_hash": new.map(|new| new.content.to_string()), "new_size": new.map(|new| new.size),
        "new_score": new.map(|new| digits(new.score)), "verified_by": new.map(|new| new.proof.name()),
        "backup_path": path(r.places.as_ref().and_then(|places| places.backup.as_ref())),
        "can_undo": refusal.is_none(), "cannot_undo_because": refusal,
        "began_at": iso_ms(r.began_at), "updated_at": iso_ms(r.updated_at), "ended_at": shape::time(r.ended_at),
    })
}

/// Issues with what was done about each.
pub(crate) fn issues_json(issues: &[Issue], repairs: &BTreeMap<IssueId, Repair>) -> Vec<Value> {
    let with_repair = |issue: &Issue| {
        let repair = repairs.get(&issue.id);
        let mut value = issue_json(issue);
        let more = json!({
            "remediation_state": repair.map(|repair| repair.state.name()),
            "remediation_error": repair.and_then(|repair| repair.state.failure()),
            "can_undo": repair.is_some_and(|repair| repair.not_undone_because().is_none()),
        });
        add(&mut value, more);
        value
    };
    issues.iter().map(with_repair).collect()
}

/// The repairs of these issues; none where they cannot be had: issues are worth more than what stands beside them.
pub(crate) async fn of_issues(desk: &Desk, issues: &[Issue]) -> BTreeMap<IssueId, Repair> {
    let ids: Vec<IssueId> = issues.iter().filter(|issue| issue.job.is_some()).map(|issue| issue.id).collect();
    if ids.is_empty() {
        return BTreeMap::new();
    }
    match desk.repair(RepairRequest::Of(ids)).await {
        Ok(RepairAnswer::Repairs(rows)) => rows.into_iter().map(|repair| (repair.issue, repair)).collect(),
        Ok(_) | Err(_) => BTreeMap::new(),
    }
}

fn begun_json(begun: &Begun) -> Value {
    json!({
        "job_id": begun.jobs.first().map(JobId::as_str),
        "job_ids": begun.jobs.iter().map(JobId::as_str).collect::<Vec<_>>(),
        "begun": begun.begun.iter().map(|(issue, job)| json!({ "issue_id": issue.to_string(), "job_id": job.as_str() }))
            .collect::<Vec<_>>(),
        "refused": begun.refused.iter().map(|(issue, why)| json!({ "issue_id": issue.to_string(), "reason": why }))
            .collect::<Vec<_>>(),
    })
}

async fn begin(web: &Web, issues: Vec<IssueId>, keep_tags: bool) -> Result<Begun, Problem> {
    match web.desk.repair(RepairRequest::Fix { issues, keep_tags }).await? {
        RepairAnswer::Begun(begun) => Ok(begun),
        RepairAnswer::Repairs(_) => Err(mismatch()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chosen {
    issue_ids: Vec<String>,
    #[serde(default)]
    keep_tags: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct How {
    #[serde(default)]
    keep_tags: bool,
}

/// 202 when a job was begun, 200 when none was; the refused are in the body either way.
async fn fix(State(web): Here, Json(Chosen { issue_ids, keep_tags }): Json<Chosen>) -> Result<Response, Problem> {
    if issue_ids.is_empty() {
        return Err(bad("`issue_ids` names no issue"));
    }
    if issue_ids.len() > limits::FIX_AT_ONCE {
        return Err(bad(format!("at most {} issues are mended at once", limits::FIX_AT_ONCE)));
    }
    let issues = issue_ids.iter().map(|text| issue_id(text)).collect::<Result<Vec<_>, _>>()?;
    let begun = begin(&web, issues, keep_tags).await?;
    let status = if begun.jobs.is_empty() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(begun_json(&begun))).into_response())
}

async fn fix_one(State(web): Here, Path(text): Path<String>, body: Bytes) -> Result<Response, Problem> {
    let how = if body.is_empty() { Ok(How::default()) } else { serde_json::from_slice(&body) };
    let How { keep_tags } = how.map_err(|error| bad(error.to_string()))?;
    let begun = begin(&web, vec![issue_id(&text)?], keep_tags).await?;
    match begun.refused.first() {
        Some((_, why)) => Err(Problem(StatusCode::CONFLICT, why.clone())),
        None => Ok((StatusCode::ACCEPTED, Json(begun_json(&begun))).into_response()),
    }
}

async fn single(web: &Web, request: RepairRequest) -> Answer {
    match web.desk.repair(request).await? {
        RepairAnswer::Repairs(rows) => Ok(Json(rows.first().map(repair_json).ok_or_else(mismatch)?)),
        RepairAnswer::Begun(_) => Err(mismatch()),
    }
}

async fn undo(State(web): Here, Path(text): Path<String>) -> Answer {
    single(&web, RepairRequest::Undo(issue_id(&text)?)).await
}

async fn one(State(web): Here, Path(text): Path<String>) -> Answer {
    single(&web, RepairRequest::One(issue_id(&text)?)).await
}
