//! Repairs: what is asked before they begin, what came of the wish, how one stands, and the way back.

use std::collections::BTreeSet;

use askama::Template;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;

use crate::model::health::{HealthAnswer, HealthRequest, Issue, IssueKind, IssueStatus};
use crate::model::id::IssueId;
use crate::model::job::{JobAnswer, JobId, JobRequest, TrackState};
use crate::model::limits;
use crate::model::repair::{Manner, Repair, RepairAnswer, RepairRequest, RepairState, Strategy};
use crate::model::view::{Refusal, SettingView};
use crate::web::pages::jobs::{proof_words, state_words, track_words};
use crate::web::pages::{ConfirmPage, Desktop, Fields, Head, answer_or_return, html, sentence, size};
use crate::web::show::{self, Moment};

use super::issues::{text, wanted_id};
use super::{ask, mismatch};

/// Whether the button is shown.
pub(super) fn can_fix(issue: &Issue) -> bool {
    let waits = matches!(issue.status, IssueStatus::Detected | IssueStatus::Acknowledged | IssueStatus::Failed);
    issue.kind.can_auto_fix() && waits
}

fn strategy(kind: IssueKind) -> Strategy {
    match kind {
        IssueKind::MissingTrackInRelease => Strategy::CompleteAlbum,
        IssueKind::NonCanonicalVariant => Strategy::ReplaceWithCanonical,
        _ => Strategy::RedownloadTracks,
    }
}

/// One of its answers, and nothing else.
async fn repairs(desktop: &Desktop, request: RepairRequest) -> Result<Vec<Repair>, Refusal> {
    match desktop.web.desk.repair(request).await? {
        RepairAnswer::Repairs(rows) => Ok(rows),
        RepairAnswer::Begun(_) => Err(mismatch()),
    }
}

/// The part of an issue's page that tells of its repair.
pub(super) struct Section {
    pub(super) state: String,
    /// How the state is coloured.
    pub(super) mark: &'static str,
    /// The job, and how it stands.
    pub(super) job: String,
    pub(super) doing: String,
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) began_at: Moment,
    pub(super) ended_at: Option<Moment>,
    pub(super) can_undo: bool,
    /// The disk may have refused it, and the owner may not want to wait for the next attempt.
    pub(super) can_hurry: bool,
    /// Why there is no button to undo it, where one would be looked for.
    pub(super) stays: Option<String>,
    /// Something is still to happen.
    pub(super) is_live: bool,
}

fn state(repair: &Repair) -> (String, &'static str) {
    let words = match (&repair.state, repair.manner) {
        (RepairState::Fetching, _) => "a good copy is looked for and fetched",
        (RepairState::Swapping, _) => "the copy is there and is being put in its place",
        (RepairState::Undoing, _) => "the old file is being put back",
        (RepairState::Undone, _) => "undone: the old file lies in its place again",
        (RepairState::Failed(why), _) => return (format!("failed: {}", show::visible(why)), "bad"),
        (RepairState::Done, Manner::Add) => return ("done: the missing tracks are there".to_owned(), "good"),
        (RepairState::Done, Manner::Beside) => {
            return ("done: the good copy lies beside the old file".to_owned(), "good");
        }
        (RepairState::Done, _) => return ("done: the file was replaced".to_owned(), "good"),
    };
    (words.to_owned(), "")
}

/// What was replaced by what, and where it all lies.
fn facts(repair: &Repair) -> Vec<(&'static str, String)> {
    let visible = |path: &crate::model::health::LocalPath| show::visible(&path.to_string());
    let scored = |score: Option<f32>| score.map_or(String::new(), |score| format!(", score {score:.2}"));
    let mut facts = vec![("How", format!("it {}", repair.strategy.words()))];
    let swapped = matches!(repair.state, RepairState::Done | RepairState::Undoing | RepairState::Undone);
    if let Some(old) = repair.old.as_ref().filter(|_| swapped) {
        let (path, score) = (visible(&old.path), scored(old.score));
        facts.push(("Old file", format!("{path} ({}{score})", size(old.size))));
    }
    if let Some(new) = &repair.new {
        let (bytes, score) = (size(new.size), scored(Some(new.score)));
        let place = repair.places.as_ref().map(|places| visible(&places.new)).unwrap_or_default();
        facts.push(("New file", format!("{place} ({bytes}{score})")));
        facts.push(("Checked", proof_words(new.proof).to_owned()));
    }
    if swapped {
        let backup = repair.places.as_ref().and_then(|places| places.backup.as_ref());
        facts.extend(backup.map(|path| ("The old file is kept as", visible(path))));
    }
    facts
}

