use super::*;

fn given(key: &str, value: &str) -> Given {
    let place = Place { source: "test.yml".to_owned(), line: 3, column: 5 };
    Given { key: key.to_owned(), value: Raw::One(value.to_owned()), place }
}

#[test]
fn defaults_are_valid() {
    let resolved = resolve(&[]).unwrap();
    assert_eq!(resolved.config.web.port, 5030);
    assert_eq!(resolved.config.soulseek.listen_port, 50300);
    assert!(resolved.effective.iter().all(|row| row.place.source == "built-in"));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let layer = vec![
        given("soulseek.listen_prot", "1"),
        given("web.port", "seventy"),
        given("network.private_ranges", "10.0.0.0/40"),
        given("soulseek.username", "only a name"),
        given("disk.backend", "floppy"),
    ];
    let told: Vec<String> = resolve(&[layer]).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "test.yml:3:5: soulseek.listen_prot: unknown key; did you mean soulseek.listen_port?",
            "test.yml:3:5: web.port: a whole number from 0 to 65535 is wanted, not `seventy`",
            "test.yml:3:5: disk.backend: one of auto, io_uring, blocking is wanted, not `floppy`",
            "soulseek.password: user name and password are needed together, and this one is missing",
            "test.yml:3:5: network.private_ranges: a range like 10.0.0.0/8 is wanted, not `10.0.0.0/40`",
        ]
    );
}

#[test]
fn later_layers_win_and_aliases_meet() {
    let low = vec![given("global.upload.slots", "2"), given("web.port", "1234")];
    let high = vec![given("transfers.upload.slots", "7")];
    let resolved = resolve(&[low, high]).unwrap();
    assert_eq!((resolved.config.upload_slots, resolved.config.web.port), (7, 1234));
}

#[test]
fn slskd_sections_warn_once_each() {
    let layer = vec![given("web.https.port", "5031"), given("web.https.disabled", "true"), given("rooms", "")];
    let warned: Vec<String> = resolve(&[layer]).unwrap().warnings.into_iter().map(|w| w.key).collect();
    assert_eq!(warned, ["web.https", "rooms"]);
}

#[test]
fn shares_have_names_and_exceptions() {
    let mut entry = given("shares.directories", "");
    entry.value = Raw::Many(vec!["[Records]/srv/music".into(), "/srv/live".into(), "!/srv/music/private".into()]);
    let shares = resolve(&[vec![entry]]).unwrap().config.shares;
    assert_eq!(shares.directories, [("Records".into(), "/srv/music".into()), (String::new(), "/srv/live".into())]);
    assert_eq!(shares.excluded, ["/srv/music/private"]);
}

#[test]
fn api_keys_are_collected() {
    let at = |what: &str, value: &str| given(&format!("web.authentication.api_keys.soularr.{what}"), value);
    let layer = vec![at("key", "0123456789abcdef"), at("role", "Administrator"), at("cidr", "127.0.0.1/32,::1")];
    let keys = resolve(&[layer]).unwrap().config.web.api_keys;
    assert_eq!(keys.len(), 1);
    assert_eq!((keys[0].name.as_str(), keys[0].role.as_str(), keys[0].cidrs.len()), ("soularr", "administrator", 2));
}

#[test]
fn catalogs_have_addresses_and_hidden_keys() {
    let catalog = resolve(&[]).unwrap().config.catalog;
    assert_eq!(catalog.musicbrainz.base_url, "https://musicbrainz.org/ws/2");
    assert_eq!((catalog.acoustid.key.as_str(), catalog.offline), ("", false));
    let layer = vec![
        given("catalog.musicbrainz.base_url", "http://mirror.lan:5000/ws/2/"),
        given("catalog.acoustid.key", "hush"),
        given("catalog.contact", "me@example.org"),
    ];
    let resolved = resolve(&[layer]).unwrap();
    assert_eq!(resolved.config.catalog.musicbrainz.base_url, "http://mirror.lan:5000/ws/2");
    assert!(resolved.effective.iter().any(|row| row.key == "catalog.acoustid.key" && row.secret));
    assert!(!format!("{:?}", resolved.config).contains("hush"), "no secret has Debug");

    for bad in ["", "musicbrainz.org", "ftp://host", "https://", "https:///ws", "http://user@host", "http://h/?a"] {
        let told = resolve(&[vec![given("catalog.discogs.base_url", bad)]]).unwrap_err();
        assert!(told[0].message.starts_with("an address like"), "{bad}");
    }
    for (key, bad) in [("catalog.contact", "a\r\nb"), ("catalog.contact", "a (b)"), ("catalog.discogs.key", "a b")] {
        assert_eq!(resolve(&[vec![given(key, bad)]]).unwrap_err()[0].key, key, "{bad:?}");
    }
}
