//! `/settings`: what is in force and where it comes from, the few settings that may be changed here, the password, and
//! the way to stop the program.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use crate::model::view::{Request, SettingView};
use crate::web::show;

use super::{Desktop, Fields, Head, answer_or_return, html, sign_in};

/// Settings an owner changes in daily life; all others are changed in `slskdn.yml`. One that the program does not have
/// is not offered.
const HERE: [(&str, &str); 15] = [
    ("soulseek.username", "Soulseek user name"),
    ("soulseek.password", "Soulseek password"),
    ("soulseek.description", "What others read about you"),
    ("soulseek.address", "Soulseek server"),
    ("soulseek.port", "Port of the Soulseek server"),
    ("soulseek.listen_port", "Port that others connect to"),
    ("soulseek.port_mapping", "Ask the router to open that port"),
    ("global.upload.slots", "Uploads at once"),
    ("global.upload.speed_limit", "Upload speed limit (KiB/s)"),
    ("global.download.slots", "Downloads at once"),
    ("global.download.speed_limit", "Download speed limit (KiB/s)"),
    ("transfers.upload.slots", "Uploads at once"),
    ("transfers.upload.speed_limit", "Upload speed limit (KiB/s)"),
    ("transfers.download.slots", "Downloads at once"),
    ("transfers.download.speed_limit", "Download speed limit (KiB/s)"),
];

#[derive(Template)]
#[template(path = "settings.html", config = "web-min/askama.toml")]
struct SettingsPage {
    head: Head,
    changeable: Vec<Changeable>,
    rows: Vec<Row>,
    has_password: bool,
}

struct Changeable {
    key: String,
    label: &'static str,
    value: String,
    secret: bool,
    /// May have several lines.
    long: bool,
    source: String,
    from_page: bool,
    /// The environment or a flag wins over what is set here.
    overruled: bool,
}

struct Row {
    key: String,
    value: String,
    source: String,
}

/// A field would bring other characters back than it was given: such a value is shown below, and changed in the file.
fn is_plain(setting: &SettingView, long: bool) -> bool {
    let shown = if long { show::visible_lines(&setting.value) } else { show::visible(&setting.value) };
    shown == setting.value.trim_end_matches('\n')
}

fn changeable(settings: &[SettingView]) -> Vec<Changeable> {
    HERE.iter()
        .filter_map(|(key, label)| Some((settings.iter().find(|setting| setting.key == *key)?, *label)))
        .map(|(setting, label)| (setting, label, setting.key.ends_with("description")))
        .filter(|(setting, _, long)| is_plain(setting, *long))
        .map(|(setting, label, long)| {
            let secret = setting.key.ends_with("password");
            Changeable {
                key: setting.key.clone(),
                label,
                value: if secret { String::new() } else { setting.value.clone() },
                secret,
                long,
                source: show::visible(&setting.source),
                from_page: setting.source == "page",
                overruled: matches!(setting.source.as_str(), "environment" | "flag"),
            }
        })
        .collect()
}

pub(super) async fn show(desktop: Desktop) -> Response {
    let settings = answer_or_return!(desktop, desktop.web.desk.settings().await);
    html(&SettingsPage {
        head: desktop.head("Settings", "settings"),
        changeable: changeable(&settings),
        rows: settings
            .iter()
            .map(|setting| Row {
                key: show::visible(&setting.key),
                value: show::visible(&setting.value),
                source: show::visible(&setting.source),
            })
            .collect(),
        has_password: desktop.web.auth.has_password(),
    })
}

pub(super) async fn change(desktop: Desktop, fields: Fields) -> Response {
    let key = fields.get("key");
    if !HERE.iter().any(|(known, _)| *known == key) {
        return desktop.problem(StatusCode::BAD_REQUEST, "this setting is changed in slskdn.yml, not here");
    }
    let value = if fields.get("default").is_empty() { Some(fields.get("value").to_owned()) } else { None };
    let changes = vec![(key.to_owned(), value)];
    answer_or_return!(desktop, desktop.web.desk.order(Request::ChangeSettings(changes)).await);
    desktop.done("/settings", "changed")
}

pub(super) async fn password(desktop: Desktop, fields: Fields) -> Response {
    let new = fields.get("new");
    if new != fields.get("again") {
        return desktop.problem(StatusCode::BAD_REQUEST, "the two new passwords are not the same");
    }
    let from = desktop.visit.address();
    match desktop.web.auth.change_password(from, fields.get("current"), new).await {
        Ok(()) => sign_in::enter(&desktop, "/settings", "password").await,
        Err(why) => desktop.problem(sign_in::status_of(&why), &why.to_string()),
    }
}

#[derive(Template)]
#[template(path = "problem.html", config = "web-min/askama.toml")]
struct Farewell {
    head: Head,
    sentence: &'static str,
}

pub(super) async fn shutdown(desktop: Desktop) -> Response {
    answer_or_return!(desktop, desktop.web.desk.order(Request::Shutdown).await);
    let head = desktop.head("Stopping", "");
    html(&Farewell { head, sentence: "The program is stopping. Transfers go on where they were when it starts again." })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_that_a_field_brings_back_whole_are_offered() {
        let offered = |key: &str, value: &str| {
            let setting = SettingView { key: key.to_owned(), value: value.to_owned(), source: "file".to_owned() };
            changeable(&[setting]).len() == 1
        };
        assert!(offered("soulseek.username", "me"));
        assert!(!offered("soulseek.username", "me\u{202e}"));
        assert!(offered("soulseek.description", "two\nlines\n"));
        assert!(!offered("soulseek.description", "a\0b"));
        assert!(!offered("web.port", "5030"));
    }
}
