use super::*;
use crate::engine::soulseek::frame::{FrameError, Writer, deflate};
use crate::model::limits::{DESCRIPTION_LEN, FILE_ATTRIBUTES, PATH_LEN, PICTURE_LEN, USERNAME_LEN};
use crate::model::music::WireText;

#[test]
fn frames_have_the_limit_of_their_code() {
    assert_eq!([4, 5, 9, 37, 40, u32::MAX].map(|code| frame_max(code) >> 20), [1, 64, 16, 16, 1, 1]);
}

#[test]
fn init_tokens_may_be_missing_or_wide() {
    let called = |token| Ok(Init::PeerInit { user: "u".into(), kind: ConnectionType::File, token: Token(token) });
    assert_eq!(Init::decode(1, b"\x01\0\0\0u\x01\0\0\0F"), called(0));
    assert_eq!(Init::decode(1, b"\x01\0\0\0u\x01\0\0\0F\x07\0\0\0"), called(7));
    assert_eq!(Init::decode(1, b"\x01\0\0\0u\x01\0\0\0F\x07\0\0\0\0\0\0\0"), called(7));
    let kind = Init::decode(1, b"\x01\0\0\0u\x01\0\0\0Q\0\0\0\0");
    assert_eq!(kind, Err(FrameError::UnknownConnectionType { kind: "Q".into() }));
    assert_eq!(Init::decode(2, b""), Err(FrameError::UnknownInit { code: 2 }));
}

#[test]
fn names_of_users_and_paths_have_limits() {
    let length = USERNAME_LEN + 1;
    let init = Init::PeerInit { user: "x".repeat(length).into(), kind: ConnectionType::Peer, token: Token(0) };
    let refusal = FrameError::TextTooLong { length, length_max: USERNAME_LEN };
    assert_eq!(Init::decode(1, &init.encode()[5..]), Err(refusal));

    let reply = SearchReply { user: "x".repeat(length).into(), ..SearchReply::default() };
    let body = deflate(&reply.to_inflated());
    let refusal = FrameError::TextTooLong { length, length_max: USERNAME_LEN };
    assert_eq!(search_reply_token(&body), Err(refusal.clone()));
    assert_eq!(PeerMessage::decode(9, &body), Err(refusal));

    let length = PATH_LEN + 1;
    let queue = PeerMessage::QueueUpload { path: "x".repeat(length).into() };
    let refusal = FrameError::TextTooLong { length, length_max: PATH_LEN };
    assert_eq!(PeerMessage::decode(43, &queue.encode()[8..]), Err(refusal));
}

#[test]
fn a_user_with_the_longest_name_has_a_token() {
    let user = WireText::from("x".repeat(USERNAME_LEN));
    let reply = SearchReply { user, token: Token(0x8000_0001), ..SearchReply::default() };
    assert_eq!(search_reply_token(&deflate(&reply.to_inflated())), Ok(reply.token));
}

#[test]
fn attributes_are_counted() {
    let file = |count: usize| RemoteFile {
        attributes: vec![(0, 1); count],
        ..RemoteFile::new("a", 1, &Attributes::default())
    };
    let reply = |count| SearchReply { files: vec![file(count)], ..SearchReply::default() };
    let most = reply(FILE_ATTRIBUTES);
    assert_eq!(SearchReply::from_inflated(&most.to_inflated()), Ok(most));
    let refusal = FrameError::TooMany { count: 17, count_max: FILE_ATTRIBUTES };
    assert_eq!(SearchReply::from_inflated(&reply(17).to_inflated()), Err(refusal));
}

#[test]
fn attributes_are_sent_as_others_send_them() {
    let lossless = Attributes {
        bitrate_kbps: Some(900),
        duration_s: Some(300),
        sample_rate_hz: Some(44_100),
        bit_depth: Some(16),
        vbr: Some(false),
    };
    assert_eq!(RemoteFile::new("a", 1, &lossless).attributes, [(1, 300), (4, 44_100), (5, 16)]);
    let lossy = Attributes { bit_depth: None, vbr: Some(true), ..lossless };
    let file = RemoteFile::new("a", 1, &lossy);
    assert_eq!(file.attributes, [(0, 900), (1, 300), (2, 1)]);
    assert_eq!(file.known_attributes(), Attributes { sample_rate_hz: None, ..lossy });
    assert_eq!(RemoteFile::new("a", 1, &Attributes::default()).attributes, []);
}

#[test]
fn rubbish_above_a_size_is_dropped() {
    let file = RemoteFile { size: 0xffff_1234_8000_0001, ..RemoteFile::new("a", 0, &Attributes::default()) };
    let reply = SearchReply { files: vec![file], ..SearchReply::default() };
    let read = SearchReply::from_inflated(&reply.to_inflated()).unwrap();
    assert_eq!(read.files[0].size, 0x8000_0001);
}

#[test]
fn search_replies_may_lack_their_tail() {
    let whole = SearchReply { unknown: Some(0), has_locked_list: true, ..SearchReply::default() };
    let bytes = whole.to_inflated();
    let short = SearchReply { has_locked_list: false, ..whole.clone() };
    assert_eq!(SearchReply::from_inflated(&bytes), Ok(whole));
    assert_eq!(SearchReply::from_inflated(&bytes[..bytes.len() - 4]), Ok(short.clone()));
    let shortest = SearchReply { unknown: None, ..short };
    assert_eq!(SearchReply::from_inflated(&bytes[..bytes.len() - 8]), Ok(shortest));
}

#[test]
fn what_users_say_about_themselves_is_cut() {
    let info = UserInfo {
        description: "d".repeat(DESCRIPTION_LEN + 1).into(),
        picture: Some(vec![7; PICTURE_LEN + 1]),
        slots: 3,
        upload_permission: Some(1),
        ..UserInfo::default()
    };
    let frame = PeerMessage::UserInfoResponse(info.clone()).encode();
    let Ok(PeerMessage::UserInfoResponse(read)) = PeerMessage::decode(16, &frame[8..]) else { panic!() };
    assert_eq!(read, UserInfo { description: "d".repeat(DESCRIPTION_LEN).into(), picture: None, ..info });
    // Museek+ sends the last flag as four bytes: three are left over, which are no permission.
    let Ok(PeerMessage::UserInfoResponse(read)) = PeerMessage::decode(16, &frame[8..frame.len() - 1]) else { panic!() };
    assert_eq!((read.slots, read.upload_permission), (3, None));
}

#[test]
fn odd_transfer_messages() {
    // A direction that is neither.
    let mut w = Writer::body();
    w.u32(2).u32(7).blob(b"path");
    let body = w.finish();
    assert_eq!(PeerMessage::decode(40, &body), Ok(PeerMessage::Other { code: 40, body: body.clone() }));
    // A refusal without a reason.
    let refused = PeerMessage::TransferResponse { token: Token(7), answer: Err("".into()) };
    assert_eq!(PeerMessage::decode(41, &[7, 0, 0, 0, 0]), Ok(refused));
    // A grant with the size repeated, as Soulseek.NET sends it.
    let granted = PeerMessage::TransferResponse { token: Token(7), answer: Ok(Some(5)) };
    assert_eq!(PeerMessage::decode(41, &[7, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0]), Ok(granted));
}

#[test]
fn share_lists_are_no_messages() {
    assert_eq!(PeerMessage::decode(5, &deflate(&[0; 4])), Err(FrameError::ShareListAsMessage));
    assert_eq!(PeerMessage::SharedFileList { folders: 1, files: 2 }.encode(), Vec::<u8>::new());
}
