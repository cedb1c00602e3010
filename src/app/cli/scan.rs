//! `slskdn scan`: by the daemon when one runs on the data directory, else here, with the store of the data directory
//! if there is one, and with one that is thrown away afterwards if there is none.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{could_not, print, say};
use crate::app::apply;
use crate::app::clock::Clock;
use crate::app::control::{Control, ControlError};
use crate::app::doctor::report::{LISTED, duration, plain, progress_line, report};
use crate::app::doctor::scan::{Reins, run};
use crate::app::doctor::service::new_scan;
use crate::app::doctor::shells::{self, Catalogs, Rulebook, Workers};
use crate::app::doctor::walk::from_path;
use crate::app::doctor::{DoctorError, Ground, load};
use crate::app::settings::Sources;
use crate::app::sharing::rules::Rules;
use crate::engine::library::score::health;
use crate::model::config::resolve;
use crate::model::health::{
    FileOutcome, HealthSummary, Issue, IssueFilter, LocalPath, Progress, Scan, ScanRequest, ScanStatus, Severity,
};
use crate::model::limits;
use crate::store::{Store, StoreError, StoreOptions};
use crate::web::api::health_json;

/// Issues were found.
const ISSUES: u8 = 3;
/// Between two looks at the progress.
const LOOK: Duration = Duration::from_millis(200);
/// Rows of one read or request.
const PAGE: usize = 500;

/// How to scan.
pub(super) struct Options {
    /// One JSON document instead of the report.
    pub(super) json: bool,
    /// Ask no catalogue on the net.
    pub(super) offline: bool,
    /// Measure unchanged files again.
    pub(super) remeasure: bool,
}

/// The command.
pub(super) fn scan(sources: &Sources, paths: &[PathBuf], options: &Options) -> ExitCode {
    let mut wanted = Vec::new();
    for path in paths {
        match path.canonicalize() {
            Ok(path) => wanted.push(from_path(&path)),
            Err(error) => return could_not(&format!("{}: {error}", path.display())),
        }
    }
    if wanted.len() > limits::SCAN_PATHS {
        return could_not(&format!("at most {} paths can be scanned at once", limits::SCAN_PATHS));
    }
    let mut request = ScanRequest::of(wanted);
    (request.offline, request.remeasure) = (options.offline, options.remeasure);
    if let Some(daemon) = Control::of(&sources.data) {
        return by_daemon(&daemon, &request, options.json);
    }
    let dir = sources.data.join("store");
    let outcome = if dir.join("data.mdb").exists() {
        Store::open(&dir, StoreOptions::default()).map(|store| (store, None))
    } else {
        let scratch = match Scratch::new() {
            Ok(scratch) => scratch,
            Err(error) => return could_not(&format!("no place for a temporary store: {error}")),
        };
        say("no data directory is in use: what is found is not kept for the next scan");
        Store::open(&scratch.0, StoreOptions::default()).map(|store| (store, Some(scratch)))
    };
    match outcome {
        Ok((store, scratch)) => {
            let code = here(sources, store, request, options.json);
            drop(scratch);
            code
        }
        Err(error @ StoreError::Locked { .. }) => {
            could_not(&format!("{error}; it does not answer on its control socket, so it cannot scan for us"))
        }
        Err(error) => could_not(&error.to_string()),
    }
}

/// A folder for a store that nobody needs afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut bits = [0; 8];
        getrandom::fill(&mut bits).map_err(|error| std::io::Error::other(error.to_string()))?;
        let dir = std::env::temp_dir().join(format!("slskdn-scan-{:016x}", u64::from_ne_bytes(bits)));
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            say(&format!("the temporary store {} stays: {error}", self.0.display()));
        }
    }
}

