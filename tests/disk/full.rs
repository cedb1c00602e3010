//! A disk that is really full: a small tmpfs in a mount namespace of its own.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use slskdn::engine::soulseek::io::{Begin, FileEvent, PlaceError, ReceiveEnd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::pump::{NAME, Rig, pair, partial, pattern, this_boot};

const CHILD: &str = "SLSKDN_TEST_FULL";

#[test]
fn a_full_disk_costs_nothing() {
    if let Some(mounted) = std::env::var_os(CHILD) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(fill_and_go_on(Path::new(&mounted)));
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let test = "full::a_full_disk_costs_nothing";
    let script = "mount -t tmpfs -o size=4m,nr_inodes=64 none \"$0\" && exec \"$@\"";
    let mut child = Command::new("unshare");
    child.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(scratch.path());
    child.arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture"]);
    let output = child.env(CHILD, scratch.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

/// Writes until nothing fits any more.
fn fill(path: &Path) {
    let mut filler = std::fs::File::create(path).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
}

async fn fill_and_go_on(mounted: &Path) {
    let incomplete = mounted.join("incomplete");
    std::fs::create_dir(&incomplete).unwrap();
    let held = incomplete.join(NAME);
    let mut rig = Rig::with(|config| config.incomplete.clone_from(&incomplete));
    let bytes = pattern(2 << 20);

    // Room is reserved at the beginning, so the disk cannot fill up under this download...
    let (ours, mut theirs) = pair().await;
    let receiving = rig.receive(ours, bytes.len(), Begin::Fresh);
    assert_eq!(theirs.read_u64_le().await.unwrap(), 0);
    assert_eq!(rig.next().await, FileEvent::Started { offset: 0 });
    assert_eq!(rig.next().await, FileEvent::Synced { synced: 0, boot: this_boot() });
    fill(&mounted.join("filler"));
    // ... unless the file system cannot reserve, which is what giving the reserved room away amounts to.
    std::fs::File::options().write(true).open(&held).unwrap().set_len(0).unwrap();
    fill(&mounted.join("more filler"));
    std::fs::File::options().write(true).open(mounted.join("filler")).unwrap().set_len(1 << 20).unwrap();
    let _ = theirs.write_all(&bytes).await;
    let end = receiving.await.unwrap();
    let ReceiveEnd::DiskFull { position } = end else { panic!("{end:?}") };
    assert!(position > 0 && position < bytes.len() as u64, "{position}");
    let there = std::fs::read(&held).unwrap();
    assert!(there == bytes[..there.len()] && there.len() as u64 == position, "what is claimed is there");

    // As long as it is full the download does not even begin.
    let go_on = || Begin::Continue(partial(0, this_boot()));
    let (ours, _theirs) = pair().await;
    assert_eq!(rig.receive(ours, bytes.len(), go_on()).await.unwrap(), ReceiveEnd::DiskFull { position });

    // Room again: it goes on where it was.
    std::fs::remove_file(mounted.join("more filler")).unwrap();
    std::fs::remove_file(mounted.join("filler")).unwrap();
    let (ours, mut theirs) = pair().await;
    let receiving = rig.receive(ours, bytes.len(), go_on());
    assert_eq!(theirs.read_u64_le().await.unwrap(), position);
    theirs.write_all(&bytes[there.len()..]).await.unwrap();
    assert_eq!(receiving.await.unwrap(), ReceiveEnd::Complete);
    assert!(std::fs::read(&held).unwrap() == bytes);

    // A finished file that finds no room on the disk of the downloads folder stays where it is, and holds up nobody else.
    let downloads = mounted.join("downloads");
    std::fs::create_dir(&downloads).unwrap();
    let rig = Rig::with(|config| config.downloads.clone_from(&downloads));
    fill(&mounted.join("filler"));
    std::fs::write(rig.partial_path(), &bytes).unwrap();
    let refused = rig.place("", "a.mp3", false).await;
    assert!(matches!(&refused, Err(PlaceError::FolderAway(why)) if why.contains("no room")), "{refused:?}");
    assert!(std::fs::read(rig.partial_path()).unwrap() == bytes);
    assert_eq!(std::fs::read_dir(&downloads).unwrap().count(), 0);

    // Nor does it where not even that folder finds room, as on a disk that was just plugged in.
    let mut names = 0..;
    while std::fs::File::create(mounted.join(names.next().unwrap().to_string())).is_ok() {}
    let rig = Rig::with(|config| config.downloads = mounted.join("Downloads"));
    std::fs::write(rig.partial_path(), &bytes).unwrap();
    let refused = rig.place("", "a.mp3", false).await;
    assert!(matches!(&refused, Err(PlaceError::FolderAway(why)) if why.contains("no room")), "{refused:?}");
    assert!(std::fs::read(rig.partial_path()).unwrap() == bytes);
}
