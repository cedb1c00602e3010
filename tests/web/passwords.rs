//! A password in the configuration, and what becomes of sessions when it changes.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::Ordering;

use super::client::{House, PASSWORD};

#[tokio::test]
async fn another_configured_password_ends_sessions_and_tokens() {
    let house = House::with_password().await;
    let (cookie, _) = house.sign_in().await;
    let cookie = cookie.split_once('=').unwrap().1.to_owned();
    let token = house.server.web().auth.issue_token("tool").token;
    let start = async |password: Option<&str>| {
        let mut settings = house.server.web().settings.clone();
        settings.password = password.map(str::to_owned);
        slskdn::web::Auth::load(house.server.web().desk.clone(), &settings).await.unwrap()
    };
    let from = house.address.ip();
    assert!(start(None).await.session(&cookie).is_some(), "nothing has changed");

    let named = start(Some("in the file")).await;
    assert!(named.session(&cookie).is_none() && named.check_token(&token).is_none());
    assert_eq!(named.sign_in(from, "in the file").await, Ok(()));
    let cookie = named.open_session().await.unwrap();
    let token = named.issue_token("tool").token;
    let again = start(Some("in the file")).await;
    assert!(again.session(&cookie).is_some() && again.check_token(&token).is_some(), "the same as before");
    assert_eq!(again.sign_in(from, "in the file").await, Ok(()));
    let kept = house.told.values.lock().unwrap().clone();
    assert!(!kept.values().any(|value| value.windows(11).any(|part| part == b"in the file")), "only its hash is kept");

    let other = start(Some("another one")).await;
    assert!(other.session(&cookie).is_none() && other.check_token(&token).is_none());
    let cookie = other.open_session().await.unwrap();
    let none = start(None).await;
    assert!(none.session(&cookie).is_none(), "the page's password counts again");
    assert_eq!(none.sign_in(from, PASSWORD).await, Ok(()));
}

#[tokio::test]
async fn a_configured_password_is_not_changed_on_the_page() {
    let house = House::with_password().await;
    let (cookie, csrf) = house.sign_in().await;
    house.told.password_configured.store(true, Ordering::Relaxed);
    let page = house.get("/settings", &[("Cookie", &cookie)]).await.body;
    assert!(page.contains("It is set by environment variable") && !page.contains("name=\"again\""), "{page}");
    let fields = "current=correct+horse+battery&new=another+password&again=another+password";
    let answer = house.form("/settings/password", &cookie, &csrf, fields).await;
    assert_eq!(answer.status, 409, "{}", answer.body);
    assert!(answer.body.contains("SLSKDN_WEB_AUTHENTICATION_PASSWORD; change it there"), "{}", answer.body);
    assert_eq!(house.get("/", &[("Cookie", &cookie)]).await.status, 200, "nothing has changed");
    house.sign_in().await;
}
