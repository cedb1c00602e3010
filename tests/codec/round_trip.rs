//! What is written is read as the same, whole or cut short.

use std::fmt::Debug;

use proptest::prelude::*;
use slskdn::engine::soulseek::distributed::DistributedMessage;
use slskdn::engine::soulseek::frame::FrameError;
use slskdn::engine::soulseek::peer::{Init, PeerMessage};
use slskdn::engine::soulseek::server::{FromServer, ToServer};
use slskdn::engine::soulseek::sharelist::{ShareListInflater, ShareListReader};
use slskdn::model::music::WireText;

use super::every::{self, Bits};
use super::{narrow, targets, wide};

fn text() -> impl Strategy<Value = WireText> {
    prop_oneof![
        ".{0,30}".prop_map(|text: String| WireText::from(text)),
        // Mostly not UTF-8, so Latin-1.
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| WireText::from_wire(&bytes)),
    ]
}

fn bits() -> impl Strategy<Value = Bits> {
    let bytes = prop::collection::vec(any::<u8>(), 0..60);
    (text(), text(), text(), any::<u32>(), any::<u32>(), any::<u64>(), any::<bool>(), bytes)
        .prop_map(|(a, b, c, n, m, big, flag, bytes)| Bits { a, b, c, n, m, big, flag, bytes })
}

fn same<M: Debug + PartialEq>(message: &M, decoded: &Result<M, FrameError>) {
    assert_eq!(decoded.as_ref(), Ok(message));
}

fn check_all(bits: &Bits) {
    for message in every::to_server(bits) {
        let frame = message.encode();
        let (code, body) = wide(&frame);
        same(&message, &ToServer::decode(code, body));
    }
    for message in every::from_server(bits) {
        let frame = message.encode();
        let (code, body) = wide(&frame);
        same(&message, &FromServer::decode(code, body));
    }
    for message in every::peer(bits) {
        let frame = message.encode();
        let (code, body) = wide(&frame);
        same(&message, &PeerMessage::decode(code, body));
    }
    for message in every::init(bits) {
        let frame = message.encode();
        let (code, body) = narrow(&frame);
        same(&message, &Init::decode(code, body));
    }
    for message in every::distributed(bits) {
        let frame = message.encode();
        let (code, body) = narrow(&frame);
        same(&message, &DistributedMessage::decode(code, body));
    }
}

proptest! {
    #[test]
    fn every_message_survives(bits in bits()) {
        check_all(&bits);
    }

    #[test]
    fn share_lists_survive(bits in bits()) {
        let folders = bits.folders();
        let body = targets::share_list_of(&folders).unwrap();
        let mut inflater = ShareListInflater::new(Vec::new());
        for chunk in body.chunks(11) {
            inflater.push(chunk).unwrap();
        }
        let (inflated, counts) = inflater.finish().unwrap();
        prop_assert_eq!(counts.folders as usize, folders.len());
        let read: Vec<_> = ShareListReader::new(&inflated[..]).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read, folders);
    }

    #[test]
    fn any_bytes_are_survived(data in prop::collection::vec(any::<u8>(), 0..200)) {
        for (_, target) in targets::TARGETS {
            target(&data);
        }
    }

    /// Like the fuzzer, but on stable: a real message with a few bytes changed.
    #[test]
    fn damaged_messages_are_survived(
        bits in bits(),
        pick in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut frames: Vec<(&str, Vec<u8>)> = Vec::new();
        frames.extend(every::to_server(&bits).iter().map(|message| ("to_server", message.encode())));
        frames.extend(every::from_server(&bits).iter().map(|message| ("from_server", message.encode())));
        frames.extend(every::peer(&bits).iter().map(|message| ("peer", message.encode())));
        frames.extend(every::init(&bits).iter().map(|message| ("init", message.encode())));
        frames.extend(every::distributed(&bits).iter().map(|message| ("distributed", message.encode())));
        let (kind, mut frame) = pick.get(&frames).clone();
        for (at, byte) in damage {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        targets::run(kind, &frame[4..]);
    }
}

