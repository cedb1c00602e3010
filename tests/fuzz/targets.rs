//! One function per decoder of bytes from the network. The fuzzer calls them, and `tests/codec.rs` replays the corpora
//! through the same functions. Besides "no panic" each asserts that what was understood can be said again.

use std::time::Duration;

use slskdn::engine::mesh::exchange::{Asking, ENTRY_LEN, PIECE_LEN, Served, Serving, Wanted};
use slskdn::engine::mesh::frame::{Frames, Hello};
use slskdn::engine::mesh::session::{Action, Input, PROTOCOL, Session, Side};
use slskdn::engine::soulseek::distributed::DistributedMessage;
use slskdn::engine::soulseek::frame::{self, FrameError, Inflater};
use slskdn::engine::soulseek::peer::{self, Init, PeerMessage, RemoteFolder, SearchReply};
use slskdn::engine::soulseek::server::{FromServer, ToServer};
use slskdn::engine::soulseek::sharelist::{ShareListError, ShareListInflater, ShareListReader, ShareListWriter};
use slskdn::engine::swarm::list::PieceList;
use slskdn::model::id::ContentHash;
use slskdn::model::limits::{FILE_ATTRIBUTES, FOLDER_ENTRIES, SEARCH_ROWS};

/// A target: its name, which is that of its corpus folder, and its function.
pub(super) type Target = (&'static str, fn(&[u8]));

/// All of them.
pub(super) const TARGETS: &[Target] = &[
    ("header", header),
    ("to_server", to_server),
    ("from_server", from_server),
    ("init", init),
    ("peer", peer_message),
    ("distributed", distributed),
    ("search_reply", search_reply),
    ("folder_reply", folder_reply),
    ("share_list", share_list),
    ("share_list_inflater", share_list_inflater),
    ("inflater", inflater),
    ("mesh_frame", mesh_frame),
    ("mesh_session", mesh_session),
    ("mesh_request", mesh_request),
    ("piece_list", piece_list),
];

/// Runs one of them.
pub(super) fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).expect("a name of `TARGETS`");
    target(data);
}

/// A header as it stands before a body.
fn header(data: &[u8]) {
    if let Some(&header) = data.first_chunk::<8>()
        && let Ok((code, body)) = frame::wide_header(header, peer::frame_max)
    {
        assert!(body + 4 <= peer::frame_max(code) as usize);
    }
    if let Some(&header) = data.first_chunk::<5>()
        && let Ok((_, body)) = frame::narrow_header(header, peer::INIT_FRAME_MAX)
    {
        assert!(body < peer::INIT_FRAME_MAX as usize);
    }
}

/// A `u32` code, then a body.
fn wide(data: &[u8]) -> Option<(u32, &[u8])> {
    data.split_first_chunk().map(|(&code, body)| (u32::from_le_bytes(code), body))
}

/// Code and body of a whole frame.
fn unframed(frame: &[u8]) -> (u32, &[u8]) {
    let length = u32::from_le_bytes(frame[..4].try_into().unwrap());
    assert_eq!(length as usize, frame.len() - 4);
    wide(&frame[4..]).unwrap()
}

/// What a client sends to the server: code and body.
fn to_server(data: &[u8]) {
    let Some((code, body)) = wide(data) else { return };
    if let Ok(message) = ToServer::decode(code, body) {
        let frame = message.encode();
        let (code, body) = unframed(&frame);
        assert_eq!(ToServer::decode(code, body), Ok(message));
    }
}

/// What a server sends: code and body.
fn from_server(data: &[u8]) {
    let Some((code, body)) = wide(data) else { return };
    if let Ok(message) = FromServer::decode(code, body) {
        let frame = message.encode();
        let (code, body) = unframed(&frame);
        assert_eq!(FromServer::decode(code, body), Ok(message));
    }
}

/// The first message of a connection: `u8` code and body.
fn init(data: &[u8]) {
    let Some((&code, body)) = data.split_first() else { return };
    if let Ok(message) = Init::decode(code, body) {
        let frame = message.encode();
        assert_eq!(Init::decode(frame[4], &frame[5..]), Ok(message));
    }
}

/// On a peer connection: code and body.
fn peer_message(data: &[u8]) {
    let Some((code, body)) = wide(data) else { return };
    let decoded = PeerMessage::decode(code, body);
    if code == 9 {
        let token = peer::search_reply_token(body);
        if let Ok(PeerMessage::FileSearchResponse(reply)) = &decoded {
            assert_eq!(token, Ok(reply.token));
        }
    }
    if let Ok(message) = decoded {
        let frame = message.encode();
        let (code, body) = unframed(&frame);
        assert_eq!(PeerMessage::decode(code, body), Ok(message));
    }
}

