//! `/login`, `/setup`, `/logout`.

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::web::auth::SignInError;
use crate::web::guard::By;
use crate::web::show;

use super::{Desktop, Fields, Head, html, sentence};

/// Seven days, as the session itself.
const COOKIE_AGE_S: u64 = 7 * 24 * 3600;

#[derive(Template)]
#[template(path = "sign_in.html", config = "web-min/askama.toml")]
struct SignInPage {
    head: Head,
    setup: bool,
    /// The set-up code is asked for.
    code: bool,
    problem: Option<String>,
}

pub(super) fn status_of(why: &SignInError) -> StatusCode {
    match why {
        SignInError::Wrong => StatusCode::UNAUTHORIZED,
        SignInError::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        SignInError::BadPassword => StatusCode::BAD_REQUEST,
        SignInError::AlreadySet | SignInError::Configured(_) => StatusCode::CONFLICT,
        SignInError::NotKept => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn form(desktop: &Desktop, setup: bool, problem: Option<&SignInError>) -> Response {
    let title = if setup { "Choose a password" } else { "Sign in" };
    let mut head = desktop.head(title, "");
    // The page is itself what the banner points to.
    head.no_password = false;
    let mut response = html(&SignInPage {
        head,
        setup,
        code: desktop.visit.locked,
        problem: problem.map(|why| match why {
            SignInError::Wrong if setup => "That is not the set-up code.".to_owned(),
            SignInError::Wrong => "That is not the password.".to_owned(),
            why => sentence(&show::visible(&why.to_string())),
        }),
    });
    if let Some(why) = problem {
        *response.status_mut() = status_of(why);
        if let SignInError::TooMany(wait) = why {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
    }
    response
}

fn with_cookie(desktop: &Desktop, mut response: Response, value: &str, age_s: u64) -> Response {
    let (name, base) = (desktop.visit.cookie_name(), &desktop.visit.base);
    let path = if base.is_empty() { "/" } else { base };
    let cookie = format!("{name}={value}; Path={path}; Max-Age={age_s}; HttpOnly; SameSite=Strict");
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Begins a session and goes to a page.
pub(super) async fn enter(desktop: &Desktop, to: &str, word: &'static str) -> Response {
    let response = if word.is_empty() { desktop.go(to) } else { desktop.done(to, word) };
    match desktop.web.auth.open_session().await {
        Ok(cookie) => with_cookie(desktop, response, &cookie, COOKIE_AGE_S),
        Err(why) => form(desktop, false, Some(&why)),
    }
}

pub(super) async fn show(desktop: Desktop) -> Response {
    if desktop.visit.locked {
        desktop.go("/setup")
    } else if desktop.visit.access.is_some() {
        desktop.go("/")
    } else {
        form(&desktop, false, None)
    }
}

pub(super) async fn sign_in(desktop: Desktop, fields: Fields) -> Response {
    match desktop.web.auth.sign_in(desktop.visit.address(), fields.get("password")).await {
        Ok(()) => enter(&desktop, "/", "").await,
        Err(why) => form(&desktop, false, Some(&why)),
    }
}

pub(super) async fn show_setup(desktop: Desktop) -> Response {
    if desktop.web.auth.has_password() { desktop.go("/login") } else { form(&desktop, true, None) }
}

pub(super) async fn set_up(desktop: Desktop, fields: Fields) -> Response {
    let new = fields.get("new");
    if new != fields.get("again") {
        return desktop.problem(StatusCode::BAD_REQUEST, "the two passwords are not the same");
    }
    // Whoever may change things already needs no code: the loopback bind, or a key of the administrator's.
    let owner = desktop.visit.access.as_ref().is_some_and(|a| a.role == crate::web::Role::Administrator);
    let code = (!owner).then(|| fields.get("code"));
    match desktop.web.auth.set_up(desktop.visit.address(), code, new).await {
        Ok(()) => enter(&desktop, "/", "password").await,
        Err(why) => form(&desktop, true, Some(&why)),
    }
}

pub(super) async fn sign_out(desktop: Desktop) -> Response {
    if let Some(By::Session(id)) = desktop.visit.access.as_ref().map(|access| &access.by) {
        desktop.web.auth.close_session(*id).await;
    }
    let response = desktop.done("/login", "signed_out");
    with_cookie(&desktop, response, "", 0)
}
