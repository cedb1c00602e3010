//! Bombs, floods and lies: each is refused before it costs memory.

use std::io::Write;

use flate2::{Compress, Compression, FlushCompress};
use slskdn::engine::soulseek::frame::{self, FrameError, Inflater, Writer};
use slskdn::engine::soulseek::peer::{self, PeerMessage, SearchReply};
use slskdn::engine::soulseek::server::FromServer;
use slskdn::engine::soulseek::sharelist::{ShareListError, ShareListInflater, ShareListReader};
use slskdn::model::limits::{
    EXCLUDED_PHRASES, FOLDER_ENTRIES, FRAME_PEER, FRAME_SHARES, INFLATED_FOLDER, INFLATED_RESULTS, INFLATED_SHARES,
    POSSIBLE_PARENTS, PRIVILEGED_USERS, SEARCH_ROWS,
};

const MILLION: u32 = 1_000_000;

/// A zlib stream that begins with `start` and goes on with `mib` MiB of zeros. Each MiB is flushed so that it stands for
/// itself, and one is repeated: a bomb of 1 GiB costs the work of two.
fn bomb(start: &[u8], mib: usize) -> Vec<u8> {
    let mut stream = Compress::new(Compression::best(), true);
    let zeros = vec![0; 1 << 20];
    let mut piece = |bytes: &[u8]| {
        let mut compressed = Vec::with_capacity(1 << 16);
        stream.compress_vec(bytes, &mut compressed, FlushCompress::Full).unwrap();
        compressed
    };
    let mut bomb = piece(start);
    bomb.extend(piece(&zeros));
    bomb.extend(piece(&zeros).repeat(mib - 1));
    bomb
}

/// Counts what is written to it and keeps nothing.
#[derive(Default)]
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn bombs_stop_at_the_limit() {
    let bomb = bomb(b"", 1024);
    assert!(bomb.len() < 2 << 20, "{}", bomb.len());

    let mut inflater = Inflater::new(1 << 20);
    let mut written = 0;
    let pushed = inflater.push(&bomb, |piece| {
        assert!(piece.len() <= 1 << 16, "in steps");
        written += piece.len();
        Ok::<(), FrameError>(())
    });
    assert_eq!(pushed, Err(FrameError::InflatedTooLong { length_max: 1 << 20 }));
    assert!(written <= 1 << 20, "{written}");

    let results = FrameError::InflatedTooLong { length_max: INFLATED_RESULTS as u64 };
    assert_eq!(PeerMessage::decode(9, &bomb), Err(results));
    let folder = FrameError::InflatedTooLong { length_max: INFLATED_FOLDER as u64 };
    assert_eq!(PeerMessage::decode(37, &bomb), Err(folder));
    // Its token costs only the first bytes.
    assert_eq!(peer::search_reply_token(&bomb).map(|token| token.0), Ok(0));
}

#[test]
fn a_share_list_bomb_fills_no_spool() {
    // A folder whose file count is believable, so that the shape holds while the zeros last.
    let mut start = Writer::body();
    start.u32(1).u32(0).u32(3_000_000);
    let bomb = bomb(&start.finish(), 1024);
    let mut inflater = ShareListInflater::new(Counter::default());
    let refused = bomb.chunks(1 << 14).try_for_each(|chunk| inflater.push(chunk));
    let Err(ShareListError::Frame(error)) = refused else { panic!("{refused:?}") };
    assert_eq!(error, FrameError::InflatedTooLong { length_max: INFLATED_SHARES });
    assert!(inflater.written() <= INFLATED_SHARES + (1 << 16), "{}", inflater.written());
}

#[test]
fn lengths_are_refused_before_they_are_read() {
    for length in [0_u32, 3] {
        let mut header = [0; 8];
        header[..4].copy_from_slice(&length.to_le_bytes());
        assert_eq!(frame::wide_header(header, peer::frame_max), Err(FrameError::FrameTooShort { length }));
    }
    assert_eq!(frame::narrow_header([0; 5], 16), Err(FrameError::FrameTooShort { length: 0 }));
    for (code, length_max) in [(43_u8, FRAME_PEER), (5, FRAME_SHARES), (255, FRAME_PEER)] {
        for length in [length_max + 1, 1 << 31, u32::MAX] {
            let mut header = [code, 0, 0, 0, code, 0, 0, 0];
            header[..4].copy_from_slice(&length.to_le_bytes());
            let refusal = Err(FrameError::FrameTooLong { length, length_max });
            assert_eq!(frame::wide_header(header, peer::frame_max), refusal);
        }
        let mut header = [code, 0, 0, 0, code, 0, 0, 0];
        header[..4].copy_from_slice(&length_max.to_le_bytes());
        assert_eq!(frame::wide_header(header, peer::frame_max), Ok((u32::from(code), length_max as usize - 4)));
    }
}