/// How the job stands, as far as this repair waits for it; and whether its copy is there and only has to be put in its place.
async fn standing(desktop: &Desktop, repair: &Repair) -> (String, bool) {
    // A job is forgotten earlier than what it did.
    let Ok(JobAnswer::Job(view)) = desktop.web.desk.jobs(JobRequest::One(repair.job.clone())).await else {
        return (String::new(), false);
    };
    let mut words = state_words(view.job.state).to_owned();
    if !view.doing.is_empty() {
        words.push_str(&format!(": {}", show::visible(&view.doing)));
    }
    if !repair.state.is_live() || view.job.state.is_over() {
        return (words, false);
    }
    let track = repair.track.and_then(|index| view.job.children.get(usize::try_from(index).ok()?));
    if let Some(child) = track {
        words.push_str(&format!("; the track: {}", track_words(child.state)));
        if let Some(all) = child.size {
            words.push_str(&format!(", {} of {}", size(child.done), size(all)));
        }
        if let Some(note) = &child.note {
            words.push_str(&format!(" ({})", show::visible(note)));
        }
    } else {
        let progress = view.job.progress();
        words.push_str(&format!("; {} of {} tracks in their places", progress.done, progress.tracks));
    }
    (words, track.is_some_and(|child| child.state == TrackState::Checking))
}

/// What an issue's page says of its repair; nothing, if there never was one.
pub(super) async fn section(desktop: &Desktop, issue: IssueId) -> Option<Section> {
    let repair = repairs(desktop, RepairRequest::One(issue)).await.ok()?.into_iter().next()?;
    let (state, mark) = state(&repair);
    let refusal = repair.not_undone_because();
    let stays = refusal.filter(|_| repair.state == RepairState::Done);
    let (doing, is_there) = standing(desktop, &repair).await;
    Some(Section {
        state,
        mark,
        job: repair.job.to_string(),
        doing,
        facts: facts(&repair),
        began_at: show::moment(repair.began_at),
        ended_at: repair.ended_at.map(show::moment),
        can_undo: refusal.is_none(),
        can_hurry: repair.state == RepairState::Swapping || (repair.state == RepairState::Fetching && is_there),
        stays: stays.map(|why| format!("This cannot be undone: {}", show::visible(why))),
        is_live: repair.state.is_live(),
    })
}

/// An issue by its file, for lists.
struct Row {
    id: String,
    name: String,
    folder: String,
    kind: &'static str,
    /// What came of it.
    outcome: String,
    job: Option<String>,
}

/// The issue of this id as a row; one that is gone has its id alone.
async fn row(desktop: &Desktop, id: IssueId) -> Result<(Row, Option<IssueKind>), Refusal> {
    let found = ask!(desktop, HealthRequest::Issue(id) => HealthAnswer::Issue(issue) => issue);
    let (name, folder, kind) = match &found {
        Ok(issue) => (text(issue.path.name()), text(issue.path.folder()), Some(issue.kind)),
        Err(Refusal::NotFound) => (id.to_string(), String::new(), None),
        Err(refusal) => return Err(refusal.clone()),
    };
    let title = kind.map_or("gone", IssueKind::title);
    Ok((Row { id: id.to_string(), name, folder, kind: title, outcome: String::new(), job: None }, kind))
}

#[derive(Template)]
#[template(path = "fix.html", config = "web-min/askama.toml")]
struct FixPage {
    head: Head,
    /// What will happen, sentence by sentence.
    sentences: Vec<String>,
    rows: Vec<Row>,
    /// Files are replaced, and have tags.
    replaces: bool,
    back: String,
}

#[derive(Template)]
#[template(path = "fixed.html", config = "web-min/askama.toml")]
struct FixedPage {
    head: Head,
    sum: String,
    begun: Vec<Row>,
    refused: Vec<Row>,
}

/// What is promised about the old file; the settings say what will be done with it.
fn old_file(settings: &[SettingView]) -> &'static str {
    let is_off = |key: &str| settings.iter().any(|setting| setting.key == key && setting.value == "false");
    if is_off("library_health.remediation.replace_existing") {
        "The old file stays as it is, and the new one lies beside it: the settings say so."
    } else if is_off("library_health.remediation.backup_before_replace") {
        "The old file is removed once the new one is in its place: the settings say so, and there is no way back."
    } else {
        "The old file is kept beside it with .bak after its name, and Undo brings it back."
    }
}