/// The bar of a terminal, or nothing.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} {bar:30} {pos}/{len} files, {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// Scans in this process.
fn here(sources: &Sources, store: Store, mut request: ScanRequest, as_json: bool) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return could_not(&format!("no threads to work with: {error}")),
    };
    // A folder is scanned with mistakes in the configuration too: only limits and excluded folders come from it.
    let loaded = sources.load().ok().map(|resolved| resolved.config);
    if loaded.is_none() {
        say("the configuration has mistakes, so this scan goes by the defaults: see `slskdn config check`");
    }
    let Some(config) = loaded.or_else(|| Some(resolve(&[]).ok()?.config)) else {
        return could_not("the configuration has mistakes: see `slskdn config check`");
    };
    let workers = load::workers(config.library_health.max_concurrent_files);
    let measure = match Workers::new(workers, runtime.handle().clone()) {
        Ok(measure) => measure,
        Err(error) => return could_not(&error.to_string()),
    };
    let excluded: Vec<PathBuf> = config.shares.excluded.iter().map(PathBuf::from).collect();
    let rules = match Rules::new(&config.shares.filters, &excluded) {
        Ok(rules) => rules,
        Err(error) => return could_not(&error.to_string()),
    };
    let clock = Clock::start();
    let cancel = CancellationToken::new();
    let mut services = config.catalog.clone();
    services.offline |= request.offline;
    let catalog = {
        let _inside = runtime.enter();
        match shells::catalog(&services, &store, clock, &cancel) {
            Ok(catalog) => catalog,
            Err(error) => return could_not(&error.to_string()),
        }
    };
    // Offline, the catalogs answer from what they keep.
    request.offline = false;
    let ground = Ground {
        store,
        measure: Arc::new(measure),
        judge: Arc::new(Rulebook),
        catalogue: Arc::new(Catalogs::new(catalog, runtime.handle().clone())),
        rules: Arc::new(rules),
        clock,
        thresholds: apply::thresholds(&config),
        canonical: apply::canonical(&config),
        workers,
    };
    let roots = request.paths.clone();
    let unfinished = match ground.store.read(|txn, tables| tables.library.unfinished_scan(txn)) {
        Ok(unfinished) => unfinished.filter(|scan| scan.request == request),
        Err(error) => return could_not(&error.to_string()),
    };
    let Some(scan) = unfinished.or_else(|| new_scan(request, clock.now().wall)) else {
        return could_not("no randomness for the scan's id");
    };
    let scan = match runtime.block_on(conduct(&ground, scan)) {
        Ok(scan) => scan,
        Err(error) => return could_not(&error.to_string()),
    };
    let told = if as_json { tell_json(&ground, &scan, &roots) } else { tell(&ground, &scan, &roots) };
    cancel.cancel();
    match told {
        Ok(healthy) => code(&scan, healthy),
        Err(error) => could_not(&error.to_string()),
    }
}

fn code(scan: &Scan, healthy: bool) -> ExitCode {
    match (scan.status, healthy) {
        // Told in the report.
        (ScanStatus::Completed, _) if scan.error.is_some() => ExitCode::FAILURE,
        (ScanStatus::Completed, true) => ExitCode::SUCCESS,
        (ScanStatus::Completed, false) => ExitCode::from(ISSUES),
        _ => could_not("the scan was stopped before its end; asked for again, it goes on"),
    }
}

/// Runs the scan with a progress bar until its end or Ctrl-C.
async fn conduct(ground: &Ground, scan: Scan) -> Result<Scan, DoctorError> {
    let (progress, mut told) = watch::channel(Progress::default());
    let reins = Arc::new(Reins::default());
    let (ground, held) = (ground.clone(), reins.clone());
    let mut work = tokio::task::spawn_blocking(move || run(&ground, scan, &held, &progress));
    let bar = bar();
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            interrupted = tokio::signal::ctrl_c() => if interrupted.is_ok() { reins.halt() },
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = told.borrow_and_update().clone();
        bar.set_length(now.files_total);
        bar.set_position(now.counts.files);
        bar.set_message(match now.phase {
            "files" => progress_line(&now),
            phase => phase.to_owned(),
        });
        bar.tick();
    };
    bar.finish_and_clear();
    outcome.unwrap_or(Err(DoctorError::Defect))
}

