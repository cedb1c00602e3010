use super::*;

#[test]
fn typos_find_the_key_that_was_meant() {
    assert_eq!(nearest("soulseek.listen_prot"), Some("soulseek.listen_port"));
    assert_eq!(nearest("soulsek.username"), Some("soulseek.username"));
    assert_eq!(nearest("shares.directory"), Some("shares.directories"));
    assert_eq!(nearest("quite.something.else.altogether"), None);
}

#[test]
fn owners_names_stand_for_the_star() {
    assert_eq!(
        find("web.authentication.api_keys.soularr.role").map(|k| k.kind),
        Some(Kind::Word(&["readonly", "readwrite", "administrator"]))
    );
    assert!(find("web.authentication.api_keys.soularr.rolle").is_none());
    assert!(is_section("web.authentication.api_keys.soularr"));
    assert!(is_section("transfers.upload"));
    assert!(!is_section("web.port"));
}

#[test]
fn slskd_sections_are_known_by_their_head() {
    assert_eq!(slskd_only("web.https.port"), Some("web.https"));
    assert_eq!(slskd_only("webs"), None);
}
