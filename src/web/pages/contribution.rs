//! `/contribution`: whether this node gives as much as it takes.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use super::{Desktop, Head, answer_or_return, html, size};
use crate::model::rescue::{Moved, RescueAnswer, RescueRequest, TrafficView};

#[derive(Template)]
#[template(path = "contribution.html", config = "web-min/askama.toml")]
struct ContributionPage {
    head: Head,
    enabled: bool,
    standing: &'static str,
    tone: &'static str,
    ratio: String,
    uploaded: String,
    downloaded: String,
    rows: Vec<Row>,
    violations: Vec<(&'static str, &'static str, &'static str)>,
    grace: String,
    rescue_left: String,
    rescue_day: String,
}

struct Row {
    window: &'static str,
    network: &'static str,
    up: String,
    down: String,
    ratio: String,
}

/// `3.6:1`; words where nothing was received.
fn ratio(moved: Moved) -> String {
    match moved.ratio_milli() {
        Some(milli) => format!("{}.{}:1", milli / 1_000, milli % 1_000 / 100),
        None => "nothing was received".to_owned(),
    }
}

/// In words, and as a colour (SPEC-FACTS 19). As the rules have it, a ratio counts once more than the grace was received.
fn standing(moved: Moved, grace: u64) -> (&'static str, &'static str) {
    match moved.ratio_milli() {
        Some(milli) if milli < 1_000 && moved.down() <= grace => ("Too little moved so far to say", ""),
        None => ("Healthy contributor", "good"),
        Some(milli) if milli > 1_500 => ("Excellent contributor", "good"),
        Some(milli) if milli >= 1_000 => ("Healthy contributor", "warn"),
        Some(_) => ("Please share more: this node received more than it sent", "bad"),
    }
}

fn rows(view: &TrafficView) -> Vec<Row> {
    let windows = ["24 hours", "7 days", "30 days"].into_iter().zip(view.windows);
    windows
        .flat_map(|(window, moved)| {
            let of = |network: &'static str, up: u64, down: u64| Row {
                window,
                network,
                up: size(up),
                down: size(down),
                ratio: ratio(Moved { soulseek_up: up, soulseek_down: down, ..Moved::default() }),
            };
            [
                of("Soulseek", moved.soulseek_up, moved.soulseek_down),
                of("Mesh", moved.overlay_up, moved.overlay_down),
                of("Both", moved.up(), moved.down()),
            ]
        })
        .collect()
}

pub(super) async fn show(desktop: Desktop) -> Response {
    let answer = answer_or_return!(desktop, desktop.web.desk.rescue(RescueRequest::Traffic).await);
    let RescueAnswer::Traffic(view) = answer else {
        return desktop.problem(StatusCode::INTERNAL_SERVER_ERROR, "the program gave an answer of the wrong kind");
    };
    let mut head = desktop.head("Contribution", "status");
    head.refresh_s = Some(60);
    let week = view.windows[1];
    let (standing, tone) = standing(week, view.grace);
    html(&ContributionPage {
        head,
        enabled: view.enabled,
        standing,
        tone,
        ratio: ratio(week),
        uploaded: size(week.up()),
        downloaded: size(week.down()),
        rows: rows(&view),
        violations: view
            .violations
            .iter()
            .map(|(violation, action)| (violation.name(), violation.message(), *action))
            .collect(),
        grace: size(view.grace),
        rescue_left: size(view.rescue_left.0),
        rescue_day: size(view.rescue_left.1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_label() {
        let moved = |up, down| Moved { soulseek_up: up, overlay_down: down, ..Moved::default() };
        for (up, down, text, tone) in [
            (36, 10, "3.6:1", "good"),
            (15, 10, "1.5:1", "warn"),
            (10, 10, "1.0:1", "warn"),
            (9, 10, "0.9:1", "bad"),
            (0, 8, "0.0:1", ""),
            (5, 0, "nothing was received", "good"),
        ] {
            assert_eq!((ratio(moved(up, down)).as_str(), standing(moved(up, down), 8).1), (text, tone));
        }
    }
}
