//! Bytes that two other clients' own code built, in `tests/fixtures/soulseek/vectors.txt`.

use std::collections::BTreeSet;

use slskdn::engine::soulseek::distributed::DistributedMessage;
use slskdn::engine::soulseek::frame::inflate;
use slskdn::engine::soulseek::peer::{Init, PeerMessage, search_reply_token};
use slskdn::engine::soulseek::server::{FromServer, ToServer};
use slskdn::engine::soulseek::sharelist::{ShareListInflater, ShareListReader};

use super::every::{self, Bits};
use super::{narrow, targets, wide};

/// Inflated bytes of a compressed test body.
fn inflated(body: &[u8]) -> Vec<u8> {
    inflate(body, 1 << 20).unwrap()
}

/// Reads a share list and writes it again; private folders cannot be written, so they are compared by count.
fn check_share_list(body: &[u8], origin: &str) {
    let mut inflater = ShareListInflater::new(Vec::new());
    body.chunks(5).for_each(|chunk| inflater.push(chunk).unwrap());
    let (list, counts) = inflater.finish().unwrap();
    assert_eq!(list, inflated(body), "{origin}");
    let mut reader = ShareListReader::new(&list[..]);
    let (mut public, mut private) = (Vec::new(), 0);
    while let Some(folder) = reader.next() {
        let folder = folder.unwrap();
        if reader.in_private() {
            private += 1;
        } else {
            public.push(folder);
        }
    }
    assert_eq!(counts.folders as usize, public.len() + private, "{origin}");
    let again = inflated(&targets::share_list_of(&public).unwrap());
    // Ours ends with a zero and no private folders; what comes before must be theirs, byte for byte.
    let same = again.len() - 8;
    assert_eq!(again[..same], list[..same], "{origin}");
}

#[test]
fn other_clients_bytes_come_out_as_they_went_in() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/soulseek/vectors.txt");
    let mut understood = BTreeSet::new();
    let mut lines = 0;
    let vectors = std::fs::read_to_string(file).unwrap();
    for line in vectors.lines().filter(|line| !line.starts_with('#')) {
        lines += 1;
        let [kind, code, hex, origin] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let code: u32 = code.parse().unwrap();
        let frame: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let (again, other) = match kind.trim_start_matches('~') {
            "to_server" => {
                let message = ToServer::decode(code, wide(&frame).1).unwrap();
                (message.encode(), matches!(message, ToServer::Other { .. }))
            }
            "from_server" => {
                let message = FromServer::decode(code, wide(&frame).1).unwrap();
                (message.encode(), matches!(message, FromServer::Other { .. }))
            }
            "peer" if code == 5 => {
                check_share_list(wide(&frame).1, origin);
                understood.insert(("peer", 5));
                continue;
            }
            "peer" => {
                let message = PeerMessage::decode(code, wide(&frame).1).unwrap();
                if let PeerMessage::FileSearchResponse(reply) = &message {
                    assert_eq!(search_reply_token(wide(&frame).1), Ok(reply.token), "{origin}");
                }
                (message.encode(), matches!(message, PeerMessage::Other { .. }))
            }
            "init" => (Init::decode(narrow(&frame).0, narrow(&frame).1).unwrap().encode(), false),
            "distributed" => {
                let message = DistributedMessage::decode(narrow(&frame).0, narrow(&frame).1).unwrap();
                (message.encode(), matches!(message, DistributedMessage::Other { .. }))
            }
            kind => panic!("{kind}"),
        };
        if !other {
            understood.insert((kind.trim_start_matches('~'), code));
        }
        if kind.starts_with('~') {
            continue;
        }
        if kind == "peer" && matches!(code, 9 | 37) {
            assert_eq!(inflated(wide(&again).1), inflated(wide(&frame).1), "{origin}");
        } else {
            assert_eq!(again, frame, "{origin}");
        }
    }
    assert!(lines > 250, "{lines}");

    // Each message we know was among them, and understood as itself.
    let bits = Bits::default();
    let mut known = BTreeSet::from([("peer", 5)]);
    known.extend(every::to_server(&bits).iter().map(|message| ("to_server", message.code())));
    known.extend(every::from_server(&bits).iter().map(|message| ("from_server", message.code())));
    known.extend(every::peer(&bits).iter().map(|message| ("peer", message.code())));
    known.extend(every::init(&bits).iter().map(|message| ("init", u32::from(message.code()))));
    known.extend(every::distributed(&bits).iter().map(|message| ("distributed", u32::from(message.code()))));
    // These stand for messages we do not know.
    for other in [("to_server", 142), ("from_server", 64), ("peer", 52), ("distributed", 1)] {
        known.remove(&other);
    }
    assert_eq!(understood, known);
}