/// On a distributed connection: `u8` code and body.
fn distributed(data: &[u8]) {
    let Some((&code, body)) = data.split_first() else { return };
    if let Ok(message) = DistributedMessage::decode(code, body) {
        let frame = message.encode();
        assert_eq!(DistributedMessage::decode(frame[4], &frame[5..]), Ok(message));
    }
}

/// The inflated body of a search reply.
fn search_reply(data: &[u8]) {
    if let Ok(reply) = SearchReply::from_inflated(data) {
        assert!(reply.files.len() <= SEARCH_ROWS && reply.locked_files.len() <= SEARCH_ROWS);
        assert!(reply.files.iter().all(|file| file.attributes.len() <= FILE_ATTRIBUTES));
        let body = frame::deflate(&reply.to_inflated());
        assert_eq!(peer::search_reply_token(&body), Ok(reply.token));
        assert_eq!(PeerMessage::decode(9, &body), Ok(PeerMessage::FileSearchResponse(reply)));
    }
}

/// The inflated body of a folder reply.
fn folder_reply(data: &[u8]) {
    if let Ok(message) = PeerMessage::folder_contents_from_inflated(data) {
        if let PeerMessage::FolderContentsResponse { folders, .. } = &message {
            let files: usize = folders.iter().map(|folder| folder.files.len()).sum();
            assert!(folders.len() + files <= FOLDER_ENTRIES);
        }
        let frame = message.encode();
        assert_eq!(PeerMessage::decode(37, &frame[8..]), Ok(message));
    }
}

/// The inflated body of a share list. The check of the inflater and the reader must agree on every list.
fn share_list(data: &[u8]) {
    let folders: Result<Vec<RemoteFolder>, ShareListError> = ShareListReader::new(data).collect();
    let mut inflater = ShareListInflater::new(Vec::new());
    let body = stored(data);
    let pushed = body
        .chunks(usize::from(data.first().copied().unwrap_or_default()) + 1)
        .try_for_each(|chunk| inflater.push(chunk));
    let counted = pushed.and_then(|()| inflater.finish());
    match (folders, counted) {
        (Ok(folders), Ok((inflated, counts))) => {
            assert_eq!(inflated, data);
            let files: usize = folders.iter().map(|folder| folder.files.len()).sum();
            assert_eq!(files, counts.files as usize);
            // A folder in several pieces counts once.
            assert!(folders.len() >= counts.folders as usize);
            let body = share_list_of(&folders).unwrap();
            let again = frame::inflate(&body, data.len() + 64).unwrap();
            let read: Result<Vec<_>, _> = ShareListReader::new(&again[..]).collect();
            assert_eq!(read.unwrap(), folders);
        }
        (Err(_), Err(_)) => {}
        (read, counted) => panic!("reader: {read:?}, inflater: {counted:?}"),
    }
}

/// A zlib stream that holds `data` as it is: compressing would take most of a fuzzer's time.
fn stored(data: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    for chunk in data.chunks(0xffff) {
        let length = u16::try_from(chunk.len()).unwrap();
        stream.push(0);
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(chunk);
    }
    stream.extend([1, 0, 0, 0xff, 0xff]);
    let (a, b) = data.iter().fold((1, 0), |(a, b), &byte| {
        let a = (a + u32::from(byte)) % 65_521;
        (a, (a + b) % 65_521)
    });
    stream.extend((b << 16 | a).to_be_bytes());
    stream
}

/// These folders as a compressed body.
pub(super) fn share_list_of(folders: &[RemoteFolder]) -> Result<Vec<u8>, ShareListError> {
    let mut writer = ShareListWriter::new(Vec::new(), u32::try_from(folders.len()).unwrap())?;
    for folder in folders {
        writer.folder(&folder.name, u32::try_from(folder.files.len()).unwrap())?;
        folder.files.iter().try_for_each(|file| writer.file(file))?;
    }
    writer.finish()
}

/// A compressed share list as it arrives.
fn share_list_inflater(data: &[u8]) {
    let limit = 1 << 20;
    let mut inflater = ShareListInflater::with_limit(Vec::new(), limit);
    let pushed = data.chunks(7).try_for_each(|chunk| inflater.push(chunk));
    if let Ok((inflated, _)) = pushed.and_then(|()| inflater.finish()) {
        assert!(inflated.len() as u64 <= limit);
        assert!(ShareListReader::new(&inflated[..]).all(|folder| folder.is_ok()));
    }
}

