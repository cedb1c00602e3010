//! `/settings`: what is in force and where it comes from, the few settings that may be changed here, the password, and
//! the way to stop the program.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use crate::model::config::keys::{self, Kind};
use crate::model::view::{Request, SettingView};
use crate::web::auth::SignInError;
use crate::web::show;

use super::{Desktop, Fields, Head, answer_or_return, html, sign_in};

/// Settings an owner changes in daily life, in groups; all others are changed in `slskdn.yml`.
const GROUPS: [(&str, &[(&str, &str)]); 3] = [
    (
        "Soulseek account",
        &[
            ("soulseek.username", "User name"),
            ("soulseek.password", "Password"),
            ("soulseek.description", "What others read about you"),
        ],
    ),
    (
        "Transfers",
        &[
            ("global.upload.slots", "Uploads at once"),
            ("global.upload.speed_limit", "Upload speed limit, KiB/s (0: none)"),
            ("global.download.slots", "Downloads at once"),
            ("global.download.speed_limit", "Download speed limit, KiB/s (0: none)"),
        ],
    ),
    (
        "Connection",
        &[
            ("soulseek.address", "Soulseek server"),
            ("soulseek.port", "Port of the Soulseek server"),
            ("soulseek.listen_port", "Port that others connect to"),
            ("soulseek.port_mapping", "Ask the router to open that port"),
        ],
    ),
];

#[derive(Template)]
#[template(path = "settings.html", config = "web-min/askama.toml")]
struct SettingsPage {
    head: Head,
    groups: Vec<Group>,
    rows: Vec<Row>,
    has_password: bool,
    /// Where the configuration sets it, if it does.
    set_by: Option<String>,
}

struct Group {
    title: &'static str,
    fields: Vec<Field>,
    /// One of them is not fixed.
    changeable: bool,
}

struct Field {
    key: &'static str,
    label: &'static str,
    value: String,
    secret: bool,
    /// May have several lines.
    long: bool,
    /// Lowest and highest number.
    range: Option<(u64, u64)>,
    /// The words there are.
    choices: &'static [&'static str],
    hint: String,
    /// What is set here would change nothing.
    fixed: bool,
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

fn field(key: &'static str, label: &'static str, settings: &[SettingView]) -> Option<Field> {
    let (setting, about) = (settings.iter().find(|setting| setting.key == key)?, keys::find(key)?);
    let long = key.ends_with("description");
    if !is_plain(setting, long) {
        return None;
    }
    let secret = about.kind == Kind::Secret;
    let hint = if setting.fixed {
        format!("Set by {}; change it there.", show::visible(&setting.source))
    } else if secret && !setting.value.is_empty() {
        "One is set. Leave this empty to keep it.".to_owned()
    } else if about.default.is_empty() || about.default == setting.value {
        String::new()
    } else {
        format!("Built in: {}", about.default)
    };
    Some(Field {
        key,
        label,
        value: if secret { String::new() } else { setting.value.clone() },
        secret,
        long,
        range: if let Kind::Number(low, high) = about.kind { Some((low, high)) } else { None },
        choices: if let Kind::Word(words) = about.kind { words } else { &[] },
        hint,
        fixed: setting.fixed,
    })
}

fn groups(settings: &[SettingView]) -> Vec<Group> {
    let group = |(title, fields): (&'static str, &[(&'static str, &'static str)])| {
        let fields: Vec<Field> = fields.iter().filter_map(|(key, label)| field(key, label, settings)).collect();
        Group { title, changeable: fields.iter().any(|field| !field.fixed), fields }
    };
    GROUPS.map(group).into_iter().filter(|group| !group.fields.is_empty()).collect()
}

pub(super) async fn show(desktop: Desktop) -> Response {
    let settings = answer_or_return!(desktop, desktop.web.desk.settings().await);
    let set_by = answer_or_return!(desktop, desktop.web.auth.set_by().await);
    html(&SettingsPage {
        head: desktop.head("Settings", "settings"),
        groups: groups(&settings),
        rows: settings
            .iter()
            .map(|setting| Row {
                key: show::visible(&setting.key),
                value: show::visible(&setting.value),
                source: show::visible(&setting.source),
            })
            .collect(),
        has_password: desktop.web.auth.has_password(),
        set_by: set_by.map(|source| show::visible(&source)),
    })
}

/// The change a field brought, if it brought one: its key with the new value, or with `None` for the built-in one.
fn change_of(field: &Field, given: &str) -> Option<(String, Option<String>)> {
    // Browsers send the line ends of old teleprinters.
    let given = given.replace("\r\n", "\n");
    if given == field.value.trim_end_matches('\n') || (field.secret && given.is_empty()) {
        None
    } else {
        Some((field.key.to_owned(), (!given.is_empty()).then_some(given)))
    }
}

/// Fields of one form, each named by its key.
pub(super) async fn change(desktop: Desktop, form: Fields) -> Response {
    let settings = answer_or_return!(desktop, desktop.web.desk.settings().await);
    let fields: Vec<Field> = groups(&settings).into_iter().flat_map(|group| group.fields).collect();
    let mut changes = Vec::new();
    for (key, given) in form.0.iter().filter(|(key, _)| key != "csrf") {
        let Some(field) = fields.iter().find(|field| field.key == key && !field.fixed) else {
            return desktop.problem(StatusCode::BAD_REQUEST, "this setting cannot be changed here");
        };
        changes.extend(change_of(field, given));
    }
    if changes.is_empty() {
        return desktop.done("/settings", "unchanged");
    }
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
        Err(why @ SignInError::Wrong) => {
            desktop.problem(sign_in::status_of(&why), "that is not the current password; nothing was changed")
        }
        Err(why) => desktop.problem(sign_in::status_of(&why), &show::visible(&why.to_string())),
    }
}

#[derive(Template)]
#[template(path = "problem.html", config = "web-min/askama.toml")]
pub(super) struct Farewell {
    pub head: Head,
    pub sentence: &'static str,
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
    fn an_empty_password_field_changes_nothing() {
        let setting = |key: &str, value: &str| SettingView {
            key: key.to_owned(),
            value: value.to_owned(),
            source: "built-in".to_owned(),
            fixed: false,
        };
        let settings = [setting("soulseek.password", "(set)"), setting("soulseek.description", "a\nb")];
        let [password, description] =
            ["soulseek.password", "soulseek.description"].map(|key| field(key, "", &settings).unwrap());
        assert_eq!((password.value.as_str(), change_of(&password, "")), ("", None));
        assert_eq!(change_of(&password, "x"), Some(("soulseek.password".to_owned(), Some("x".to_owned()))));
        let emptied = Some(("soulseek.description".to_owned(), None));
        assert_eq!((change_of(&description, "a\r\nb"), change_of(&description, "")), (None, emptied));
    }

    #[test]
    fn only_values_that_a_field_brings_back_whole_are_offered() {
        let offered = |key: &str, value: &str| {
            let (key, value) = (key.to_owned(), value.to_owned());
            groups(&[SettingView { key, value, source: "built-in".to_owned(), fixed: false }]).len() == 1
        };
        assert!(offered("soulseek.username", "me"));
        assert!(!offered("soulseek.username", "me\u{202e}"));
        assert!(offered("soulseek.description", "two\nlines\n"));
        assert!(!offered("soulseek.description", "a\0b"));
        assert!(!offered("web.port", "5030"));
    }
}
