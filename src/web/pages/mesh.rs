//! `/mesh`: how nodes meet, and everything that is announced or would be.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use super::{Desktop, Head, answer_or_return, html};
use crate::model::health::uuid_text;
use crate::model::mesh::{Announced, AnnouncementView, LookView, MeetingView, MeshAnswer, MeshRequest};
use crate::web::show::{self, Moment};

#[derive(Template)]
#[template(path = "mesh.html", config = "web-min/askama.toml")]
struct MeshPage {
    head: Head,
    mdns: String,
    dht: String,
    neighbours: String,
    reach: String,
    looks: Vec<Look>,
    told: &'static str,
    announcements: Vec<Row>,
}

struct Look {
    at: Moment,
    key: String,
    found: usize,
    taken: usize,
    problem: String,
}

struct Row {
    kind: &'static str,
    name: String,
    title: String,
    key: String,
    at: Option<Moment>,
    not: &'static str,
}

impl Look {
    fn new(look: &LookView) -> Self {
        let LookView { key, at, found, taken, problem } = look;
        let problem = show::visible(problem);
        Self { at: show::moment(*at), key: key.to_string(), found: *found, taken: *taken, problem }
    }
}

impl Row {
    fn new(row: &AnnouncementView) -> Self {
        let (kind, name, title) = match &row.what {
            Announced::Place(name) => ("Meeting place", show::visible(name), String::new()),
            Announced::Release(id, title) => ("Release", uuid_text(*id), show::visible(title)),
            Announced::Recording(id, title) => ("Recording", uuid_text(*id), show::visible(title)),
        };
        let not = if row.wanted { "not yet" } else { "not allowed" };
        Self { kind, name, title, key: row.key.to_string(), at: row.announced_at.map(show::moment), not }
    }
}

/// What goes into the DHT, in one sentence.
fn told(view: &MeetingView) -> &'static str {
    match (view.dht, view.announce_content, view.reachable) {
        (false, _, _) => {
            "Nothing: the DHT is off. With mesh.enabled and mesh.dht.enabled the meeting places below are announced, \
             and with mesh.dht.announce_content the recordings and releases too. Everybody can see there which address \
             announced what."
        }
        (true, _, false) => "Nothing yet: others cannot reach our port, as far as we know.",
        (true, false, true) => {
            "The meeting places below. The recordings and releases only with mesh.dht.announce_content: everybody \
             can see there which address announced what."
        }
        (true, true, true) => "All of this, in turn. Everybody can see there which address announced what.",
    }
}

pub(super) async fn show(desktop: Desktop) -> Response {
    let answer = answer_or_return!(desktop, desktop.web.desk.mesh(MeshRequest::Meeting).await);
    let MeshAnswer::Meeting(view) = answer else {
        return desktop.problem(StatusCode::INTERNAL_SERVER_ERROR, "the program gave an answer of the wrong kind");
    };
    let mut head = desktop.head("Meeting", "status");
    head.refresh_s = Some(30);
    let off = |key: &str| format!("Off ({key}).");
    let mdns = match (view.mdns, view.mdns_problem.is_empty()) {
        (false, _) if view.mesh => off("mesh.mdns"),
        (false, _) => off("mesh.enabled"),
        (true, true) => "On: peers of this network find each other.".to_owned(),
        (true, false) => format!("On, but {}.", show::visible(&view.mdns_problem)),
    };
    let dht = match (view.dht, view.problem.is_empty()) {
        (false, _) if view.mesh => off("mesh.dht.enabled"),
        (false, _) => off("mesh.enabled"),
        (true, true) => "On.".to_owned(),
        (true, false) => format!("On, but {}.", show::visible(&view.problem)),
    };
    let peers = show::count(view.neighbours, "peer is", "peers are");
    let candidates = show::count(view.candidates, "candidate", "candidates");
    let (min, max) = (view.neighbours_min, view.neighbours_max);
    html(&MeshPage {
        head,
        mdns,
        dht,
        neighbours: format!(
            "{peers} connected, {candidates} known. Others are looked for below {min}, and called below {max}."
        ),
        reach: format!(
            "{}: {}.",
            if view.reachable { "Others can reach it" } else { "Not known to be reachable" },
            show::visible(&view.reach)
        ),
        looks: view.looks.iter().map(Look::new).collect(),
        told: told(&view),
        announcements: view.announcements.iter().map(Row::new).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mesh::DhtKey;

    #[test]
    fn the_page_never_says_more_or_less_than_is_announced() {
        let view = |dht, announce_content, reachable| MeetingView {
            dht,
            announce_content,
            reachable,
            ..MeetingView::default()
        };
        assert!(told(&view(false, true, true)).starts_with("Nothing: the DHT is off"));
        assert!(told(&view(true, true, false)).starts_with("Nothing yet"));
        assert!(told(&view(true, false, true)).starts_with("The meeting places below. The recordings"));
        assert!(told(&view(true, true, true)).starts_with("All of this"));
    }

    #[test]
    fn titles_of_files_are_shown_harmlessly() {
        let what = Announced::Recording(1, "a\u{202e}b".to_owned());
        let row = Row::new(&AnnouncementView { key: DhtKey([1; 20]), what, wanted: false, announced_at: None });
        assert_eq!((row.kind, row.not, row.title.as_str()), ("Recording", "not allowed", "a⟨U+202E⟩b"));
        assert_eq!(row.name, "00000000-0000-0000-0000-000000000001");
    }
}
