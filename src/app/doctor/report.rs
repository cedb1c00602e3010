//! What a scan came to, for a person at a terminal.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, Width};

use crate::model::health::{HealthSummary, Issue, IssueKind, Progress, Scan, Severity};
use crate::model::units::Bytes;

/// Issues listed one by one; the rest is counted.
pub const LISTED: usize = 100;

/// Columns where there is no terminal to ask.
const WIDTH: u16 = 120;

/// The report: what was done, the counts, the worst issues. `below` is left out of the paths' beginnings, and remarks
/// (`Info`) are only counted.
pub fn report(scan: &Scan, summary: &HealthSummary, issues: &[Issue], below: &str) -> String {
    let counts = &scan.counts;
    let took_ms = scan.completed_at.map_or(0, |end| end.0.saturating_sub(scan.started_at.0));
    let mut text = format!(
        "{} looked at: {} measured ({}, {} of audio), {} unchanged or broken, in {}.\n",
        number(counts.files, "file"),
        counts.measured,
        Bytes(counts.bytes),
        hours(counts.audio_ms),
        counts.files.saturating_sub(counts.measured + counts.moved + counts.unsupported),
        duration(took_ms),
    );
    for (n, what) in [
        (counts.moved, "known under another name"),
        (counts.gone, "gone"),
        (counts.unsupported, "in a form that is not decoded here"),
    ] {
        if n > 0 {
            text.push_str(&format!("{} {what}.\n", number(n, "file")));
        }
    }
    if let Some(error) = &scan.error {
        text.push_str(&format!("{}.\n", plain(error)));
    }
    text.push('\n');
    if summary.open() == 0 {
        text.push_str(&format!("Nothing is wrong with {}.\n", number(summary.files, "file")));
        return text;
    }
    text.push_str(&format!(
        "Health {:.2} (1 is well) over {}.\n\n{}\n",
        summary.health_score,
        number(summary.files, "file"),
        kinds(summary)
    ));
    if !issues.is_empty() {
        text.push_str(&format!("\n{}\n", table(issues, below)));
    }
    let untold = summary.open().saturating_sub(issues.len() as u64);
    if untold > 0 {
        text.push_str(&format!("{} not listed here; --json lists everything.\n", number(untold, "more issue")));
    }
    text
}

fn kinds(summary: &HealthSummary) -> Table {
    let mut table = new_table();
    table.set_header(["Problem", "Count", "What would mend it"].map(heading));
    for kind in IssueKind::ALL {
        let count = summary.of(kind);
        if count > 0 {
            let count = Cell::new(count).set_alignment(CellAlignment::Right);
            table.add_row([Cell::new(kind.title()), count, Cell::new(kind.suggested_action())]);
        }
    }
    table
}

fn table(issues: &[Issue], below: &str) -> Table {
    let mut table = new_table();
    table.set_header(["Severity", "Problem", "Where", "Why"].map(heading));
    for issue in issues {
        let path = issue.path.to_string();
        let path = path.strip_prefix(below).map_or(path.as_str(), |rest| rest.trim_start_matches('/'));
        let place = if path.is_empty() { "." } else { path };
        let severity = Cell::new(issue.severity.name()).fg(colour(issue.severity));
        table.add_row([
            severity,
            Cell::new(issue.kind.title()),
            Cell::new(plain(place)),
            Cell::new(plain(&issue.reason)),
        ]);
    }
    table.set_constraints([
        ColumnConstraint::ContentWidth,
        ColumnConstraint::ContentWidth,
        ColumnConstraint::LowerBoundary(Width::Percentage(25)),
        ColumnConstraint::LowerBoundary(Width::Percentage(25)),
    ]);
    table
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    if table.width().is_none() {
        table.set_width(WIDTH);
    }
    table
}

fn heading(text: &str) -> Cell {
    Cell::new(text).add_attribute(Attribute::Bold)
}

fn colour(severity: Severity) -> Color {
    match severity {
        Severity::Critical | Severity::High => Color::Red,
        Severity::Medium => Color::Yellow,
        Severity::Low => Color::Cyan,
        Severity::Info => Color::Grey,
    }
}

/// A file's name is a stranger's text: nothing in it may speak to the terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `1 file`, `2 files`.
fn number(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `0.2 h`
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn hours(ms: u64) -> String {
    format!("{:.1} h", ms as f64 / 3.6e6)
}

/// `12 s`, `3 min 7 s`, `2 h 5 min`.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..60 => format!("{}.{} s", seconds, ms % 1_000 / 100),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// The words beside the bar: files, audio per minute, time left.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
pub fn progress_line(progress: &Progress) -> String {
    let minutes = progress.elapsed_ms as f64 / 60_000.0;
    let pace = progress.counts.audio_ms as f64 / 3.6e6 / minutes.max(1e-3);
    let left = progress.left_ms.map_or_else(|| "counting".to_owned(), |ms| format!("{} left", duration(ms)));
    format!("{pace:.1} h of audio a minute, {left}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::library::detect;
    use crate::model::health::{LocalPath, ScanCounts, ScanRequest, ScanStatus};
    use crate::model::id::ScanId;
    use crate::model::time::UnixMs;

    fn scan(counts: ScanCounts) -> Scan {
        Scan {
            id: ScanId(1),
            request: ScanRequest::of(Vec::new()),
            status: ScanStatus::Completed,
            started_at: UnixMs(0),
            completed_at: Some(UnixMs(67_000)),
            error: None,
            counts,
        }
    }

    #[test]
    fn a_report_says_what_is_wrong_and_where() {
        let counts = ScanCounts { files: 10, measured: 4, gone: 1, audio_ms: 7_200_000, ..ScanCounts::default() };
        let issue = detect::broken_file(&LocalPath::from("/music/a\u{1b}[2J.flac"), "no header", UnixMs(1));
        let mut summary = HealthSummary { files: 10, health_score: 0.9, ..HealthSummary::default() };
        summary.by_kind[usize::from(IssueKind::CorruptedFile.number())] = 3;
        let text = report(&scan(counts), &summary, &[issue], "/music");
        for wanted in [
            "10 files looked at: 4 measured (0 B, 2.0 h of audio), 6 unchanged or broken, in 1 min 7 s.",
            "1 file gone.",
            "Health 0.90",
            "download it again",
            "a\u{fffd}[2J.flac",
            "no header",
            "2 more issues not listed here",
        ] {
            assert!(text.contains(wanted), "{wanted}:\n{text}");
        }
        assert!(!text.contains("/music") && !text.contains("unsupported"), "{text}");
    }

    #[test]
    fn a_healthy_folder_is_one_sentence() {
        let summary = HealthSummary { files: 1, health_score: 1.0, ..HealthSummary::default() };
        let text = report(&scan(ScanCounts { files: 1, ..ScanCounts::default() }), &summary, &[], "");
        assert!(text.ends_with("Nothing is wrong with 1 file.\n"), "{text}");
    }

    #[test]
    fn the_bar_tells_pace_and_time_left() {
        let mut progress = Progress { elapsed_ms: 120_000, ..Progress::default() };
        progress.counts.audio_ms = 3 * 3_600_000;
        assert_eq!(progress_line(&progress), "1.5 h of audio a minute, counting");
        progress.left_ms = Some(3_700_000);
        assert_eq!(progress_line(&progress), "1.5 h of audio a minute, 1 h 1 min left");
    }
}