/// Open issues in what was scanned, worst first, remarks left out, and the sum of all.
fn issues_of(store: &Store, roots: &[LocalPath], most: usize) -> Result<(Vec<Issue>, HealthSummary), StoreError> {
    let (mut found, mut sum) = (Vec::new(), HealthSummary::default());
    for root in roots {
        let summary = store.read(|txn, tables| tables.library.summary(txn, Some(root)))?;
        sum.files += summary.files;
        sum.by_kind.iter_mut().zip(summary.by_kind).for_each(|(all, n)| *all += n);
        sum.by_severity.iter_mut().zip(summary.by_severity).for_each(|(all, n)| *all += n);
        let severities = vec![Severity::Critical, Severity::High, Severity::Medium, Severity::Low];
        let filter = IssueFilter { path: Some(root.clone()), severities, limit: most, ..IssueFilter::default() };
        found.extend(store.read(|txn, tables| tables.library.issues(txn, &filter))?.0);
    }
    sum.health_score = health(&sum.by_severity, sum.files);
    found.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.path.cmp(&b.path)));
    found.truncate(most);
    Ok((found, sum))
}

/// Whether nothing worse than a remark is open.
fn is_healthy(summary: &HealthSummary) -> bool {
    Severity::ALL.iter().zip(summary.by_severity).all(|(severity, n)| *severity == Severity::Info || n == 0)
}

fn tell(ground: &Ground, scan: &Scan, roots: &[LocalPath]) -> Result<bool, StoreError> {
    let (issues, summary) = issues_of(&ground.store, roots, LISTED)?;
    let below = if let [root] = roots { root.to_string() } else { String::new() };
    let text = report(scan, &summary, &issues, &below);
    print(text.as_bytes());
    Ok(is_healthy(&summary))
}

/// The document: `scan`, `summary`, `files` (each as `analyze` prints it), `issues`. Written as it is read.
fn tell_json(ground: &Ground, scan: &Scan, roots: &[LocalPath]) -> Result<bool, StoreError> {
    let store = &ground.store;
    let (_, summary) = issues_of(store, roots, 0)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    // A closed pipe is an ordinary end.
    let mut put = |text: &str| {
        let _ = out.write_all(text.as_bytes());
    };
    put(&format!(
        "{{\"scan\":{},\"summary\":{},\"files\":[",
        health_json::scan(scan, None),
        health_json::summary(&summary)
    ));
    let mut first = true;
    for root in roots {
        let own = store.read(|txn, tables| tables.library.file(txn, root))?;
        let mut after: Option<LocalPath> = None;
        let mut rows: Vec<_> = own.into_iter().collect();
        loop {
            for row in &rows {
                let mut value = match &row.outcome {
                    FileOutcome::Measured(hash) => {
                        let variant = store.read(|txn, tables| tables.library.bare_variant(txn, *hash))?;
                        variant.map_or_else(|| json!({}), |variant| health_json::variant(&variant, false))
                    }
                    FileOutcome::Broken(why) => json!({ "outcome": "corrupted", "error": why }),
                    FileOutcome::Unsupported(why) => json!({ "outcome": "unsupported", "error": why }),
                };
                if let FileOutcome::Measured(_) = row.outcome {
                    value["outcome"] = json!("measured");
                }
                value["file_path"] = json!(row.path.to_string());
                put(&format!("{}{value}", if first { "\n" } else { ",\n" }));
                first = false;
            }
            let from = after.clone();
            rows = store.read(|txn, tables| tables.library.files_in(txn, &root.0, from.as_ref(), PAGE))?;
            let Some(last) = rows.last() else { break };
            after = Some(last.path.clone());
        }
    }
    put("],\"issues\":[");
    first = true;
    for root in roots {
        let mut filter = IssueFilter { path: Some(root.clone()), limit: PAGE, ..IssueFilter::default() };
        loop {
            let (rows, total) = store.read(|txn, tables| tables.library.issues(txn, &filter))?;
            for issue in &rows {
                put(&format!("{}{}", if first { "\n" } else { ",\n" }, health_json::issue(issue)));
                first = false;
            }
            filter.offset += rows.len();
            if rows.is_empty() || filter.offset >= total {
                break;
            }
        }
    }
    put("]}\n");
    let _ = out.flush();
    Ok(is_healthy(&summary))
}