/// Any compressed body, whole, in pieces and only its beginning.
fn inflater(data: &[u8]) {
    let limit = 1 << 18;
    let whole = frame::inflate(data, limit);
    let mut inflater = Inflater::new(limit as u64);
    let mut pieces = Vec::new();
    let pushed = data.chunks(3).try_for_each(|chunk| {
        inflater.push(chunk, |piece| {
            pieces.extend_from_slice(piece);
            Ok::<(), FrameError>(())
        })
    });
    assert!(pieces.len() <= limit);
    assert_eq!(pushed.and_then(|()| inflater.finish()).is_ok(), whole.is_ok());
    let mut prefix = [0; 100];
    let prefix = frame::inflate_prefix(data, &mut prefix);
    if let Ok(whole) = whole {
        assert!(whole.capacity() <= limit);
        assert_eq!(pieces, whole);
        assert_eq!(prefix, Ok(&whole[..whole.len().min(100)]));
    }
}

/// Frames of the mesh, one after another.
fn mesh_frame(mut data: &[u8]) {
    let mut frames = Frames::default();
    while !data.is_empty() {
        let taken = frames.wanted().min(data.len());
        let Ok(found) = frames.feed(&data[..taken]) else { return };
        data = &data[taken..];
        let Some(frame) = found else { continue };
        let Some(message) = frame.message else { continue };
        let mut again = Frames::default();
        let mut bytes = &message.encode(frame.id)[..];
        let mut said = None;
        while !bytes.is_empty() {
            let taken = again.wanted().min(bytes.len());
            said = again.feed(&bytes[..taken]).unwrap();
            bytes = &bytes[taken..];
        }
        assert_eq!(said.map(|frame| (frame.id, frame.message)), Some((frame.id, Some(message))));
    }
}

/// A control stream: the first byte says which side we are and how the bytes are cut. After the last action nothing more
/// is said.
fn mesh_session(data: &[u8]) {
    let Some((&how, mut data)) = data.split_first() else { return };
    let side = if how & 1 == 0 { Side::Dialler } else { Side::Listener };
    let mut session = Session::new(side, Hello { version: PROTOCOL, nonce: 7, ..Hello::default() });
    let (mut now, mut closed, mut actions) = (Duration::ZERO, false, Vec::new());
    session.handle(Input::Opened, now, &mut actions);
    session.handle(Input::Ask(1, ContentHash([1; 32])), now, &mut actions);
    while !data.is_empty() && !closed {
        let cut = usize::from(how >> 1) + 1;
        let taken = session.wanted().min(cut).min(data.len());
        session.handle(Input::Bytes(&data[..taken]), now, &mut actions);
        data = &data[taken..];
        now += Duration::from_millis(u64::from(how));
        session.handle(Input::Tick, now, &mut actions);
        for action in actions.drain(..) {
            assert!(!closed, "{action:?} after the end");
            closed = matches!(action, Action::Close(_));
        }
    }
    session.handle(Input::Ended, now, &mut actions);
    session.handle(Input::Bytes(b"x"), now, &mut actions);
    assert!(actions.iter().filter(|action| matches!(action, Action::Close(_))).count() <= usize::from(!closed));
}

/// A request as it is served, and an answer as it is asked for.
fn mesh_request(data: &[u8]) {
    let mut serving = Serving::default();
    let mut left = data;
    while serving.wants() > 0 && !left.is_empty() {
        let taken = serving.wants().min(left.len());
        match serving.request(&left[..taken]) {
            Ok(Served::Decide(wanted)) => {
                assert!(wanted.is_possible());
                assert!(!serving.grant().is_empty());
                assert_eq!(serving.left(), wanted.length());
            }
            Ok(Served::More | Served::Refuse(_)) => {}
            Err(_) => assert!(serving.is_over()),
        }
        left = &left[taken..];
    }
    let (mut asking, _) = Asking::new(Wanted::PieceList(ContentHash([1; 32]), 3 * PIECE_LEN), [1; 16]);
    let mut left = data;
    while asking.wants_head() > 0 && !left.is_empty() {
        let taken = asking.wants_head().min(left.len());
        if asking.head(&left[..taken]).is_err() {
            assert!(asking.is_over());
        }
        left = &left[taken..];
    }
    assert!(asking.left() == 0 || asking.left() == 3 * ENTRY_LEN);
    if asking.left() > 0 && asking.body(left.len() as u64).is_err() {
        assert!(asking.is_over());
    }
}

/// A hash, a length, and a list that should fold to it.
fn piece_list(data: &[u8]) {
    let Some((&content, data)) = data.split_first_chunk() else { return };
    let Some((&size, list)) = data.split_first_chunk() else { return };
    let size = u64::from_le_bytes(size);
    if let Ok(proven) = PieceList::prove(ContentHash(content), size, list) {
        let total: u64 = (0..proven.pieces()).map(|piece| proven.piece_len(piece) as u64).sum();
        assert_eq!(total, size);
        assert!(!proven.holds(proven.pieces(), b"x"));
    }
}
