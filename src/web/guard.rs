//! What stands before every route: who is it, may they, and is it really them.
//!
//! A request is taken through the same gates whatever it asks for, so that no route can forget one:
//! 1. the path is brought into its one form;
//! 2. key, bearer token, session cookie, or the open loopback bind name the visitor;
//! 3. without key or token: the `Host` must be ours (else a foreign name was made to point at us), and an `Origin`,
//!    where sent, must be the same host;
//! 4. everything but [`PUBLIC`] needs somebody, and more than looking needs [`Role::Readwrite`] (routes ask for more);
//! 5. the body is read, within its limits;
//! 6. a change by cookie or on the open bind needs `Origin` or `Referer`, and a CSRF token in the form or in
//!    `X-CSRF-Token`. Tools on the open bind send none of `Origin`, `Referer`, `Cookie`; a browser always sends one on a
//!    cross-site change, so `/api/` lets those tools pass.
//!
//! Every answer, refusals included, carries the headers that keep a browser from being used against us. There are no
//! CORS headers at all.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::sync::SemaphorePermit;
use tower::ServiceExt;

use crate::model::limits;

use super::pages;
use super::server::Web;
use super::settings::Role;

/// Paths that ask for nobody. Of these, `/login`, `/setup` and the session of `/api/v0` check a password themselves.
pub const PUBLIC: [&str; 9] = [
    "/health",
    "/ready",
    "/login",
    "/setup",
    "/static/style.css",
    "/static/page.js",
    "/static/icon.svg",
    "/api/v0/session",
    "/api/v0/session/enabled",
];

/// Changes whose body is streamed to the disk instead of being read here: the owner's alone, with the CSRF token in the
/// address or in a header.
const STREAMED: [&str; 2] = ["/system/update", "/api/update"];

/// Bytes of a body from somebody not yet known: enough for a password. Longer ones count as large.
const STRANGERS_BODY: usize = 16 * 1024;
/// An overlong body is read on for so much, so that the refusal is heard; then the connection is closed.
const DRAIN: usize = 8 * limits::BODY_LEN;
const CSP: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                   form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// Over TCP.
    Tcp {
        remote: SocketAddr,
        local: SocketAddr,
        /// The listener is bound to a loopback address.
        loopback_bind: bool,
    },
    /// Over the control socket; the kernel told that it is our own user or root.
    Control,
}

/// How a visitor was known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Nobody is asked: loopback bind without a password, or authentication switched off.
    Open,
    /// A session cookie.
    Session(u128),
    /// An API key of this name.
    Key(String),
    /// A bearer token given to this name.
    Token(String),
    /// The control socket.
    Control,
}

/// Who asks, and what they may do. An extractor: routes that take it are for somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// What they may do.
    pub role: Role,
    /// How they were known.
    pub by: By,
}

impl Access {
    /// Whether the role is at least this one.
    pub fn require(&self, role: Role) -> Result<(), Denied> {
        if self.role >= role {
            Ok(())
        } else {
            Err(Denied(StatusCode::FORBIDDEN, format!("this needs the role {}", role.name())))
        }
    }

    /// Whether it is the owner: by password (session or token), on the open bind, or over the control socket; not by
    /// key.
    pub fn is_owner(&self) -> bool {
        !matches!(self.by, By::Key(_))
    }
}

/// What the guard learnt about a request. An extractor, for routes that are for everybody.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Who, if anybody.
    pub access: Option<Access>,
    /// The token that forms must bring back.
    pub csrf: String,
    /// From where; `None` over the control socket.
    pub from: Option<IpAddr>,
    /// No password is set and this bind needs one.
    pub locked: bool,
    /// Our port, part of the cookie's name: cookies do not know ports, and two of us may run on one box.
    pub port: u16,
    /// Path prefix of all links.
    pub base: String,
}

impl Visit {
    /// Name of the session cookie.
    pub fn cookie_name(&self) -> String {
        format!("slskdn_{}", self.port)
    }

