//! Share lists, larger than anybody wants in memory.

use std::fs::{self, File};

use slskdn::engine::soulseek::frame::deflate;
use slskdn::engine::soulseek::io::{ConnEvent, NetAction, Purpose};
use slskdn::engine::soulseek::peer::{PeerMessage, RemoteFile};
use slskdn::engine::soulseek::sharelist::{ShareListReader, ShareListWriter};
use slskdn::model::id::Username;
use slskdn::model::limits;
use slskdn::model::music::{Attributes, WireText};
use slskdn::net::soulseek::Deadlines;

use super::rig::{Rig, SOON, patient, wide};

const FOLDERS: u32 = 100;
const FILES_EACH: u32 = 650;

/// A list that hardly compresses: more than 8 MB on the wire.
fn large_list() -> Vec<u8> {
    let mut list = ShareListWriter::new(Vec::new(), FOLDERS).unwrap();
    let mut state = 1_u64;
    for folder in 0..FOLDERS {
        list.folder(&WireText::from(format!("Music\\{folder}")), FILES_EACH).unwrap();
        for _ in 0..FILES_EACH {
            let name: String = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(b'!' + u8::try_from(state >> 57).unwrap() % 90)
            })
            .take(180)
            .collect();
            list.file(&RemoteFile::new(name.as_str(), 1, &Attributes::default())).unwrap();
        }
    }
    list.finish().unwrap()
}

fn small_list() -> Vec<u8> {
    let mut list = ShareListWriter::new(Vec::new(), 1).unwrap();
    list.folder(&WireText::from("Music"), 0).unwrap();
    list.finish().unwrap()
}

fn spooled(rig: &Rig) -> Vec<String> {
    let entries = fs::read_dir(rig.dir.path().join("spool")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

async fn received(rig: &mut Rig) -> (u32, u32) {
    match rig.conn_event().await {
        (_, ConnEvent::Peer(PeerMessage::SharedFileList { folders, files })) => (folders, files),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_list_streams_both_ways() {
    let mut rig = Rig::start().await;
    let list = large_list();
    assert!(list.len() > 8_000_000, "{}", list.len());
    let frame = wide(5, &list);

    let ours = rig.dir.path().join("shares.z");
    fs::write(&ours, &list).unwrap();
    rig.net.set_share_list(ours);
    let (mut user, conn) = rig.caller("P", Purpose::Peer).await;
    rig.net.perform(NetAction::SendShareList(conn));
    rig.net.perform(NetAction::SendPeer(conn, PeerMessage::UserInfoRequest));
    assert!(user.read(frame.len()).await == frame, "every byte as it is in the file");
    assert_eq!(user.read(8).await, wide(15, &[]), "and the next message behind it");

    let them = Username::from("../them");
    rig.net.perform(NetAction::ExpectShareList(conn, them.clone()));
    user.send(&frame).await;
    assert_eq!(received(&mut rig).await, (FOLDERS, FOLDERS * FILES_EACH));
    let spool = rig.net.spool_path(&them);
    assert_eq!(spool.parent().unwrap(), rig.dir.path().join("spool"));
    let files: usize = ShareListReader::new(File::open(spool).unwrap()).map(|folder| folder.unwrap().files.len()).sum();
    assert_eq!(files, (FOLDERS * FILES_EACH) as usize);
    assert_eq!(spooled(&rig).len(), 1, "no partial file is left");

    // The next one was not asked for.
    user.send(&wide(5, &small_list())).await;
    rig.violated(conn, "nobody asked").await;
    rig.end().await;
}

#[tokio::test]
async fn without_a_list_of_ours_an_empty_one_goes_out() {
    let mut rig = Rig::start().await;
    let (mut user, conn) = rig.caller("P", Purpose::Peer).await;
    let empty = wide(5, &ShareListWriter::new(Vec::new(), 0).unwrap().finish().unwrap());
    rig.net.perform(NetAction::SendShareList(conn));
    assert_eq!(user.read(empty.len()).await, empty);
    rig.net.set_share_list(rig.dir.path().join("not there"));
    rig.net.perform(NetAction::SendShareList(conn));
    assert_eq!(user.read(empty.len()).await, empty);
    rig.end().await;
}

#[tokio::test]
async fn an_unasked_list_is_a_violation() {
    let mut rig = Rig::start().await;
    let (mut user, conn) = rig.caller("P", Purpose::Peer).await;
    user.send(&wide(5, &small_list())).await;
    rig.violated(conn, "nobody asked").await;
    user.hung_up().await;
    assert!(spooled(&rig).is_empty());
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_and_damage_leave_nothing_behind() {
    let mut rig = Rig::start().await;
    let bomb = deflate(&vec![0; usize::try_from(limits::INFLATED_SHARES).unwrap() + 1]);
    let mut damaged = small_list();
    damaged[4] ^= 0xff;
    let cut = small_list()[..8].to_vec();
    for (body, says) in [(bomb, "inflates to more"), (damaged, "damaged"), (cut, "too early"), (vec![], "too early")] {
        let (mut user, conn) = rig.caller("P", Purpose::Peer).await;
        rig.net.perform(NetAction::ExpectShareList(conn, Username::from("them")));
        user.send(&wide(5, &body)).await;
        rig.violated(conn, says).await;
        assert!(spooled(&rig).is_empty(), "{says}");
    }
    assert_eq!(rig.net.stats().violations, 4);
    rig.end().await;
}

#[tokio::test]
async fn a_list_that_stops_coming_is_given_up() {
    let mut rig = Rig::start_with(Deadlines { frame: SOON, ..patient() }).await;
    let (mut user, conn) = rig.caller("P", Purpose::Peer).await;
    rig.net.perform(NetAction::ExpectShareList(conn, Username::from("them")));
    user.send(&wide(5, &small_list())[..12]).await;
    let (reason, violation) = rig.closed(conn).await;
    assert!(!violation && reason.contains("did not go on"), "{reason:?}");
    assert!(spooled(&rig).is_empty());
    rig.end().await;
}

#[tokio::test]
async fn the_oldest_list_makes_room() {
    let mut rig = Rig::start().await;
    let (mut user, conn) = rig.caller("P", Purpose::Peer).await;
    for n in 0..=limits::BROWSE_SPOOLS {
        let them = Username::new(format!("user {n}"));
        rig.net.perform(NetAction::ExpectShareList(conn, them.clone()));
        user.send(&wide(5, &small_list())).await;
        assert_eq!(received(&mut rig).await, (1, 0));
        // Older by a day each, so that the order does not hang on the clock's resolution.
        let age = std::time::Duration::from_secs(86_400 * (100 - n as u64));
        let spool = File::options().write(true).open(rig.net.spool_path(&them)).unwrap();
        spool.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000) - age).unwrap();
    }
    assert_eq!(spooled(&rig).len(), limits::BROWSE_SPOOLS);
    assert!(!rig.net.spool_path(&Username::from("user 0")).exists());
    assert!(rig.net.spool_path(&Username::from("user 1")).exists());
    rig.end().await;
}