/// A list of a million of these entries.
fn million(before: &[u8], entry: &[u8], after: &[u8]) -> Vec<u8> {
    let mut w = Writer::body();
    w.bytes(before).u32(MILLION).bytes(&entry.repeat(MILLION as usize)).bytes(after);
    w.finish()
}

#[test]
fn endless_lists_of_the_server_are_kept_to_their_limit() {
    let Ok(FromServer::PrivilegedUsers { users }) = FromServer::decode(69, &million(b"", &[0; 4], b"")) else {
        panic!()
    };
    assert_eq!(users.len(), PRIVILEGED_USERS);
    let Ok(FromServer::ExcludedSearchPhrases { phrases }) = FromServer::decode(160, &million(b"", &[0; 4], b"")) else {
        panic!()
    };
    assert_eq!(phrases.len(), EXCLUDED_PHRASES);
    let Ok(FromServer::PossibleParents { parents }) = FromServer::decode(102, &million(b"", &[0; 12], b"")) else {
        panic!()
    };
    assert_eq!(parents.len(), POSSIBLE_PARENTS);
}

#[test]
fn endless_lists_of_users_are_kept_to_their_limit() {
    let body = million(b"\x01\x00\x00\x00a\x07\x00\x00\x00", &[0; 21], &[0; 13]);
    let reply = SearchReply::from_inflated(&body).unwrap();
    assert_eq!(reply.files.len(), SEARCH_ROWS);
    assert_eq!(reply.files.capacity(), SEARCH_ROWS);
    let refusal = FrameError::InflatedTooLong { length_max: INFLATED_RESULTS as u64 };
    assert_eq!(PeerMessage::decode(9, &frame::deflate(&body)), Err(refusal));

    // A million folders, then one folder with a million files.
    for body in [million(&[0; 8], &[0; 8], b""), million(b"\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0", &[0; 21], b"")] {
        let message = PeerMessage::folder_contents_from_inflated(&body).unwrap();
        let PeerMessage::FolderContentsResponse { folders, .. } = message else { panic!() };
        let files: usize = folders.iter().map(|folder| folder.files.len()).sum();
        assert_eq!(folders.len() + files, FOLDER_ENTRIES);
    }
}

#[test]
fn a_share_list_with_a_million_files_is_read_in_pieces() {
    let list = million(b"\x01\0\0\0\x01\0\0\0a", &[0; 21], &[0; 8]);
    let mut inflater = ShareListInflater::new(Counter::default());
    frame::deflate(&list).chunks(1 << 14).for_each(|chunk| inflater.push(chunk).unwrap());
    let (spool, counts) = inflater.finish().unwrap();
    assert_eq!((spool.0, counts.folders, counts.files), (list.len() as u64, 1, MILLION));

    let mut files = 0;
    for folder in ShareListReader::new(&list[..]) {
        let folder = folder.unwrap();
        assert_eq!(folder.name.as_str(), "a");
        assert!(folder.files.len() <= 50_000, "{}", folder.files.len());
        files += folder.files.len();
    }
    assert_eq!(files, MILLION as usize);
}

#[test]
fn counts_that_cannot_be_are_refused_at_once() {
    let most = [0xff; 4];
    for count in [&most[..], &[0xff, 0xff, 0xff, 0x7f], &[2, 0, 0, 0]] {
        let refused = |result: Result<(), FrameError>| {
            assert!(matches!(result, Err(FrameError::CountTooLarge { .. })), "{result:?}");
        };
        refused(FromServer::decode(69, count).map(drop));
        refused(FromServer::decode(102, count).map(drop));
        refused(FromServer::decode(160, count).map(drop));
        refused(SearchReply::from_inflated(&[&[0; 8], count].concat()).map(drop));
        refused(PeerMessage::folder_contents_from_inflated(&[&[0; 8], count].concat()).map(drop));
    }
    let mut inflater = ShareListInflater::new(Counter::default());
    assert!(matches!(
        inflater.push(&frame::deflate(&most)),
        Err(ShareListError::Frame(FrameError::CountTooLarge { .. }))
    ));
    assert_eq!(inflater.written(), 4);
}