    /// The address for counting tries; the control socket counts as loopback.
    pub fn address(&self) -> IpAddr {
        self.from.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
    }
}

/// A refusal with its reason, as plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied(pub StatusCode, pub String);

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

fn denied<T>(status: StatusCode, why: impl Into<String>) -> Result<T, Denied> {
    Err(Denied(status, why.into()))
}

impl<S: Send + Sync> FromRequestParts<S> for Visit {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Denied> {
        let visit = parts.extensions.get::<Self>().cloned();
        visit.ok_or_else(|| Denied(StatusCode::UNAUTHORIZED, "nobody was let in".to_owned()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Access {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Denied> {
        let access = parts.extensions.get::<Visit>().and_then(|visit| visit.access.clone());
        access.ok_or_else(|| Denied(StatusCode::UNAUTHORIZED, "sign in first".to_owned()))
    }
}

/// Takes one request through the gates and gives its answer.
pub(crate) async fn answer(web: Arc<Web>, router: Router, peer: Peer, request: Request<Incoming>) -> Response {
    let (mut parts, body) = request.into_parts();
    let path = normalise(&mut parts.uri, &web.settings.url_base);
    let mut visit = None;
    let outcome = match &path {
        Ok(path) => admit(&web, peer, &parts, path, body, &mut visit).await,
        Err(denied) => Err(denied.clone()),
    };
    let path = path.unwrap_or_default();
    let mut response = match (outcome, visit) {
        // The permit of a large body lasts as long as the body is of use.
        (Ok((body, _large)), Some(visit)) => {
            parts.extensions.insert(visit);
            let request = Request::from_parts(parts, body);
            let handled = AssertUnwindSafe(router.oneshot(request)).catch_unwind().await;
            handled.map_or_else(
                |_| {
                    web.counts.panics.fetch_add(1, Relaxed);
                    tracing::error!(path, "a handler panicked");
                    Denied(StatusCode::INTERNAL_SERVER_ERROR, "something broke here; the log says more".to_owned())
                        .into_response()
                },
                |served: Result<Response, Infallible>| served.unwrap_or_else(|never| match never {}),
            )
        }
        (outcome, visit) => {
            web.counts.refused.fetch_add(1, Relaxed);
            let denied = outcome.err().unwrap_or(Denied(StatusCode::BAD_REQUEST, "bad request".to_owned()));
            refuse(&web, &path, visit, denied)
        }
    };
    web.counts.answered(response.status().as_u16());
    protect(response.headers_mut());
    response
}

fn protect(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Not `no-referrer`: that would make browsers send `Origin: null` with our own forms.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    let policy = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(policy, HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// Programs get plain text; people get a page, and the way to the door.
fn refuse(web: &Arc<Web>, path: &str, visit: Option<Visit>, denied: Denied) -> Response {
    let for_programs = path.is_empty()
        || path.starts_with("/api/")
        || path.starts_with("/static/")
        || matches!(path, "/api" | "/metrics" | "/health" | "/ready");
    let mut response = match visit {
        Some(visit) if !for_programs && denied.0 == StatusCode::UNAUTHORIZED => {
            pages::redirect(&visit.base, if visit.locked { "/setup" } else { "/login" })
        }
        Some(visit) if !for_programs => pages::problem(web, &visit, denied.0, &denied.1),
        _ => denied.into_response(),
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Brings the path into its one form: without the proxy's prefix, without doubled or trailing slashes. Percent signs
/// are left alone: segments are decoded one by one, after routing.
fn normalise(uri: &mut Uri, base: &str) -> Result<String, Denied> {
    let path = uri.path();
    if !path.starts_with('/') {
        return denied(StatusCode::BAD_REQUEST, "the path must begin with /");
    }
    let path = match path.strip_prefix(base) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => path,
    };
    let mut clean = String::with_capacity(path.len() + 1);
    for part in path.split('/').filter(|part| !part.is_empty()) {
        clean.push('/');
        clean.push_str(part);
    }
    if clean.is_empty() {
        clean.push('/');
    }
    let target = uri.query().map_or_else(|| clean.clone(), |query| format!("{clean}?{query}"));
    match target.parse::<PathAndQuery>() {
        Ok(target) => *uri = Uri::from(target),
        Err(_) => return denied(StatusCode::BAD_REQUEST, "the path makes no sense"),
    }
    Ok(clean)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Gates 2 to 6. Fills `visit` as soon as it is known, for the refusal's page.
async fn admit<'w>(
    web: &'w Arc<Web>,
    peer: Peer,
    parts: &Parts,
    path: &str,
    body: Incoming,
    visit: &mut Option<Visit>,
) -> Result<(Body, Option<SemaphorePermit<'w>>), Denied> {
    let public = PUBLIC.contains(&path);
    let is_change = !matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let seen = identify(web, peer, &parts.headers);
    let known_by_secret = matches!(seen.access, Some(Access { by: By::Key(_) | By::Token(_) | By::Control, .. }));
    let access = seen.access.clone();
    let csrf = seen.csrf.clone();
    if known_by_secret {
        *visit = Some(seen);
    } else {
        check_host(web, peer, parts)?;
        // Only now: a page of ours is not shown under a foreign name.
        *visit = Some(seen);
        check_origin(web, &parts.headers, is_change)?;
    }
    let body_limit = match &access {
        Some(access) if is_change && !public => {
            access.require(Role::Readwrite)?;
            limits::BODY_LEN
        }
        Some(_) => limits::BODY_LEN,
        None if public => STRANGERS_BODY,
        None => return denied(StatusCode::UNAUTHORIZED, "sign in first"),
    };
    let is_api = path.starts_with("/api/");
    let lone_tool = matches!(&access, Some(Access { by: By::Open, .. }))
        && ![header::ORIGIN, header::REFERER, header::COOKIE].iter().any(|name| parts.headers.contains_key(name));
    let must_prove = is_change && !known_by_secret && !(is_api && (public || lone_tool));
    if STREAMED.contains(&path) && is_change {
        if let Some(access) = &access {
            access.require(Role::Administrator)?;
        }
        if must_prove {
            prove(parts, address_token(parts), &csrf)?;
        }
        return Ok((Body::new(body), None));
    }
    let is_large =
        body_limit > STRANGERS_BODY && body.size_hint().exact().is_none_or(|len| len > STRANGERS_BODY as u64);
    let large = if is_large { web.bodies.acquire().await.ok() } else { None };
    let bytes = read_body(&parts.headers, body, body_limit, web.settings.body_timeout).await?;
    if must_prove {
        prove(parts, form_token(parts, &bytes), &csrf)?;
    }
    Ok((Body::from(bytes), large))
}

/// A change comes from a page of ours: it says from where, and brings the token, `given` or in a header.
fn prove(parts: &Parts, given: Option<&str>, csrf: &str) -> Result<(), Denied> {
    if text(&parts.headers, header::ORIGIN).or_else(|| text(&parts.headers, header::REFERER)).is_none() {
        return denied(StatusCode::FORBIDDEN, "a change must say where it comes from (Origin or Referer)");
    }
    let given = text(&parts.headers, HeaderName::from_static("x-csrf-token")).or(given);
    if !given.is_some_and(|given| super::token::same(given, csrf)) {
        return denied(StatusCode::FORBIDDEN, "the form is out of date: go back, load the page again, try again");
    }
    Ok(())
}

fn address_token(parts: &Parts) -> Option<&str> {
    parts.uri.query()?.split('&').find_map(|pair| pair.strip_prefix("csrf="))
}

fn identify(web: &Web, peer: Peer, headers: &HeaderMap) -> Visit {
    let base = web.settings.url_base.clone();
    let Peer::Tcp { remote, local, loopback_bind } = peer else {
        let access = Some(Access { role: Role::Administrator, by: By::Control });
        return Visit { access, csrf: String::new(), from: None, locked: false, port: 0, base };
    };
    let from = Some(remote.ip().to_canonical());
    let open = !web.settings.authentication || (loopback_bind && !web.auth.has_password());
    let locked = !open && !web.auth.has_password();
    let mut visit = Visit { access: None, csrf: web.auth.csrf(None), from, locked, port: local.port(), base };
    let bearer = text(headers, header::AUTHORIZATION).and_then(|value| {
        value.get(..7).filter(|word| word.eq_ignore_ascii_case("bearer ")).map(|_| value[7..].trim())
    });
    if let Some(given) = text(headers, HeaderName::from_static("x-api-key")) {
        // A wrong key is a wrong key, also where none is needed: the sender believes in it.
        visit.access = web.auth.key(given, from).map(|key| Access { role: key.role, by: By::Key(key.name.clone()) });
    } else if let Some(given) = bearer {
        visit.access =
            web.auth.check_token(given).map(|name| Access { role: Role::Administrator, by: By::Token(name) });
    } else if let Some(session) = cookie(headers, &visit.cookie_name()).and_then(|value| web.auth.session(value)) {
        visit.csrf = web.auth.csrf(Some(session));
        visit.access = Some(Access { role: Role::Administrator, by: By::Session(session) });
    } else if open {
        visit.access = Some(Access { role: Role::Administrator, by: By::Open });
    }
    visit
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// The host of `host:port`, without the brackets of IPv6 and without a closing dot.
fn host_of(authority: &str) -> &str {
    let host = if let Some(rest) = authority.strip_prefix('[') {
        rest.split(']').next().unwrap_or(rest)
    } else {
        authority.rsplit_once(':').map_or(authority, |(host, _)| host)
    };
    host.strip_suffix('.').unwrap_or(host)
}

/// Whether a host is called so. Of two boxes with one name on a network systemd-resolved gives one a number:
/// `slskdn7.local`.
fn is_name(host: &str, name: &str) -> bool {
    fn plain(name: &str) -> Option<&str> {
        let (name, domain) = name.split_at_checked(name.len().checked_sub(".local".len())?)?;
        domain.eq_ignore_ascii_case(".local").then(|| name.trim_end_matches(|c: char| c.is_ascii_digit()))
    }
    let is_numbered =
        || matches!((plain(host), plain(name)), (Some(host), Some(name)) if host.eq_ignore_ascii_case(name));
    name.eq_ignore_ascii_case(host) || is_numbered()
}

fn check_host(web: &Web, peer: Peer, parts: &Parts) -> Result<(), Denied> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|value| value.to_str().ok());
    let (Some(authority), None) = (host, hosts.next()) else {
        return denied(StatusCode::BAD_REQUEST, "a request must name one host");
    };
    let host = host_of(authority);
    let ours = match (host.parse::<IpAddr>(), peer) {
        (Ok(ip), Peer::Tcp { local, .. }) => ip.is_loopback() || ip == local.ip().to_canonical(),
        (Ok(_), Peer::Control) => true,
        (Err(_), _) => false,
    };
    if ours || web.hosts.iter().any(|name| is_name(host, name)) {
        Ok(())
    } else {
        denied(StatusCode::FORBIDDEN, "this host name is not one of ours; web.allowed_hosts can add it")
    }
}

/// `Origin` must be the host that is addressed, or a host the owner listed (behind a proxy the two may differ). For a
/// change `Referer` stands in where there is no `Origin`; a mere look may come from a link on another site.
fn check_origin(web: &Web, headers: &HeaderMap, is_change: bool) -> Result<(), Denied> {
    let referer = || headers.get(header::REFERER).filter(|_| is_change);
    let Some(value) = headers.get(header::ORIGIN).or_else(referer) else { return Ok(()) };
    let authority = value
        .to_str()
        .ok()
        .and_then(|url| url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")))
        .map(|rest| rest.split(['/', '?', '#']).next().unwrap_or(rest));
    let host = text(headers, header::HOST).unwrap_or_default();
    let same = authority.is_some_and(|authority| {
        authority.eq_ignore_ascii_case(host)
            || web.settings.allowed_hosts.iter().any(|name| name.eq_ignore_ascii_case(host_of(authority)))
    });
    if same { Ok(()) } else { denied(StatusCode::FORBIDDEN, "this request comes from another site") }
}

fn form_token<'a>(parts: &Parts, body: &'a Bytes) -> Option<&'a str> {
    let kind = text(&parts.headers, header::CONTENT_TYPE)?;
    if !kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded") {
        return None;
    }
    std::str::from_utf8(body).ok()?.split('&').find_map(|pair| pair.strip_prefix("csrf="))
}

async fn read_body(headers: &HeaderMap, body: Incoming, limit: usize, within: Duration) -> Result<Bytes, Denied> {
    let too_long = || Denied(StatusCode::PAYLOAD_TOO_LARGE, format!("a body may have {limit} bytes at most"));
    let stated = text(headers, header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    let hopeless = stated.is_some_and(|length| length > DRAIN)
        || (stated.is_some_and(|length| length > limit) && headers.contains_key(header::EXPECT));
    if hopeless {
        return Err(too_long());
    }
    let whole = async {
        let mut bytes = Vec::new();
        let mut body = Limited::new(body, DRAIN);
        let mut length = 0_usize;
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(problem) if problem.is::<LengthLimitError>() => return Err(too_long()),
                Err(_) => return denied(StatusCode::BAD_REQUEST, "the body broke off"),
            };
            let Ok(data) = frame.into_data() else { continue };
            length = length.saturating_add(data.len());
            if length <= limit {
                bytes.extend_from_slice(&data);
            } else {
                bytes = Vec::new();
            }
        }
        if length > limit { Err(too_long()) } else { Ok(Bytes::from(bytes)) }
    };
    let late = denied(StatusCode::REQUEST_TIMEOUT, "the body took too long");
    tokio::time::timeout(within, whole).await.unwrap_or(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_form() {
        let check = |from: &str, base: &str, to: &str| {
            let mut uri: Uri = from.parse().unwrap();
            assert_eq!(normalise(&mut uri, base).unwrap(), to.split('?').next().unwrap(), "{from}");
            assert_eq!(uri.to_string(), to);
        };
        check("/", "", "/");
        check("//", "", "/");
        check("/api/v0/options/", "", "/api/v0/options");
        check("/users//a%2Fb/?x=%2F/", "", "/users/a%2Fb?x=%2F/");
        check("/music", "/music", "/");
        check("/music/search/?q=a", "/music", "/search?q=a");
        check("/musical", "/music", "/musical");
        check("http://host/api//x/", "", "/api/x");
    }

    #[test]
    fn hosts_are_read_with_and_without_port() {
        for (authority, host) in [
            ("localhost", "localhost"),
            ("localhost:5030", "localhost"),
            ("[::1]:5030", "::1"),
            ("[::1]", "::1"),
            ("box.local.", "box.local"),
            ("", ""),
        ] {
            assert_eq!(host_of(authority), host);
        }
    }

    #[test]
    fn a_box_that_was_given_a_number_is_the_same_box() {
        for (host, name) in
            [("slskdn7.local", "slskdn.local"), ("Box12.LOCAL", "box2.local"), ("localhost", "LOCALHOST")]
        {
            assert!(is_name(host, name), "{host}");
        }
        for (host, name) in
            [("slskdn7", "slskdn"), ("slskdn.evil", "slskdn.local"), ("a7.local", "b.local"), ("é", "a.local")]
        {
            assert!(!is_name(host, name), "{host}");
        }
    }

    #[test]
    fn cookies_are_found_by_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("xslskdn_1=no; slskdn_12=no; slskdn_1=yes"));
        assert_eq!(cookie(&headers, "slskdn_1"), Some("yes"));
        assert_eq!(cookie(&headers, "slskdn_2"), None);
    }
}