/// What will happen to issues of these kinds.
fn sentences(kinds: &BTreeSet<IssueKind>, settings: &[SettingView]) -> Vec<String> {
    let strategies: BTreeSet<Strategy> = kinds.iter().map(|kind| strategy(*kind)).collect();
    let mut said: Vec<String> = strategies.iter().map(|strategy| format!("A job {}.", strategy.words())).collect();
    if strategies.iter().any(|strategy| *strategy != Strategy::CompleteAlbum) {
        said.push("Nothing is touched before the copy is there, decodes to its end, and proves to be the recording and no worse.".to_owned());
        said.push(old_file(settings).to_owned());
    }
    if strategies.contains(&Strategy::CompleteAlbum) {
        said.push("What is added to an album is not undone by a button.".to_owned());
    }
    said
}

/// The issues of a form, each once.
fn chosen(fields: &Fields) -> Result<Vec<IssueId>, String> {
    let mut ids: Vec<IssueId> = Vec::new();
    for word in fields.all("id") {
        let Ok(id) = word.parse() else { return Err("the form was not understood".to_owned()) };
        if !ids.contains(&id) {
            ids.push(id);
        }
        if ids.len() > limits::FIX_AT_ONCE {
            return Err(format!("at most {} issues are mended at once", limits::FIX_AT_ONCE));
        }
    }
    if ids.is_empty() { Err("no issue was chosen".to_owned()) } else { Ok(ids) }
}

fn home(ids: &[IssueId]) -> String {
    match ids {
        [one] => format!("/library/issues/{one}"),
        _ => "/library/issues".to_owned(),
    }
}

/// The form of the list and of an issue: first it asks, then, with `sure`, it begins.
pub(in crate::web::pages) async fn fix(desktop: Desktop, fields: Fields) -> Response {
    let ids = match chosen(&fields) {
        Ok(ids) => ids,
        Err(why) => return desktop.problem(StatusCode::BAD_REQUEST, &why),
    };
    if fields.get("sure").is_empty() {
        confirm(&desktop, &ids).await
    } else {
        let word = if fields.get("again").is_empty() { "fix_begun" } else { "retried" };
        begin(&desktop, ids, !fields.get("keep_tags").is_empty(), word).await
    }
}

async fn confirm(desktop: &Desktop, ids: &[IssueId]) -> Response {
    let settings = answer_or_return!(desktop, desktop.web.desk.settings().await);
    let (mut rows, mut kinds) = (Vec::new(), BTreeSet::new());
    for id in ids {
        let (row, kind) = answer_or_return!(desktop, row(desktop, *id).await);
        kinds.extend(kind);
        rows.push(row);
    }
    let title = if ids.len() == 1 { "Fix this issue?".to_owned() } else { format!("Fix {} issues?", ids.len()) };
    let head = desktop.head(title, "library");
    let replaces = kinds.iter().any(|kind| strategy(*kind) != Strategy::CompleteAlbum);
    html(&FixPage { head, sentences: sentences(&kinds, &settings), rows, replaces, back: home(ids) })
}

/// `word`: what is said of an issue alone.
async fn begin(desktop: &Desktop, issues: Vec<IssueId>, keep_tags: bool, word: &'static str) -> Response {
    let (back, alone) = (home(&issues), issues.len() == 1);
    let wish = RepairRequest::Fix { issues, keep_tags };
    let begun = match answer_or_return!(desktop, desktop.web.desk.repair(wish).await) {
        RepairAnswer::Begun(begun) => begun,
        RepairAnswer::Repairs(_) => return desktop.refused(mismatch()),
    };
    if alone {
        return match begun.refused.first() {
            Some((_, why)) => desktop.problem(StatusCode::CONFLICT, &show::visible(why)),
            None => desktop.done(back, word),
        };
    }
    let mut page = FixedPage {
        head: desktop.head("Fix via multi-swarm", "library"),
        sum: format!(
            "{} begun by {}, {} refused.",
            show::count(begun.begun.len() as u64, "repair", "repairs"),
            show::count(begun.jobs.len() as u64, "job", "jobs"),
            begun.refused.len()
        ),
        begun: Vec::new(),
        refused: Vec::new(),
    };
    for (id, job) in &begun.begun {
        let (mut row, _) = answer_or_return!(desktop, row(desktop, *id).await);
        row.job = Some(JobId::to_string(job));
        page.begun.push(row);
    }
    for (id, why) in &begun.refused {
        let (mut row, _) = answer_or_return!(desktop, row(desktop, *id).await);
        row.outcome = sentence(&show::visible(why));
        page.refused.push(row);
    }
    let mut response = html(&page);
    if begun.begun.is_empty() {
        *response.status_mut() = StatusCode::CONFLICT;
    }
    response
}

