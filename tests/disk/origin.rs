//! The end of a user's file beside that of one that is here.

use slskdn::disk::pool::Pool;
use slskdn::engine::soulseek::io::Compared;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::pump::Rig;

const SAMPLE: usize = 64 * 1024;

/// No two stretches of it are alike.
fn content(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// What a user is asked for, and how what it `sends` then compares with a file that is here.
async fn ask(
    ours: &[u8],
    size: usize,
    change: impl FnOnce(&std::path::Path),
    sends: impl FnOnce(usize) -> Vec<u8>,
) -> (usize, Compared) {
    // One block is enough: whoever held one and waited for another could wait for ever.
    let pool = Pool::new(2);
    let _other = pool.take().await;
    let rig = Rig::with_pool(pool, |_| {});
    let path = rig.pump.config().downloads.join("song.flac");
    std::fs::write(&path, ours).unwrap();
    change(&path);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (there, here) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (mut there, here) = (there.unwrap(), here.unwrap().0);
    let stop = CancellationToken::new();
    let user = async {
        let offset = usize::try_from(there.read_u64_le().await.unwrap()).unwrap();
        there.write_all(&sends(offset)).await.unwrap();
        there.shutdown().await.unwrap();
        // Until we close.
        let _ = there.read_to_end(&mut Vec::new()).await;
        offset
    };
    tokio::join!(user, rig.pump.compare_end(here, &path, size as u64, &stop))
}

async fn check(len: usize, sends: impl FnOnce(&[u8], usize) -> Vec<u8>) -> (usize, Compared) {
    let ours = content(len);
    ask(&ours, len, |_| {}, |offset| sends(&ours, offset)).await
}

#[tokio::test]
async fn the_last_bytes_are_asked_for_and_compared() {
    for len in [1, SAMPLE - 1, SAMPLE, SAMPLE + 1, 5 * SAMPLE + 77] {
        let (asked, compared) = check(len, |ours, at| ours[at..].to_vec()).await;
        assert_eq!((asked, compared), (len.saturating_sub(SAMPLE), Compared::Same), "{len}");
        let (_, compared) = check(len, |ours, at| [&ours[at..len - 1], &[!ours[len - 1]]].concat()).await;
        assert_eq!(compared, Compared::Other, "{len}");
    }
}

#[tokio::test]
async fn who_sends_more_is_not_heard_to_the_end() {
    let (_, compared) = check(5 * SAMPLE, |ours, at| [&ours[at..], ours].concat()).await;
    assert_eq!(compared, Compared::Same);
}

fn unknown(compared: &Compared, words: &str) {
    assert!(matches!(compared, Compared::Unknown(why) if why.contains(words)), "{compared:?}: {words}");
}

#[tokio::test]
async fn who_ends_too_early_says_only_what_it_sent() {
    let (_, compared) = check(5 * SAMPLE, |ours, at| ours[at..at + 100].to_vec()).await;
    unknown(&compared, "100 of 65536 bytes came");
    let (_, compared) = check(5 * SAMPLE, |_, _| Vec::new()).await;
    unknown(&compared, "0 of 65536 bytes came");
    let (_, compared) = check(5 * SAMPLE, |ours, at| vec![!ours[at], 7, 7]).await;
    assert_eq!(compared, Compared::Other);
}

#[tokio::test]
async fn who_begins_at_the_beginning_whatever_it_is_asked_for_is_no_liar() {
    let (_, compared) = check(5 * SAMPLE, |ours, _| ours.to_vec()).await;
    unknown(&compared, "from the beginning");
}

#[tokio::test]
async fn a_file_that_is_not_here_as_it_was_is_not_asked_about() {
    let ours = content(3 * SAMPLE);
    let nothing = |asked: usize| {
        assert_eq!(asked, 3 * SAMPLE - 1, "the last byte, so that the user has sent what was asked for");
        vec![7]
    };
    let (_, compared) = ask(&ours, 3 * SAMPLE, |path| std::fs::remove_file(path).unwrap(), nothing).await;
    unknown(&compared, "not where it was put");
    let (_, compared) = ask(&ours[1..], 3 * SAMPLE, |_| {}, nothing).await;
    unknown(&compared, "196607 bytes by now");
    let linked = |path: &std::path::Path| {
        std::fs::rename(path, path.with_extension("moved")).unwrap();
        std::os::unix::fs::symlink("song.moved", path).unwrap();
    };
    let (_, compared) = ask(&ours, 3 * SAMPLE, linked, nothing).await;
    unknown(&compared, "not where it was put");
}
