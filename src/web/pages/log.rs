//! `/log`: the tail, newest first.

use askama::Template;
use axum::extract::Query;
use axum::response::Response;
use serde::Deserialize;

use crate::web::show::{self, Moment};

use super::{Desktop, Head, answer_or_return, html};

/// Levels from the worst, and what choosing one shows.
const LEVELS: [(&str, &str); 4] = [
    ("ERROR", "errors"),
    ("WARN", "errors and warnings"),
    ("INFO", "what happens, errors and warnings"),
    ("DEBUG", "everything"),
];
/// Lines of the page.
const LINES: usize = 500;

#[derive(Template)]
#[template(path = "log.html", config = "web-min/askama.toml")]
struct LogPage {
    head: Head,
    levels: Vec<(&'static str, &'static str, bool)>,
    lines: Vec<Line>,
    hidden: usize,
}

struct Line {
    at: Moment,
    level: &'static str,
    target: String,
    text: String,
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    level: String,
}

pub(super) async fn show(desktop: Desktop, Query(wanted): Query<Wanted>) -> Response {
    let least = LEVELS.iter().position(|(level, _)| level.eq_ignore_ascii_case(&wanted.level)).unwrap_or(2);
    let lines = answer_or_return!(desktop, desktop.web.desk.log(0).await);
    let mut lines: Vec<Line> = lines
        .into_iter()
        .filter(|line| LEVELS.iter().position(|(level, _)| *level == line.level).unwrap_or(0) <= least)
        .map(|line| Line {
            at: show::moment_s(line.at),
            level: line.level,
            target: show::visible(&line.target),
            text: show::visible(&line.text),
        })
        .collect();
    lines.reverse();
    let hidden = lines.len().saturating_sub(LINES);
    lines.truncate(LINES);
    let mut head = desktop.head("Log", "log");
    head.live = "every";
    html(&LogPage {
        head,
        levels: LEVELS.iter().enumerate().map(|(n, (level, words))| (*level, *words, n == least)).collect(),
        lines,
        hidden,
    })
}