/// Cuts a body at every byte: an error, or a message that only lacks trailing fields and is stable from then on.
fn check_cuts<M: Debug + PartialEq>(
    message: &M,
    body: &[u8],
    compressed: bool,
    decode: impl Fn(&[u8]) -> Result<M, FrameError>,
    encode: impl Fn(&M) -> Vec<u8>,
) {
    for at in 0..body.len() {
        if let Ok(cut) = decode(&body[..at]) {
            assert!(!compressed, "{message:?} cut at {at} of {} is no whole zlib stream", body.len());
            assert_eq!(decode(&encode(&cut)).as_ref(), Ok(&cut), "{message:?} cut at {at}");
        }
        // A field of four bytes somewhere in it that says "very many" or "very long".
        if let Some(field) = body.get(at..at + 4) {
            let mut lying = body.to_vec();
            lying[at..at + 4].copy_from_slice(&[0xff; 4]);
            if let Ok(believed) = decode(&lying) {
                assert_eq!(decode(&encode(&believed)).as_ref(), Ok(&believed), "{message:?}, {field:?} at {at}");
            }
        }
    }
    let mut longer = body.to_vec();
    longer.extend_from_slice(b"tail");
    decode(&longer).unwrap_or_else(|error| panic!("{message:?} with a tail: {error}"));
}

#[test]
fn cuts_lies_and_tails_are_survived() {
    for bits in [Bits::default(), Bits { flag: false, n: 2, ..Bits::default() }] {
        for message in every::to_server(&bits) {
            let frame = message.encode();
            let (code, body) = wide(&frame);
            check_cuts(&message, body, false, |b| ToServer::decode(code, b), |m| m.encode()[8..].to_vec());
        }
        for message in every::from_server(&bits) {
            let frame = message.encode();
            let (code, body) = wide(&frame);
            check_cuts(&message, body, false, |b| FromServer::decode(code, b), |m| m.encode()[8..].to_vec());
        }
        for message in every::peer(&bits) {
            let frame = message.encode();
            let (code, body) = wide(&frame);
            let compressed = matches!(code, 9 | 37);
            check_cuts(&message, body, compressed, |b| PeerMessage::decode(code, b), |m| m.encode()[8..].to_vec());
        }
        for message in every::init(&bits) {
            let frame = message.encode();
            let (code, body) = narrow(&frame);
            check_cuts(&message, body, false, |b| Init::decode(code, b), |m| m.encode()[5..].to_vec());
        }
        for message in every::distributed(&bits) {
            let frame = message.encode();
            let (code, body) = narrow(&frame);
            check_cuts(&message, body, false, |b| DistributedMessage::decode(code, b), |m| m.encode()[5..].to_vec());
        }
    }
}

#[test]
fn share_lists_cut_anywhere_are_refused_or_whole() {
    let folders = Bits { n: 2, ..Bits::default() }.folders();
    let body = targets::share_list_of(&folders).unwrap();
    let mut inflater = ShareListInflater::new(Vec::new());
    inflater.push(&body).unwrap();
    let (inflated, _) = inflater.finish().unwrap();
    for at in 0..inflated.len() {
        targets::run("share_list", &inflated[..at]);
        let read: Result<Vec<_>, _> = ShareListReader::new(&inflated[..at]).collect();
        // Only the eight bytes of the unknown number and of the count of private folders may be missing.
        assert_eq!(read.is_ok(), at >= inflated.len() - 8, "cut at {at} of {}", inflated.len());
    }
    for at in 0..body.len() {
        let mut inflater = ShareListInflater::new(Vec::new());
        assert!(inflater.push(&body[..at]).and_then(|()| inflater.finish().map(drop)).is_err(), "cut at {at}");
    }
}