/// First it asks, then, with `sure`, the old file is put back.
pub(in crate::web::pages) async fn undo(desktop: Desktop, Path(id): Path<String>, fields: Fields) -> Response {
    let id = answer_or_return!(desktop, wanted_id(&id));
    if !fields.get("sure").is_empty() {
        answer_or_return!(desktop, repairs(&desktop, RepairRequest::Undo(id)).await);
        return desktop.done(format_args!("/library/issues/{id}"), "undone");
    }
    let repair = answer_or_return!(desktop, repairs(&desktop, RepairRequest::One(id)).await);
    let Some(repair) = repair.first() else { return desktop.refused(Refusal::NotFound) };
    if let Some(why) = repair.not_undone_because() {
        return desktop.problem(StatusCode::CONFLICT, why);
    }
    let old = repair.old.as_ref().map(|old| show::visible(&old.path.to_string())).unwrap_or_default();
    html(&ConfirmPage {
        head: desktop.head("Undo this repair?", "library"),
        sentence: format!(
            "{old} is put back as it was. The file that replaced it is kept beside it with .bak after its name, and the \
             issue is open again."
        ),
        action: format!("/library/issues/{id}/undo"),
        name: "sure",
        value: "yes".to_owned(),
        button: "Undo the repair",
        back: format!("/library/issues/{id}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::LocalPath;
    use crate::model::id::ContentHash;
    use crate::model::job::Proof;
    use crate::model::repair::{NewFile, OldFile, Places};
    use crate::model::time::UnixMs;

    fn repair(state: RepairState, manner: Manner) -> Repair {
        let path = |name: &str| LocalPath::from(name);
        Repair {
            issue: IssueId(1),
            job: JobId::from_random(1),
            track: Some(0),
            strategy: Strategy::RedownloadTracks,
            manner,
            old: Some(OldFile {
                path: path("/m/a\u{202e}.mp3"),
                content: ContentHash([1; 32]),
                size: 1024,
                score: None,
            }),
            new: Some(NewFile { content: ContentHash([2; 32]), size: 2048, score: 0.934, proof: Proof::Sound }),
            places: Some(Places {
                new: path("/m/a.flac"),
                backup: Some(path("/m/a.mp3.bak")),
                aside: Some(path("/m/a.flac.bak")),
            }),
            state,
            by_itself: false,
            keep_tags: false,
            tags_kept: false,
            told: true,
            began_at: UnixMs(1),
            updated_at: UnixMs(1),
            ended_at: None,
        }
    }

    #[test]
    fn a_replacement_says_what_lies_where() {
        let shown = facts(&repair(RepairState::Done, Manner::Backup));
        let of = |name: &str| shown.iter().find(|(fact, _)| *fact == name).map(|(_, text)| text.as_str());
        assert!(of("Old file").is_some_and(|text| text.contains("U+202E") && text.ends_with("(1.0 KiB)")), "{shown:?}");
        assert_eq!(of("New file"), Some("/m/a.flac (2.0 KiB, score 0.93)"));
        assert_eq!(of("The old file is kept as"), Some("/m/a.mp3.bak"));
        let failed = facts(&repair(RepairState::Failed("x".to_owned()), Manner::Backup));
        assert!(!failed.iter().any(|(fact, _)| fact.contains("kept") || *fact == "Old file"), "{failed:?}");
    }

    #[test]
    fn the_promise_about_the_old_file_is_what_the_settings_say() {
        let setting = |key: &str| SettingView {
            key: format!("library_health.remediation.{key}"),
            value: "false".to_owned(),
            source: String::new(),
            fixed: false,
        };
        assert!(old_file(&[]).contains("Undo brings it back"));
        assert!(old_file(&[setting("auto_fix_transcodes")]).contains("Undo"));
        assert!(old_file(&[setting("backup_before_replace")]).contains("no way back"));
        assert!(old_file(&[setting("backup_before_replace"), setting("replace_existing")]).contains("beside"));
    }

    #[test]
    fn what_will_happen_is_said_once_for_each_way() {
        let kinds = |kinds: &[IssueKind]| sentences(&kinds.iter().copied().collect(), &[]);
        let one = kinds(&[IssueKind::SuspectedTranscode, IssueKind::CorruptedFile]);
        assert_eq!((one.len(), one[0].starts_with("A job fetches a verified")), (3, true), "{one:?}");
        let album = kinds(&[IssueKind::MissingTrackInRelease]);
        assert!(album.len() == 2 && !album.iter().any(|said| said.contains(".bak")), "{album:?}");
        assert_eq!(kinds(&IssueKind::ALL).len(), 6);
    }

    #[test]
    fn colours_follow_the_state() {
        let mark = |state, manner| super::state(&repair(state, manner)).1;
        assert_eq!(mark(RepairState::Done, Manner::Backup), "good");
        assert_eq!(mark(RepairState::Failed("no".to_owned()), Manner::Backup), "bad");
        assert_eq!(mark(RepairState::Fetching, Manner::Backup), "");
    }
}