/// Has the daemon scan, and tells what it says.
fn by_daemon(daemon: &Control, request: &ScanRequest, as_json: bool) -> ExitCode {
    match ask_daemon(daemon, request, as_json) {
        Ok(code) => code,
        Err(error) => could_not(&error.to_string()),
    }
}

fn ask_daemon(daemon: &Control, request: &ScanRequest, as_json: bool) -> Result<ExitCode, ControlError> {
    let paths: Vec<String> = request.paths.iter().map(ToString::to_string).collect();
    let body = json!({ "library_paths": paths, "offline": request.offline, "remeasure": request.remeasure });
    let started = daemon.ask("POST", "/api/library/health/scans", Some(&body))?;
    let id = started["scan_id"].as_str().unwrap_or_default().to_owned();
    let bar = bar();
    let scan = loop {
        let scan = daemon.ask("GET", &format!("/api/library/health/scans/{id}"), None)?;
        if scan["status"] != "running" {
            break scan;
        }
        let progress = &scan["progress"];
        bar.set_length(progress["files_total"].as_u64().unwrap_or(0));
        bar.set_position(scan["files_scanned"].as_u64().unwrap_or(0));
        let left = progress["seconds_left"].as_u64().map(|s| format!("{} left", duration(s.saturating_mul(1_000))));
        bar.set_message(left.unwrap_or_else(|| progress["phase"].as_str().unwrap_or("waiting").to_owned()));
        std::thread::sleep(Duration::from_secs(1));
    };
    bar.finish_and_clear();
    if scan["status"] != "completed" {
        let why = scan["error_message"].as_str().unwrap_or("it was stopped");
        return Ok(could_not(&format!("the daemon's scan did not end well: {why}")));
    }
    let (mut issues, mut is_ill) = (Vec::new(), false);
    for path in &paths {
        let path = percent_encoding::utf8_percent_encode(path, percent_encoding::NON_ALPHANUMERIC);
        let mut offset = 0;
        loop {
            let query = format!("/api/library/health/issues?path={path}&limit={PAGE}&offset={offset}");
            let page = daemon.ask("GET", &query, None)?;
            let rows = page["issues"].as_array().cloned().unwrap_or_default();
            offset += rows.len();
            is_ill |= rows.iter().any(|issue| issue["severity"] != Severity::Info.name());
            let is_last = rows.is_empty() || offset as u64 >= page["total"].as_u64().unwrap_or(0);
            issues.extend(rows);
            if is_last {
                break;
            }
        }
    }
    if as_json {
        print(format!("{}\n", json!({ "scan": scan, "issues": issues })).as_bytes());
    } else {
        print(daemon_report(&scan, &issues).as_bytes());
    }
    Ok(if !scan["error_message"].is_null() {
        ExitCode::FAILURE
    } else if is_ill {
        ExitCode::from(ISSUES)
    } else {
        ExitCode::SUCCESS
    })
}

fn daemon_report(scan: &Value, issues: &[Value]) -> String {
    let of = |name: &str| scan[name].as_u64().unwrap_or(0);
    let mut text = format!(
        "{} files looked at by the daemon, {} measured; {} issues.\n",
        of("files_scanned"),
        of("files_measured"),
        issues.len()
    );
    if let Some(error) = scan["error_message"].as_str() {
        text.push_str(&format!("{}.\n", plain(error)));
    }
    for issue in issues.iter().take(LISTED) {
        let of = |name: &str| plain(issue[name].as_str().unwrap_or_default());
        text.push_str(&format!("{:9} {:24} {}: {}\n", of("severity"), of("type"), of("file_path"), of("reason")));
    }
    text
}
