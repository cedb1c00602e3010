//! The page and the API, driven over sockets by hand-made requests.

mod client;
mod desk;
mod passwords;

use std::time::Duration;

use slskdn::model::id::{IssueId, TransferId, Username};
use slskdn::model::limits;
use slskdn::model::repair::RepairRequest;
use slskdn::model::transfer::Direction;
use slskdn::model::view::{Event, Request};
use slskdn::web::guard::PUBLIC;
use slskdn::web::routes::{self, Route};
use slskdn::web::{Desk, Role, Server, WebSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use client::{
    ADMINISTRATOR, Answer, House, PASSWORD, Plan, READONLY, READWRITE, exchange, over_socket, request, token_of,
};
use desk::{DOWNLOAD, EVIL, KNOWN, SEARCH};

/// A long wait that only a broken server reaches.
const FOREVER: Duration = Duration::from_secs(60);

/// A path of the table with its names filled in by things that are there.
fn real(row: &Route) -> String {
    let id = if row.path.contains("loads/") {
        DOWNLOAD
    } else if row.path.contains("wishlist") {
        "5"
    } else {
        SEARCH
    };
    row.path.replace("{id}", id).replace("{name}", "some%20one")
}

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

#[tokio::test]
async fn strangers_reach_nothing_by_any_method() {
    let house = House::with_password().await;
    house.told.orders();
    let mut paths: Vec<String> = routes::table().iter().map(real).collect();
    paths.extend(["/nowhere", "/api/nowhere", "/api", "/api/v0/application"].map(str::to_owned));
    for path in &paths {
        for method in METHODS {
            let origin = house.origin();
            let answer = house.send(method, path, &[("Origin", &origin)], "").await;
            let what = format!("{method} {path}: {} {}", answer.status, answer.body);
            answer.check_protection(&what);
            let is_change = !matches!(method, "GET" | "HEAD" | "OPTIONS");
            if PUBLIC.contains(&path.as_str()) {
                assert!(is_change || answer.status != 401, "{what}");
                assert!(!is_change || (400..500).contains(&answer.status), "{what}");
            } else if path.starts_with("/api") || path == "/metrics" {
                assert_eq!(answer.status, 401, "{what}");
                assert!(!answer.body.contains("alert"), "{what}");
            } else {
                assert_eq!((answer.status, answer.header("location")), (303, Some("/login")), "{what}");
            }
        }
    }
    assert!(house.told.orders().is_empty(), "a stranger changed something");
}

#[tokio::test]
async fn roles_bound_what_a_key_may_do() {
    let house = House::with_password().await;
    for row in routes::table() {
        let Some(least) = row.role else { continue };
        if row.path == "/api/events" {
            continue;
        }
        for (role, key) in
            [(Role::Readonly, READONLY), (Role::Readwrite, READWRITE), (Role::Administrator, ADMINISTRATOR)]
        {
            let answer = house.send(row.method, &real(&row), &[("X-API-Key", key)], "").await;
            let what = format!("{} {} as {role:?}: {} {}", row.method, row.path, answer.status, answer.body);
            answer.check_protection(&what);
            assert_eq!(answer.status == 403, role < least, "{what}");
            assert!(answer.status != 401 && answer.status != 405 && answer.status < 500, "{what}");
        }
    }
}

#[tokio::test]
async fn every_described_endpoint_is_there() {
    let house = House::open().await;
    let document: serde_json::Value =
        serde_json::from_str(&house.get("/api/openapi.json", &[]).await.body).expect("JSON");
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 30, "{}", paths.len());
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            if path == "/api/events" {
                continue;
            }
            let row = routes::table().into_iter().find(|row| row.path == path).unwrap();
            let answer = house.send(&method.to_ascii_uppercase(), &real(&row), &[], "").await;
            assert!(answer.status != 405 && answer.status < 500, "{method} {path}: {}", answer.status);
            assert!(!answer.body.contains("no such endpoint"), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn keys_count_only_where_they_are_welcome() {
    let house = House::with_password().await;
    let ask = async |key: &'static str| house.get("/api/status", &[("X-API-Key", key)]).await.status;
    assert_eq!(ask(READONLY).await, 200);
    assert_eq!(ask("key-for-far-away-only").await, 401);
    assert_eq!(ask("wrong").await, 401);
    // A key needs neither our name nor a form's token.
    let headers = [("X-API-Key", READWRITE), ("Host", "somewhere.else")];
    assert_eq!(house.send("POST", "/api/shares/rescan", &headers, "").await.status, 204);
    assert_eq!(house.told.orders(), [Request::Rescan(None)]);
}

#[tokio::test]
async fn bearer_tokens_work_for_seven_days() {
    let house = House::with_password().await;
    let token = house.server.web().auth.issue_token("tool").token;
    let bearer = format!("Bearer {token}");
    let answer = house.send("POST", "/api/connect", &[("Authorization", &bearer)], "").await;
    assert_eq!(answer.status, 204, "{}", answer.body);
    house.pass(Duration::from_secs(7 * 24 * 3600));
    assert_eq!(house.get("/api/status", &[("Authorization", &bearer)]).await.status, 401);
}

#[tokio::test]
async fn a_session_is_a_strict_cookie() {
    let house = House::with_password().await;
    let csrf = token_of(&house.get("/login", &[]).await);
    let wrong = house.form("/login", "", &csrf, "password=wrong+password").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    let right = house.form("/login", "", &csrf, "password=correct+horse+battery").await;
    let cookie = right.header("set-cookie").unwrap();
    for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age=604800"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let value = cookie.split(';').next().unwrap();
    assert_eq!(house.get("/", &[("Cookie", value)]).await.status, 200);
    let forged = value.replace(&value[value.len() - 3..], "AAA");
    assert_eq!(house.get("/", &[("Cookie", &forged)]).await.status, 303);
    house.pass(Duration::from_secs(7 * 24 * 3600));
    assert_eq!(house.get("/", &[("Cookie", value)]).await.status, 303, "expired");
}

#[tokio::test]
async fn signing_out_ends_the_session_itself() {
    let house = House::with_password().await;
    let (cookie, csrf) = house.sign_in().await;
    let answer = house.form("/logout", &cookie, &csrf, "").await;
    assert_eq!(answer.status, 303);
    assert_eq!(house.get("/", &[("Cookie", &cookie)]).await.status, 303);
}

#[tokio::test]
async fn a_new_password_ends_other_sessions_and_tokens() {
    let house = House::with_password().await;
    let (old, _) = house.sign_in().await;
    let (cookie, csrf) = house.sign_in().await;
    let bearer = format!("Bearer {}", house.server.web().auth.issue_token("tool").token);
    let fields = "current=correct+horse+battery&new=another+password&again=another+password";
    let answer = house.form("/settings/password", &cookie, &csrf, fields).await;
    assert_eq!(answer.status, 303, "{}", answer.body);
    assert_eq!(house.get("/", &[("Cookie", &old)]).await.status, 303);
    assert_eq!(house.get("/api/status", &[("Authorization", &bearer)]).await.status, 401);
    let fresh = answer.header("set-cookie").unwrap().split(';').next().unwrap();
    assert_eq!(house.get("/", &[("Cookie", fresh)]).await.status, 200);
}

#[tokio::test]
async fn sessions_outlive_a_restart() {
    let house = House::with_password().await;
    let (cookie, _) = house.sign_in().await;
    let kept = house.told.values.lock().unwrap().clone();
    let again = House::open().await;
    again.told.values.lock().unwrap().extend(kept);
    let settings = again.server.web().settings.clone();
    let auth = slskdn::web::Auth::load(again.server.web().desk.clone(), &settings).await.unwrap();
    assert!(auth.has_password() && auth.setup_code().is_none());
    assert!(auth.session(cookie.split_once('=').unwrap().1).is_some());
}

#[tokio::test]
async fn changes_by_cookie_need_the_token_and_the_origin() {
    let house = House::with_password().await;
    let (cookie, csrf) = house.sign_in().await;
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let own = house.origin();
    let post = async |headers: Vec<(&'static str, String)>, body: String| {
        let mut all = vec![("Cookie", cookie.as_str()), form];
        all.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
        house.send("POST", "/shares/rescan", &all, &body).await.status
    };
    let good = format!("csrf={csrf}");
    assert_eq!(post(vec![("Origin", own.clone())], good.clone()).await, 303);
    assert_eq!(post(vec![("Referer", format!("{own}/shares"))], good.clone()).await, 303);
    assert_eq!(post(vec![("Origin", own.clone()), ("X-CSRF-Token", csrf.clone())], String::new()).await, 303);
    assert_eq!(post(vec![("Origin", "https://music.example.org".to_owned())], good.clone()).await, 303);
    assert_eq!(house.told.orders().len(), 4);
    let wrong = format!("csrf={}x", &csrf[1..]);
    for (headers, body, why) in [
        (vec![("Origin", own.clone())], String::new(), "no token"),
        (vec![("Origin", own.clone())], wrong, "a wrong token"),
        (vec![], good.clone(), "neither Origin nor Referer"),
        (vec![("Origin", "http://evil.example".to_owned())], good.clone(), "a foreign Origin"),
        (vec![("Origin", "null".to_owned())], good.clone(), "no real Origin"),
        (vec![("Origin", "http://127.0.0.1:1".to_owned())], good.clone(), "another port"),
        (vec![("Referer", "http://evil.example/".to_owned())], good.clone(), "a foreign Referer"),
        (vec![("Origin", format!("http://evil.example/{own}"))], good.clone(), "our name in a path"),
    ] {
        assert_eq!(post(headers, body).await, 403, "{why}");
    }
    assert!(house.told.orders().is_empty());
    let api = [("Cookie", cookie.as_str()), ("Origin", own.as_str())];
    assert_eq!(house.send("POST", "/api/shares/rescan", &api, "").await.status, 403, "the API by cookie, too");
}

#[tokio::test]
async fn the_login_form_needs_its_token_too() {
    let house = House::with_password().await;
    let answer = house.form("/login", "", "", "password=correct+horse+battery").await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn only_our_names_are_answered() {
    let house = House::open().await;
    let port = house.address.port();
    for host in ["localhost".to_owned(), format!("127.0.0.1:{port}"), "[::1]:80".into(), "SLSKDN.local".into()] {
        assert_eq!(house.get("/", &[("Host", &host)]).await.status, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "203.0.113.9", "", "127.0.0.1.nip.io"] {
        for (method, path) in [("GET", "/"), ("GET", "/health"), ("POST", "/api/connect"), ("DELETE", "/api/downloads")]
        {
            let text = request("x", method, path, &[], "").replace("Host: x", &format!("Host: {host}"));
            let answer = exchange(TcpStream::connect(house.address).await.unwrap(), &text).await;
            assert_eq!(answer.status, 403, "{method} {path} {host}");
            answer.check_protection(host);
            assert!(!answer.body.contains("alert"), "{host}");
        }
    }
    let twice = "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(TcpStream::connect(house.address).await.unwrap(), twice).await.status, 400);
    assert!(house.told.orders().is_empty());
}

#[tokio::test]
async fn a_foreign_origin_is_refused_on_every_method() {
    let house = House::open().await;
    for row in routes::table() {
        let answer = house.send(row.method, &real(&row), &[("Origin", "http://evil.example")], "").await;
        assert_eq!(answer.status, 403, "{} {}", row.method, row.path);
    }
    // A link on another site leads here without harm.
    assert_eq!(house.get("/", &[("Referer", "http://evil.example/")]).await.status, 200);
    assert!(house.told.orders().is_empty());
}

#[tokio::test]
async fn on_the_open_bind_tools_pass_and_browsers_need_the_token() {
    let house = House::open().await;
    assert!(house.server.setup_code().is_none());
    let page = house.get("/", &[]).await;
    assert!(page.body.contains("No password is set"));
    let csrf = token_of(&page);
    assert_eq!(house.send("POST", "/api/connect", &[], "").await.status, 204, "a tool");
    assert_eq!(house.send("POST", "/connect", &[], "").await.status, 403, "a page is no tool's");
    let own = house.origin();
    assert_eq!(house.send("POST", "/api/connect", &[("Origin", &own)], "").await.status, 403, "a browser");
    assert_eq!(house.send("POST", "/api/connect", &[("Cookie", "a=b")], "").await.status, 403, "a browser");
    assert_eq!(house.form("/connect", "", &csrf, "").await.status, 303);
    assert_eq!(house.told.orders(), [Request::Connect, Request::Connect]);
    let set = house.form("/setup", "", &csrf, "new=a+new+password&again=a+new+password").await;
    assert_eq!(set.status, 303, "{}", set.body);
    assert_eq!(house.send("POST", "/api/connect", &[], "").await.status, 401, "closed from now on");
}

#[tokio::test]
async fn a_reachable_bind_is_locked_until_the_code_is_used() {
    let house = House::build(Plan { bind: "0.0.0.0", password: false, ..Plan::default() }).await;
    let code = house.server.setup_code().expect("a code");
    assert_eq!(house.get("/", &[]).await.header("location"), Some("/setup"));
    assert_eq!(house.get("/login", &[]).await.header("location"), Some("/setup"));
    assert_eq!(house.send("POST", "/api/connect", &[], "").await.status, 401);
    let csrf = token_of(&house.get("/setup", &[]).await);
    let try_code = async |code: &str, new: &str| {
        house.form("/setup", "", &csrf, &format!("code={code}&new={new}&again={new}")).await
    };
    assert_eq!(try_code("xxxxx-xxxxx", "long+enough").await.status, 401);
    assert_eq!(try_code(&code, "short").await.status, 400);
    let done = try_code(&code.to_uppercase().replace('-', "+"), "long+enough").await;
    assert_eq!(done.status, 303, "{}", done.body);
    let cookie = done.header("set-cookie").unwrap().split(';').next().unwrap();
    assert_eq!(house.get("/", &[("Cookie", cookie)]).await.status, 200);
    assert_eq!(house.server.setup_code(), None);
    let csrf = token_of(&house.get("/login", &[]).await);
    let again = house.form("/setup", "", &csrf, &format!("code={code}&new=long+enough&again=long+enough")).await;
    assert_eq!(again.status, 409, "a code is used once");
    let kept = house.told.values.lock().unwrap().get("web.password").cloned().unwrap();
    assert!(kept.starts_with(b"$argon2id$"), "the password itself is not kept");
}

#[tokio::test]
async fn five_wrong_passwords_close_the_door_for_a_quarter_of_an_hour() {
    let house = House::with_password().await;
    let csrf = token_of(&house.get("/login", &[]).await);
    for _ in 0..5 {
        assert_eq!(house.form("/login", "", &csrf, "password=wrong").await.status, 401);
    }
    let right = "password=correct+horse+battery";
    let closed = house.form("/login", "", &csrf, right).await;
    assert_eq!((closed.status, closed.header("retry-after")), (429, Some("900")));
    house.pass(Duration::from_secs(15 * 60));
    assert_eq!(house.form("/login", "", &csrf, right).await.status, 303);
}

#[tokio::test]
async fn bodies_are_bounded() {
    let house = House::open().await;
    let json = ("Content-Type", "application/json");
    let long = format!("{{\"text\":\"{}\"}}", "a".repeat(limits::BODY_LEN));
    assert_eq!(house.send("POST", "/api/searches", &[json], &long).await.status, 413);
    let head = "POST /api/searches HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n";
    let stream = TcpStream::connect(house.address).await.unwrap();
    let answer = exchange(stream, &head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
    assert_eq!(answer.status, 413);
    let stranger = House::with_password().await;
    assert_eq!(stranger.send("POST", "/login", &[], &"a".repeat(20_000)).await.status, 413);
    assert_eq!(stranger.send("POST", "/api/searches", &[json], &long).await.status, 401, "not even read");
}

#[tokio::test]
async fn slow_and_idle_callers_are_dropped_and_block_nobody() {
    let house = House::build(Plan { header_timeout: Duration::from_millis(100), ..Plan::default() }).await;
    let mut idle = Vec::new();
    for n in 0..40 {
        let mut stream = TcpStream::connect(house.address).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: loc").await.unwrap();
        }
        idle.push(stream);
    }
    let answer = tokio::time::timeout(FOREVER, house.get("/health", &[])).await.expect("not blocked");
    assert_eq!(answer.status, 200);
    for mut stream in idle {
        let mut rest = Vec::new();
        tokio::time::timeout(FOREVER, stream.read_to_end(&mut rest)).await.expect("dropped").ok();
    }
}

#[tokio::test]
async fn paths_have_one_form() {
    let house = House::build(Plan { password: false, url_base: "/music", ..Plan::default() }).await;
    for path in ["/api/status", "/api/status/", "//api///status//", "/music/api/status", "/music/api/status/?x=1"] {
        assert_eq!(house.get(path, &[]).await.status, 200, "{path}");
    }
    let page = house.get("/music/", &[]).await;
    assert!(page.body.contains("href=\"/music/search\"") && !page.body.contains("href=\"/search\""));
    assert_eq!(house.get("/api/searches/x%2F..", &[]).await.status, 400);
}

#[tokio::test]
async fn events_reach_a_bounded_number_of_listeners() {
    let house = House::open().await;
    let ask = request("localhost", "GET", "/api/events", &[], "");
    let mut streams = Vec::new();
    for _ in 0..limits::EVENT_STREAMS {
        let mut stream = TcpStream::connect(house.address).await.unwrap();
        stream.write_all(ask.as_bytes()).await.unwrap();
        read_until(&mut stream, "event: status").await;
        streams.push(stream);
    }
    assert_eq!(house.get("/api/events", &[]).await.status, 503);
    assert!(house.get("/metrics", &[]).await.body.contains("slskdn_web_event_streams 16\n"));
    house.events.send(Event::Transfer(TransferId(1), Direction::Upload)).unwrap();
    let text = read_until(&mut streams[3], "\"direction\":\"upload\"").await;
    assert!(text.contains("event: transfer\n"), "{text}");
    house.stop.cancel();
    tokio::time::timeout(FOREVER, house.server.stopped()).await.expect("streams end when we stop");
}

async fn read_until(stream: &mut TcpStream, mark: &str) -> String {
    let mut text = String::new();
    let mut block = [0; 4096];
    while !text.contains(mark) {
        let n = tokio::time::timeout(FOREVER, stream.read(&mut block)).await.expect("an event").expect("bytes");
        assert!(n > 0, "ended after {text}");
        text.push_str(&String::from_utf8_lossy(&block[..n]));
    }
    text
}

/// Every page there is, with what a person sees on it.
fn pages() -> Vec<String> {
    let evil = percent_encoding::utf8_percent_encode(EVIL, percent_encoding::NON_ALPHANUMERIC).to_string();
    let mut pages: Vec<String> =
        routes::table().iter().filter(|r| r.method == "GET" && !r.path.starts_with("/api/")).map(real).collect();
    pages.extend([
        format!("/users/{evil}"),
        format!("/users/{evil}/browse?words={evil}"),
        format!("/users/{evil}/folder?folder=U2hhcmVcRm9sZGVyIDE"),
        format!("/downloads?user={evil}"),
        format!("/search?done={evil}"),
        format!("/log?level={evil}&page={evil}"),
        format!("/nowhere/{evil}"),
    ]);
    pages
}

#[tokio::test]
async fn hostile_names_stay_text_on_every_page() {
    let house = House::open().await;
    let list = house.server.web().desk.browse(Username::from(EVIL)).await.unwrap();
    assert_eq!(list.folders, 250);
    let csrf = token_of(&house.get("/", &[]).await);
    let evil = percent_encoding::utf8_percent_encode(EVIL, percent_encoding::NON_ALPHANUMERIC).to_string();
    assert_eq!(house.form(&format!("/users/{evil}/browse"), "", &csrf, "").await.status, 303);
    let mut seen = 0;
    for path in pages() {
        let answer = house.get(&path, &[]).await;
        answer.check_protection(&path);
        check_markup(&path, &answer);
        seen += usize::from(answer.body.contains("&#60;script&#62;alert(1)") || answer.body.contains("&lt;script"));
    }
    assert!(seen >= 10, "the names are shown, on {seen} pages");
    let asked = house.form("/downloads", "", &csrf, &format!("ask={DOWNLOAD}")).await;
    check_markup("confirm", &asked);
    let refused = house.form("/search", "", &csrf, "text=full").await;
    assert_eq!(refused.status, 429);
    assert!(refused.body.contains("20 searches are kept already."));
}

/// No script or style of its own, nothing that turns text, nothing unescaped.
fn check_markup(path: &str, answer: &Answer) {
    if !answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
        return;
    }
    let body = &answer.body;
    assert!(answer.status < 500, "{path}: {}", answer.status);
    assert_eq!(body.matches("<script").count(), 1, "{path}: only the static script");
    assert!(body.contains("page.js?") && !body.contains("<style") && !body.contains(" style="), "{path}");
    assert!(!body.contains("<img") && !body.contains("\u{202e}") && !body.contains('\0'), "{path}");
    for tag in body.split('<').skip(1).map(|rest| rest.split('>').next().unwrap_or_default()) {
        let attributes = tag.split('"').step_by(2).collect::<String>();
        assert!(!attributes.contains(" on") && !tag.contains("javascript:"), "{path}: <{tag}>");
    }
    for part in ["lang=\"en\"", "class=\"skip\"", "not affiliated with slskd or slskdN", "<main", "<h1>"] {
        assert!(body.contains(part), "{path} lacks {part}");
    }
    let posts = body.matches("method=\"post\"").count();
    assert_eq!(body.matches("name=\"csrf\"").count(), posts, "{path}: every posting form has its token");
    assert!(body.len() < 50 * 1024, "{path}: {} bytes", body.len());
}

#[tokio::test]
async fn forms_do_what_their_buttons_say() {
    let house = House::open().await;
    let csrf = token_of(&house.get("/", &[]).await);
    let post = async |path: &str, fields: &str| {
        let answer = house.form(path, "", &csrf, fields).await;
        assert_eq!(answer.status, 303, "{path}: {}", answer.body);
        (answer.header("location").unwrap().to_owned(), house.told.orders())
    };
    let (to, orders) = post("/search", "text=quiet+rooms&user=").await;
    assert!(to.starts_with("/searches/") && to.ends_with("?done=searching"), "{to}");
    assert!(matches!(&orders[..], [Request::StartSearch(s)] if s.text == "quiet rooms" && s.user.is_none()));
    let (_, orders) = post("/credentials", "username=me&password=p+w").await;
    let set = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    let changes = vec![set("soulseek.username", "me"), set("soulseek.password", "p w")];
    assert_eq!(orders, [Request::ChangeSettings(changes), Request::Connect]);
    let id: TransferId = DOWNLOAD.parse().unwrap();
    let direction = Direction::Download;
    let (_, orders) = post("/downloads", &format!("cancel={DOWNLOAD}")).await;
    assert_eq!(orders, [Request::Cancel { direction, id, remove: false }]);
    let (_, orders) = post("/downloads", &format!("remove={DOWNLOAD}")).await;
    assert_eq!(orders, [Request::Cancel { direction, id, remove: true }]);
    let (_, orders) = post("/downloads", &format!("retry={DOWNLOAD}")).await;
    assert_eq!(orders, [Request::Retry(id)]);
    let (_, orders) = post("/uploads/clear", "").await;
    assert_eq!(orders, [Request::ClearCompleted(Direction::Upload)]);
    let (_, orders) = post("/wishes/remove", "id=5").await;
    assert_eq!(orders, [Request::RemoveWish(5)]);
    let (to, orders) = post("/users/a%2Fb/messages", "text=hello").await;
    assert_eq!(to, "/users/a%2Fb?done=sent");
    assert_eq!(orders, [Request::SendMessage("a/b".into(), "hello".to_owned())]);
    // What is as it was is not written, an emptied field goes back to its default.
    let (_, orders) = post("/settings", "soulseek.username=someone&soulseek.listen_port=").await;
    assert_eq!(orders, [Request::ChangeSettings(vec![("soulseek.listen_port".to_owned(), None)])]);
    let (to, orders) = post("/settings", "soulseek.username=someone").await;
    assert_eq!((to.as_str(), orders), ("/settings?done=unchanged", Vec::new()));
    assert_eq!(house.form("/settings", "", &csrf, "web.port=1").await.status, 400, "not offered");
    assert_eq!(house.form("/settings", "", &csrf, "soulseek.password=x").await.status, 400, "set elsewhere");
}

/// Only what was asked of repairs.
fn repairs_asked(house: &House) -> Vec<RepairRequest> {
    let repair = |order| if let Request::Repair(request) = order { Some(request) } else { None };
    house.told.orders().into_iter().filter_map(repair).collect()
}

#[tokio::test]
async fn a_repair_is_asked_about_before_it_begins_or_is_undone() {
    let house = House::open().await;
    let list = house.get("/library/issues", &[]).await;
    check_markup("issues", &list);
    let csrf = token_of(&list);
    let boxes =
        |answer: &Answer| (answer.body.matches("type=\"checkbox\"").count(), answer.body.matches(" checked").count());
    assert_eq!(boxes(&list), (2, 0), "one that was found, one that failed");
    assert_eq!(boxes(&house.get("/library/issues?type=CorruptedFile&page=1&choose=all", &[]).await), (2, 2));
    assert!(list.body.contains("Nobody had it &#60;script"), "why it failed");
    assert!(list.body.contains("data-live=\"library every\""), "one is being fixed: the page is kept current");
    let id = |n: u128| IssueId(n);
    for (n, words) in [
        (1, "Fix via multi-swarm"),
        (2, "a good copy is looked for"),
        (3, "failed: nobody had it"),
        (4, "Undo"),
        (5, "Unknown recording"),
    ] {
        let page = house.get(&format!("/library/issues/{}", id(n)), &[]).await;
        check_markup(words, &page);
        assert!(page.status == 200 && page.body.contains(words), "{n}: {}", page.body);
        assert_eq!(page.body.contains(">Fix via multi-swarm</button>"), n == 1 || n == 3, "{n}");
        assert_eq!((page.body.contains(">Undo</button>"), page.body.contains("<noscript>")), (n == 4, n == 2), "{n}");
    }
    house.told.orders();

    let post = async |path: &str, fields: &str| {
        let answer = house.form(path, "", &csrf, fields).await;
        if answer.status != 303 {
            check_markup(path, &answer);
        }
        (answer, repairs_asked(&house))
    };
    let (asked, orders) = post("/library/issues/fix", &format!("id={}", id(1))).await;
    assert!(asked.status == 200 && asked.body.contains("Fix this issue?") && asked.body.contains(".bak"));
    assert!(orders.is_empty(), "nothing is begun yet: {orders:?}");
    let (begun, orders) = post("/library/issues/fix", &format!("id={}&sure=yes", id(1))).await;
    assert_eq!(begun.header("location"), Some(&*format!("/library/issues/{}?done=fix_begun", id(1))));
    assert_eq!(orders, [RepairRequest::Fix { issues: vec![id(1)], keep_tags: false }]);
    let (_, orders) = post("/library/issues/fix", &format!("id={}&sure=yes&keep_tags=yes", id(1))).await;
    assert_eq!(orders, [RepairRequest::Fix { issues: vec![id(1)], keep_tags: true }]);
    let (refused, _) = post("/library/issues/fix", &format!("id={}&sure=yes", id(3))).await;
    assert!(refused.status == 409 && refused.body.contains("It is refused &#60;script"), "{}", refused.body);

    let two = format!("id={}&id={}&id={}", id(1), id(3), id(1));
    let (asked, _) = post("/library/issues/fix", &two).await;
    assert!(asked.body.contains("Fix 2 issues?") && asked.body.contains("A job fetches the better copy"));
    let (both, orders) = post("/library/issues/fix", &format!("{two}&sure=yes")).await;
    assert_eq!(orders, [RepairRequest::Fix { issues: vec![id(1), id(3)], keep_tags: false }]);
    assert!(both.status == 200 && both.body.contains("1 repair begun by 1 job, 1 refused."), "{}", both.body);
    assert!(both.body.contains("It is refused &#60;script"));
    let many = (0..=limits::FIX_AT_ONCE).map(|n| format!("id={n:032x}")).collect::<Vec<_>>().join("&");
    for (fields, why) in [("", "No issue was chosen"), ("id=x", "not understood"), (many.as_str(), "At most 50")] {
        let (wrong, orders) = post("/library/issues/fix", &format!("{fields}&sure=yes")).await;
        assert!(wrong.status == 400 && wrong.body.contains(why) && orders.is_empty(), "{fields}: {}", wrong.body);
    }

    let undo = |n: u128| format!("/library/issues/{}/undo", id(n));
    let (asked, orders) = post(&undo(4), "").await;
    assert!(asked.status == 200 && asked.body.contains("Undo this repair?"), "{}", asked.body);
    assert_eq!(orders, [RepairRequest::One(id(4))]);
    let (undone, orders) = post(&undo(4), "sure=yes").await;
    assert_eq!(undone.header("location"), Some(&*format!("/library/issues/{}?done=undone", id(4))));
    assert_eq!(orders, [RepairRequest::Undo(id(4))]);
    assert_eq!(post(&undo(3), "").await.0.status, 409, "it failed");
    assert_eq!(post(&undo(1), "").await.0.status, 404, "there is no repair");
}

#[tokio::test]
async fn results_say_what_is_known_of_them_and_the_canonical_one_comes_first() {
    let house = House::open().await;
    house.told.values.lock().unwrap().insert(KNOWN.to_owned(), Vec::new());
    let page = house.get(&format!("/searches/{SEARCH}"), &[]).await.body;
    let at = |words: &str| page.find(words).unwrap_or_else(|| panic!("{words} is missing"));
    assert!(at("slowpoke") < at("quick one/with slash"), "though it is slow and has no free slot");
    assert!(at("slow.mp3") < at("Canonical variant (score 0.94, 80 peers agree)"));
    assert!(at("01 - A Name") < at("likely transcode"));
    assert_eq!((page.matches("Canonical variant").count(), page.matches("likely transcode").count()), (1, 12));
    let api = house.get(&format!("/api/searches/{SEARCH}"), &[]).await.body;
    assert!(
        api.contains("\"badge\":\"Canonical variant (score 0.94, 80 peers agree)\"") && api.contains("\"badge\":null")
    );
    assert!(api.find("slowpoke").unwrap() < api.find("quick one").unwrap());
    let slskd = house.get(&format!("/api/v0/searches/{SEARCH}/responses"), &[]).await;
    assert!(slskd.status == 200 && !slskd.body.contains("badge") && !slskd.body.contains("anonical"), "{}", slskd.body);
}

#[tokio::test]
async fn buttons_of_results_ask_for_exactly_those_files() {
    let house = House::open().await;
    let page = house.get(&format!("/searches/{SEARCH}"), &[]).await;
    let csrf = token_of(&page);
    let words = |name: &str| -> Vec<String> {
        let mark = format!("name=\"{name}\" value=\"");
        page.body.split(&mark).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    let first = page.body.find("quick one/with slash").unwrap();
    assert!(first < page.body.find("slowpoke").unwrap(), "free and fast ones come first");
    let (files, folders) = (words("file"), words("folder"));
    assert_eq!((files.len(), folders.len()), (14, 3));
    let fields = format!("search={SEARCH}&file={}&file={}", files[0].replace('/', "%2F"), files[12]);
    let answer = house.form("/downloads/add", "", &csrf, &fields).await;
    assert_eq!(answer.header("location"), Some(&*format!("/searches/{SEARCH}?done=asked")), "{}", answer.body);
    let orders = house.told.orders();
    let mut asked = Vec::new();
    for order in &orders {
        let Request::Enqueue(wanted) = order else { panic!("{order:?}") };
        asked.extend(wanted.files.iter().map(|(path, _)| (wanted.user.as_str(), path.as_str())));
    }
    let evil = format!("{EVIL}\\{EVIL}.mp3");
    let album = "Music\\Quiet Rooms (1998) [FLAC]\\01 - A Name of Usual Length.flac";
    assert_eq!(asked, [(EVIL, evil.as_str()), ("quick one/with slash", album)]);
    let answer = house.form("/downloads/add", "", &csrf, &format!("search={SEARCH}&folder={}", folders[0])).await;
    assert_eq!(answer.status, 303, "{}", answer.body);
    assert!(matches!(&house.told.orders()[..], [Request::Enqueue(wanted)] if wanted.files.len() == 12));
}

#[tokio::test]
async fn a_handlers_panic_is_one_failed_answer() {
    let house = House::open().await;
    house.broken_clock.store(true, std::sync::atomic::Ordering::Relaxed);
    let answer = house.get("/", &[]).await;
    assert_eq!(answer.status, 500);
    answer.check_protection("panic");
    house.broken_clock.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(house.get("/", &[]).await.status, 200);
    assert!(house.get("/metrics", &[]).await.body.contains("slskdn_web_panics_total 1\n"));
}

#[tokio::test]
async fn the_control_socket_is_the_owners() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let house = House::build(Plan { control_socket: Some(path.clone()), ..Plan::default() }).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(over_socket(&path, "GET", "/api/status", "").await.status, 200);
    assert_eq!(over_socket(&path, "POST", "/api/shutdown", "").await.status, 204);
    assert_eq!(house.told.orders(), [Request::Shutdown]);
    let (desk, ..) = desk::open();
    let mut second = house.server.web().settings.clone();
    second.addresses.clear();
    let taken = Server::start(second, desk, CancellationToken::new()).await.unwrap_err().to_string();
    assert!(taken.ends_with("another slskdn runs on this data folder"), "{taken}");
    house.stop.cancel();
    house.server.stopped().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_taken_port_is_one_clear_sentence() {
    let house = House::open().await;
    let (desk, ..): (Desk, _, _, _) = desk::open();
    let mut settings = WebSettings::new(house.server.web().settings.clock.clone());
    settings.addresses = vec![house.address];
    let problem = Server::start(settings, desk, CancellationToken::new()).await.unwrap_err().to_string();
    let wanted =
        format!("cannot listen on {}: the port is taken by another program (web.port chooses another)", house.address);
    assert_eq!(problem, wanted);
}

#[tokio::test]
async fn watchers_from_outside_get_plain_answers() {
    let house = House::with_password().await;
    assert_eq!(house.get("/health", &[]).await.body, "ok\n");
    let ready = house.get("/ready", &[]).await;
    assert_eq!((ready.status, ready.body.as_str()), (503, r#"{"ready":false,"reasons":["scanner is restarting"]}"#));
    house.publish.send_modify(|snapshot| std::sync::Arc::make_mut(snapshot).tasks.clear());
    assert_eq!(house.get("/ready", &[]).await.status, 200);
    let metrics = house.get("/metrics", &[("X-API-Key", READONLY)]).await;
    assert!(metrics.body.starts_with("slskdn_up 1\n") && metrics.body.contains("slskdn_web_answers_total"));
    assert!(!house.get("/login", &[]).await.body.contains(PASSWORD));
}

#[tokio::test]
async fn without_authentication_everybody_is_the_owner_but_no_other_site() {
    let house = House::build(Plan { bind: "0.0.0.0", password: false, authentication: false, ..Plan::default() }).await;
    assert_eq!(house.server.setup_code(), None);
    let page = house.get("/", &[]).await;
    assert!(page.status == 200 && page.body.contains("Sign-in is switched off"));
    assert_eq!(house.form("/connect", "", &token_of(&page), "").await.status, 303);
    let foreign = [("Origin", "http://evil.example")];
    assert_eq!(house.send("POST", "/api/connect", &foreign, "").await.status, 403);
}
