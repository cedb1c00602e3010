use super::*;
use crate::engine::soulseek::frame::FrameError;
use crate::model::limits::{MESSAGE_LEN, QUERY_LEN, USERNAME_LEN};

/// The example of the protocol text (Nicotine+, `SLSKPROTOCOL.md`, server code 1).
#[test]
fn a_login_is_as_documented() {
    let login = ToServer::Login {
        user: "username".into(),
        password: "password".into(),
        major: 160,
        hash: "d51c9a7e9353746a6020f9602d452929".into(),
        minor: 1,
    };
    let mut frame = vec![0x48, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0];
    frame.extend(b"username\x08\0\0\0password\xa0\0\0\0\x20\0\0\0d51c9a7e9353746a6020f9602d452929\x01\0\0\0");
    assert_eq!(login.encode(), frame);
    assert_eq!(ToServer::decode(1, &frame[8..]), Ok(login.clone()));
    let shown = format!("{login:?}");
    assert!(!shown.contains("password\"") && !shown.contains("d51c9a"), "{shown}");
}

#[test]
fn missing_tails_are_tolerated() {
    let stats = UserStats::default();
    let online = FromServer::WatchUser {
        user: "u".into(),
        found: Some((UserStatus::Online, stats)),
        country: Some("IS".into()),
    };
    let frame = online.encode();
    let without = FromServer::decode(5, &frame[8..frame.len() - 6]);
    let expected = FromServer::WatchUser { user: "u".into(), found: Some((UserStatus::Online, stats)), country: None };
    assert_eq!(without, Ok(expected));
    assert_eq!(ToServer::decode(2, &[1, 2, 0, 0]), Ok(ToServer::SetWaitPort { port: 0x0201, obfuscated: None }));
    let address = FromServer::decode(3, &[1, 0, 0, 0, b'u', 1, 0, 0, 127, 0, 1, 0, 0]);
    let expected =
        FromServer::GetPeerAddress { user: "u".into(), ip: Ipv4Addr::LOCALHOST, port: 256, obfuscation: None };
    assert_eq!(address, Ok(expected));
}

#[test]
fn a_connection_of_an_unknown_type_is_no_error_of_the_server() {
    let body = b"\x01\0\0\0u\x01\0\0\0X\0\0\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(FromServer::decode(18, body), Ok(FromServer::Other { code: 18, body: body.to_vec() }));
}

#[test]
fn long_texts_are_cut_or_refused() {
    let query = "x".repeat(MESSAGE_LEN + 1);
    let search = FromServer::FileSearch { user: "u".into(), token: Token(1), query: query.into() };
    let Ok(FromServer::FileSearch { query, .. }) = FromServer::decode(26, &search.encode()[8..]) else { panic!() };
    assert!(query.as_str().len() == MESSAGE_LEN && MESSAGE_LEN > QUERY_LEN, "still seen to be too long to answer");

    let length = USERNAME_LEN + 1;
    let watch = ToServer::WatchUser { user: "x".repeat(length).into() };
    let refusal = FrameError::TextTooLong { length, length_max: USERNAME_LEN };
    assert_eq!(ToServer::decode(5, &watch.encode()[8..]), Err(refusal));
}

#[test]
fn an_embedded_message_fits_a_distributed_frame() {
    let embedded = |length| FromServer::EmbeddedMessage { code: 3, body: vec![0; length] };
    let most = embedded(16 * 1024 - 1);
    assert_eq!(FromServer::decode(93, &most.encode()[8..]), Ok(most));
    let refusal = FromServer::decode(93, &embedded(16 * 1024).encode()[8..]);
    assert_eq!(refusal, Err(FrameError::FrameTooLong { length: 16 * 1024 + 1, length_max: 16 * 1024 }));
}
