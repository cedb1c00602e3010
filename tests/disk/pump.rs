//! The pump between loopback sockets and a scratch folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use slskdn::app::pump::{
    Checks, ContainerCheck, Limiter, PlaceOrder, Placing, Pump, PumpConfig, ReceiveOrder, SYNC_EVERY, SendOrder,
};
use slskdn::disk::pool::Pool;
use slskdn::disk::{Backend, Disk};
use slskdn::engine::soulseek::io::{Begin, FileEvent, Input, PlaceError, ReceiveEnd, SendEnd};
use slskdn::model::id::{Token, TransferId, Username};
use slskdn::model::music::WireText;
use slskdn::model::transfer::Partial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(super) const ID: TransferId = TransferId(7);
pub(super) const NAME: &str = "partial";
const OVERLAP: usize = 64 * 1024;

pub(super) struct Rig {
    scratch: tempfile::TempDir,
    pub(super) pump: Pump,
    events: mpsc::Sender<Input>,
    heard: mpsc::Receiver<Input>,
    stop: CancellationToken,
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut PumpConfig)) -> Self {
        Self::with_pool(Pool::new(64), change)
    }

    pub(super) fn with_pool(pool: Pool, change: impl FnOnce(&mut PumpConfig)) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut config = PumpConfig {
            incomplete: scratch.path().join("incomplete"),
            downloads: scratch.path().join("downloads"),
            free_min: 0,
            sync_every: SYNC_EVERY,
        };
        std::fs::create_dir(&config.incomplete).unwrap();
        std::fs::create_dir(&config.downloads).unwrap();
        change(&mut config);
        let (disk, _) = Disk::start(Backend::Auto, pool).unwrap();
        let (events, heard) = mpsc::channel(10_000);
        let pump = Pump::new(disk, Limiter::new(0, 0), config, checks());
        Self { scratch, pump, events, heard, stop: CancellationToken::new() }
    }

    pub(super) fn partial_path(&self) -> PathBuf {
        self.scratch.path().join("incomplete").join(NAME)
    }

    fn held(&self) -> Vec<u8> {
        std::fs::read(self.partial_path()).unwrap()
    }

    pub(super) fn receive(&self, stream: TcpStream, size: usize, begin: Begin) -> JoinHandle<ReceiveEnd> {
        let (pump, events, stop) = (self.pump.clone(), self.events.clone(), self.stop.clone());
        let order = ReceiveOrder { transfer: ID, file: NAME.to_owned(), size: size as u64, begin };
        tokio::spawn(async move { pump.receive(stream, order, &events, &stop).await })
    }

    fn send(&self, stream: TcpStream, path: &Path, size: usize) -> JoinHandle<SendEnd> {
        let (pump, events, stop) = (self.pump.clone(), self.events.clone(), self.stop.clone());
        let local_path = path.to_owned();
        let order = SendOrder { transfer: ID, token: Token(0x0102_0304), local_path, size: size as u64 };
        tokio::spawn(async move { pump.send(stream, order, &events, &stop).await })
    }

    pub(super) async fn place(&self, folder: &str, name: &str, check: bool) -> Result<String, PlaceError> {
        let size = std::fs::metadata(self.partial_path()).map_or(0, |file| file.len());
        match self.step(folder, name, size, check, None).await? {
            Placing::Meant(path) => match self.step(folder, name, size, check, Some(&path)).await? {
                Placing::There(there) => Ok(there),
                Placing::Meant(other) => panic!("{other} instead of {path}"),
            },
            Placing::There(path) => panic!("{path} without being meant"),
        }
    }

    async fn step(
        &self,
        folder: &str,
        name: &str,
        size: u64,
        check: bool,
        meant: Option<&str>,
    ) -> Result<Placing, PlaceError> {
        let (file, folder, name) = (NAME.to_owned(), folder.to_owned(), name.to_owned());
        let meant = meant.map(str::to_owned);
        self.pump.place(PlaceOrder { transfer: ID, file, folder, name, size, check, meant }, &self.events).await
    }

    /// What was reported so far.
    fn events(&mut self) -> Vec<FileEvent> {
        let mut events = Vec::new();
        while let Ok(input) = self.heard.try_recv() {
            let Input::File(ID, event) = input else { panic!("{input:?}") };
            events.push(event);
        }
        events
    }

    /// The next report, progress aside.
    pub(super) async fn next(&mut self) -> FileEvent {
        loop {
            match self.heard.recv().await.unwrap() {
                Input::File(ID, FileEvent::Progress { .. }) => {}
                Input::File(ID, event) => return event,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Counts bytes: a container of this kind is sound when it has an even number of them.
struct Even(usize);

impl ContainerCheck for Even {
    fn feed(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn finish(self: Box<Self>) -> Result<(), String> {
        if self.0.is_multiple_of(2) { Ok(()) } else { Err("odd".to_owned()) }
    }
}

fn checks() -> Checks {
    Arc::new(|extension| (extension == "flac").then(|| Box::new(Even(0)) as Box<dyn ContainerCheck>))
}

pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + at / 251 + at / 65_536) % 256).unwrap()).collect()
}

pub(super) fn this_boot() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap()
}

pub(super) fn partial(synced: usize, boot: u128) -> Partial {
    Partial {
        file: NAME.to_owned(),
        synced: synced as u64,
        boot,
        joins: Vec::new(),
        first_user: Username::from("one"),
        first_path: WireText::from("a\\b"),
    }
}

#[tokio::test]
async fn a_fresh_file_arrives() {
    let mut rig = Rig::new();
    std::fs::write(rig.partial_path(), b"rubbish of an earlier attempt").unwrap();
    let bytes = pattern(3 * 1024 * 1024 + 17);
    let (ours, mut theirs) = pair().await;
    let receiving = rig.receive(ours, bytes.len(), Begin::Fresh);
    assert_eq!(theirs.read_u64_le().await.unwrap(), 0);
    theirs.write_all(&bytes).await.unwrap();
    assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0, "the downloader closes");
    assert_eq!(receiving.await.unwrap(), ReceiveEnd::Complete);
    assert!(rig.held() == bytes);
    let events = rig.events();
    let nothing_yet = FileEvent::Synced { synced: 0, boot: this_boot() };
    assert!(events.starts_with(&[FileEvent::Started { offset: 0 }, nothing_yet]), "{events:?}");
    let synced = FileEvent::Synced { synced: bytes.len() as u64, boot: this_boot() };
    assert!(events.ends_with(&[synced, FileEvent::Received(ReceiveEnd::Complete)]), "{events:?}");
}

#[tokio::test]
async fn closed_early_then_continued() {
    let rig = Rig::new();
    let bytes = pattern(500_000);
    let (ours, mut theirs) = pair().await;
    let receiving = rig.receive(ours, bytes.len(), Begin::Fresh);
    theirs.read_u64_le().await.unwrap();
    theirs.write_all(&bytes[..123_456]).await.unwrap();
    drop(theirs);
    assert_eq!(receiving.await.unwrap(), ReceiveEnd::Closed { position: 123_456 });
    assert!(rig.held() == bytes[..123_456]);

    // The record may lag behind; in the same boot the file's length counts.
    let (ours, mut theirs) = pair().await;
    let receiving = rig.receive(ours, bytes.len(), Begin::Continue(partial(1000, this_boot())));
    assert_eq!(theirs.read_u64_le().await.unwrap(), 123_456);
    theirs.write_all(&bytes[123_456..]).await.unwrap();
    assert_eq!(receiving.await.unwrap(), ReceiveEnd::Complete);
    assert!(rig.held() == bytes);
}

#[tokio::test]
async fn after_a_power_cut_only_synced_bytes_count() {
    let mut rig = Rig::new();
    let bytes = pattern(200_000);
    let mut after_cut = bytes[..100_000].to_vec();
    after_cut.resize(150_000, 0);
    std::fs::write(rig.partial_path(), after_cut).unwrap();
    let (ours, mut theirs) = pair().await;
    let receiving = rig.receive(ours, bytes.len(), Begin::Continue(partial(100_000, this_boot() ^ 1)));
    assert_eq!(theirs.read_u64_le().await.unwrap(), 100_000);
    assert_eq!(std::fs::metadata(rig.partial_path()).unwrap().len(), 100_000);
    // The record learns of this boot before any byte comes: after a kill the file's length counts again.
    assert_eq!(rig.next().await, FileEvent::Started { offset: 100_000 });
    assert_eq!(rig.next().await, FileEvent::Synced { synced: 100_000, boot: this_boot() });
    theirs.write_all(&bytes[100_000..]).await.unwrap();
    assert_eq!(receiving.await.unwrap(), ReceiveEnd::Complete);
    assert!(rig.held() == bytes);
}

#[tokio::test]
async fn nothing_left_to_fetch() {
    for (len, size) in [(1000, 1000), (1500, 1000), (0, 0)] {
        let mut rig = Rig::new();
        std::fs::write(rig.partial_path(), pattern(len)).unwrap();
        let (ours, mut theirs) = pair().await;
        let receiving = rig.receive(ours, size, Begin::Continue(partial(0, this_boot())));
        assert_eq!(theirs.read_u64_le().await.unwrap(), size as u64);
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(receiving.await.unwrap(), ReceiveEnd::Complete);
        assert!(rig.held() == pattern(size));
        let synced = FileEvent::Synced { synced: size as u64, boot: this_boot() };
        assert_eq!(rig.events(), [synced, FileEvent::Received(ReceiveEnd::Complete)]);
    }
}

#[tokio::test]
async fn another_user_must_repeat_the_end() {
    let bytes = pattern(300_000);
    for (flipped, expected) in [
        (None, ReceiveEnd::Complete),
        (Some(0), ReceiveEnd::OverlapDiffers),
        (Some(OVERLAP - 1), ReceiveEnd::OverlapDiffers),
    ] {
        let rig = Rig::new();
        std::fs::write(rig.partial_path(), &bytes[..150_000]).unwrap();
        let (ours, mut theirs) = pair().await;
        let receiving = rig.receive(ours, bytes.len(), Begin::Join(partial(0, this_boot())));
        let offset = 150_000 - OVERLAP;
        assert_eq!(theirs.read_u64_le().await.unwrap(), offset as u64);
        let mut sent = bytes[offset..].to_vec();
        if let Some(at) = flipped {
            sent[at] ^= 1;
        }
        // A refused source sees the connection break.
        let _ = theirs.write_all(&sent).await;
        assert_eq!(receiving.await.unwrap(), expected, "{flipped:?}");
        let kept = if flipped.is_none() { bytes.len() } else { 150_000 };
        assert!(rig.held() == bytes[..kept], "{flipped:?}");
    }
}

#[tokio::test]
async fn too_little_to_compare_begins_again() {
    let rig = Rig::new();
    let bytes = pattern(100_000);
    std::fs::write(rig.partial_path(), vec![9; OVERLAP - 1]).unwrap();
    let (ours, mut theirs) = pair().await;
    let receiving = rig.receive(ours, bytes.len(), Begin::Join(partial(0, this_boot())));
    assert_eq!(theirs.read_u64_le().await.unwrap(), 0);
    theirs.write_all(&bytes).await.unwrap();
    assert_eq!(receiving.await.unwrap(), ReceiveEnd::Complete);
    assert!(rig.held() == bytes);
}

#[tokio::test]
async fn a_source_that_leaves_during_the_comparison_costs_nothing() {
    let rig = Rig::new();
    std::fs::write(rig.partial_path(), pattern(150_000)).unwrap();
    let (ours, mut theirs) = pair().await;
    let receiving = rig.receive(ours, 300_000, Begin::Join(partial(0, this_boot())));
    theirs.read_u64_le().await.unwrap();
    theirs.write_all(&pattern(150_000)[150_000 - OVERLAP..][..100]).await.unwrap();
    drop(theirs);
    assert_eq!(receiving.await.unwrap(), ReceiveEnd::Closed { position: 150_000 });
    assert!(rig.held() == pattern(150_000));
}

#[tokio::test]
async fn more_than_the_size_is_not_taken() {
    let rig = Rig::new();
    let bytes = pattern(200_000);
    let (ours, mut theirs) = pair().await;
    let receiving = rig.receive(ours, 100_001, Begin::Fresh);
    theirs.read_u64_le().await.unwrap();
    let _ = theirs.write_all(&bytes).await;
    assert_eq!(receiving.await.unwrap(), ReceiveEnd::Complete);
    assert!(rig.held() == bytes[..100_001]);
}

#[tokio::test]
async fn stopping_keeps_what_came() {
    let mut rig = Rig::new();
    let bytes = pattern(100_000);
    let (ours, mut theirs) = pair().await;
    let receiving = rig.receive(ours, 1 << 20, Begin::Fresh);
    theirs.read_u64_le().await.unwrap();
    theirs.write_all(&bytes).await.unwrap();
    // The file grows although no block is full: late bytes are written by themselves.
    while !matches!(rig.heard.recv().await, Some(Input::File(ID, FileEvent::Progress { position: 100_000 }))) {}
    assert!(rig.held() == bytes);
    rig.stop.cancel();
    let expected = ReceiveEnd::Stopped { position: 100_000 };
    assert_eq!(receiving.await.unwrap(), expected);
    assert!(rig.held() == bytes);
    let events = rig.events();
    let synced = FileEvent::Synced { synced: 100_000, boot: this_boot() };
    assert!(events.ends_with(&[synced, FileEvent::Received(expected)]), "{events:?}");
}

/// Slow bytes become durable after the interval, while the transfer goes on.
#[tokio::test]
async fn slow_bytes_are_synced_in_time() {
    let mut rig = Rig::with(|config| config.sync_every = Duration::from_millis(1));
    let (ours, mut theirs) = pair().await;
    let receiving = rig.receive(ours, 1000, Begin::Fresh);
    theirs.read_u64_le().await.unwrap();
    theirs.write_all(&pattern(10)).await.unwrap();
    assert_eq!(rig.next().await, FileEvent::Started { offset: 0 });
    assert_eq!(rig.next().await, FileEvent::Synced { synced: 0, boot: this_boot() });
    assert_eq!(rig.next().await, FileEvent::Synced { synced: 10, boot: this_boot() });
    drop(theirs);
    assert_eq!(receiving.await.unwrap(), ReceiveEnd::Closed { position: 10 });
}

#[tokio::test]
async fn the_floor_of_free_space_is_left_alone() {
    let rig = Rig::with(|config| config.free_min = u64::MAX);
    std::fs::write(rig.partial_path(), pattern(500)).unwrap();
    let (ours, mut theirs) = pair().await;
    let receiving = rig.receive(ours, 1000, Begin::Continue(partial(500, this_boot())));
    assert_eq!(receiving.await.unwrap(), ReceiveEnd::DiskFull { position: 500 });
    assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0, "no offset is sent");
    assert!(rig.held() == pattern(500));
}

#[tokio::test]
async fn a_size_beyond_the_disk_is_refused_at_once() {
    let rig = Rig::new();
    for size in [1 << 60, u64::MAX] {
        let (ours, _theirs) = pair().await;
        let order = ReceiveOrder { transfer: ID, file: NAME.to_owned(), size, begin: Begin::Fresh };
        let end = rig.pump.receive(ours, order, &rig.events, &rig.stop).await;
        assert_eq!(end, ReceiveEnd::DiskFull { position: 0 });
    }
}

#[tokio::test]
async fn a_partial_file_that_is_a_link_is_refused() {
    let rig = Rig::new();
    std::fs::write(rig.scratch.path().join("victim"), b"mine").unwrap();
    std::os::unix::fs::symlink(rig.scratch.path().join("victim"), rig.partial_path()).unwrap();
    let (ours, _theirs) = pair().await;
    let end = rig.receive(ours, 100, Begin::Fresh).await.unwrap();
    assert!(matches!(end, ReceiveEnd::DiskError(ref reason) if reason.contains("symbolic link")), "{end:?}");
    assert_eq!(std::fs::read(rig.scratch.path().join("victim")).unwrap(), b"mine");
}

#[tokio::test]
async fn many_downloads_share_a_small_pool() {
    let rig = Rig::new();
    let bytes = pattern(1_000_000);
    let tasks: Vec<_> = (0..80)
        .map(|number| {
            let (pump, events, stop) = (rig.pump.clone(), rig.events.clone(), rig.stop.clone());
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let (ours, mut theirs) = pair().await;
                let order = ReceiveOrder {
                    transfer: ID,
                    file: format!("file {number}"),
                    size: bytes.len() as u64,
                    begin: Begin::Fresh,
                };
                let peer = async {
                    theirs.read_u64_le().await.unwrap();
                    theirs.write_all(&bytes).await.unwrap();
                };
                let (end, ()) = tokio::join!(pump.receive(ours, order, &events, &stop), peer);
                end
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), ReceiveEnd::Complete);
    }
    for number in 0..80 {
        assert!(std::fs::read(rig.scratch.path().join(format!("incomplete/file {number}"))).unwrap() == bytes);
    }
}

#[tokio::test]
async fn a_file_is_sent_from_the_asked_offset() {
    let bytes = pattern(2_000_000);
    for offset in [0, 1, 1_234_567, 2_000_000] {
        let mut rig = Rig::new();
        let path = rig.scratch.path().join("shared");
        std::fs::write(&path, &bytes).unwrap();
        let (ours, mut theirs) = pair().await;
        let sending = rig.send(ours, &path, bytes.len());
        assert_eq!(theirs.read_u32_le().await.unwrap(), 0x0102_0304);
        theirs.write_u64_le(offset as u64).await.unwrap();
        let mut got = vec![0; bytes.len() - offset];
        theirs.read_exact(&mut got).await.unwrap();
        assert!(got == bytes[offset..]);
        drop(theirs);
        let expected = SendEnd::Complete { offset: offset as u64 };
        assert_eq!(sending.await.unwrap(), expected);
        let events = rig.events();
        assert_eq!(events.first(), Some(&FileEvent::Started { offset: offset as u64 }));
        assert_eq!(events.last(), Some(&FileEvent::Sent(expected)));
    }
}

#[tokio::test]
async fn what_cannot_be_sent() {
    let rig = Rig::new();
    let path = rig.scratch.path().join("shared");
    std::fs::write(&path, pattern(1000)).unwrap();
    for (path, size) in [(path.clone(), 999), (path.clone(), 1001), (rig.scratch.path().join("gone"), 1000)] {
        let (ours, mut theirs) = pair().await;
        let end = rig.send(ours, &path, size).await.unwrap();
        assert!(matches!(end, SendEnd::FileError(_)), "{end:?}");
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
    }
    let (ours, mut theirs) = pair().await;
    let sending = rig.send(ours, &path, 1000);
    theirs.read_u32_le().await.unwrap();
    theirs.write_u64_le(1001).await.unwrap();
    assert_eq!(sending.await.unwrap(), SendEnd::Closed { position: 0 });
}

#[tokio::test]
async fn a_user_who_hangs_up() {
    let rig = Rig::new();
    let path = rig.scratch.path().join("shared");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    let (ours, mut theirs) = pair().await;
    let sending = rig.send(ours, &path, 64 << 20);
    theirs.read_u32_le().await.unwrap();
    theirs.write_u64_le(0).await.unwrap();
    theirs.read_exact(&mut [0; 1000]).await.unwrap();
    drop(theirs);
    let end = sending.await.unwrap();
    assert!(matches!(end, SendEnd::Closed { position } if (1000..64 << 20).contains(&position)), "{end:?}");
}

#[tokio::test]
async fn sending_is_stopped() {
    let rig = Rig::new();
    let path = rig.scratch.path().join("shared");
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let (ours, mut theirs) = pair().await;
    let sending = rig.send(ours, &path, 64 << 20);
    theirs.read_u32_le().await.unwrap();
    theirs.write_u64_le(0).await.unwrap();
    theirs.read_exact(&mut [0; 1000]).await.unwrap();
    rig.stop.cancel();
    assert_eq!(sending.await.unwrap(), SendEnd::Stopped);
}

/// The peer takes nothing: its buffers fill, then the patience of a minute runs out. Time is turned by hand.
#[tokio::test]
async fn a_user_who_takes_nothing_is_given_up() {
    let mut rig = Rig::new();
    let path = rig.scratch.path().join("shared");
    std::fs::File::create(&path).unwrap().set_len(256 << 20).unwrap();
    let (ours, mut theirs) = pair().await;
    let sending = rig.send(ours, &path, 256 << 20);
    theirs.read_u32_le().await.unwrap();
    theirs.write_u64_le(0).await.unwrap();
    assert_eq!(rig.next().await, FileEvent::Started { offset: 0 });
    tokio::time::pause();
    // With nothing else to do the paused clock leaps to the next deadline: the stall.
    let end = sending.await.unwrap();
    assert!(matches!(end, SendEnd::Closed { position } if (1..256 << 20).contains(&position)), "{end:?}");
}

#[tokio::test]
async fn a_user_who_says_nothing_is_given_up() {
    let rig = Rig::new();
    let path = rig.scratch.path().join("shared");
    std::fs::write(&path, pattern(10)).unwrap();
    let (ours, mut theirs) = pair().await;
    let sending = rig.send(ours, &path, 10);
    theirs.read_u32_le().await.unwrap();
    tokio::time::pause();
    assert_eq!(sending.await.unwrap(), SendEnd::Closed { position: 0 });
}

#[tokio::test]
async fn a_user_who_never_closes_has_it_all_the_same() {
    let rig = Rig::new();
    let path = rig.scratch.path().join("shared");
    std::fs::write(&path, pattern(10)).unwrap();
    let (ours, mut theirs) = pair().await;
    let sending = rig.send(ours, &path, 10);
    theirs.read_u32_le().await.unwrap();
    theirs.write_u64_le(4).await.unwrap();
    theirs.read_exact(&mut [0; 6]).await.unwrap();
    tokio::time::pause();
    assert_eq!(sending.await.unwrap(), SendEnd::Complete { offset: 4 });
}

#[tokio::test]
async fn two_pumps_meet() {
    let (sender, receiver) = (Rig::new(), Rig::new());
    let bytes = pattern(10_000_000);
    let path = sender.scratch.path().join("shared");
    std::fs::write(&path, &bytes).unwrap();
    let (ours, mut theirs) = pair().await;
    let sending = sender.send(ours, &path, bytes.len());
    assert_eq!(theirs.read_u32_le().await.unwrap(), 0x0102_0304);
    let receiving = receiver.receive(theirs, bytes.len(), Begin::Fresh);
    assert_eq!(receiving.await.unwrap(), ReceiveEnd::Complete);
    assert_eq!(sending.await.unwrap(), SendEnd::Complete { offset: 0 });
    assert!(receiver.held() == bytes);
}

#[tokio::test]
async fn finished_files_are_placed_and_never_overwrite() {
    let mut rig = Rig::new();
    let folder = rig.scratch.path().join("downloads/An Artist/An Album");
    for (name, bytes) in [("song.flac", b"1"), ("song (1).flac", b"2"), ("song (2).flac", b"3")] {
        std::fs::write(rig.partial_path(), bytes).unwrap();
        let placed = rig.place("An Artist/An Album", "song.flac", false).await.unwrap();
        assert_eq!(placed, folder.join(name).to_str().unwrap());
        assert_eq!(rig.events(), [FileEvent::Meant(placed.clone()), FileEvent::Placed(Ok(placed.clone()))]);
        assert_eq!(std::fs::read(placed).unwrap(), bytes);
        assert!(!rig.partial_path().exists());
    }
}

/// A process killed after the file went to its place, and before the record says so, finds it there.
#[tokio::test]
async fn a_file_that_is_in_its_place_is_not_placed_again() {
    let rig = Rig::new();
    std::fs::write(rig.partial_path(), b"song").unwrap();
    let placed = rig.place("Album", "song.flac", false).await.unwrap();
    let again = rig.step("Album", "song.flac", 4, true, Some(&placed)).await;
    assert_eq!(again, Ok(Placing::There(placed.clone())));
    // Another size: that is not it. And what is there without being meant is somebody else's.
    for (size, meant) in [(5, Some(placed.as_str())), (4, None)] {
        let nothing = rig.step("Album", "song.flac", size, false, meant).await;
        assert!(matches!(nothing, Err(PlaceError::Disk(_))), "{nothing:?}");
    }
    // Taken by another file meanwhile: the partial file stays for another place.
    std::fs::write(rig.partial_path(), b"tune").unwrap();
    let other = rig.step("Album", "song.flac", 4, false, Some(&placed)).await.unwrap();
    assert_eq!(other, Placing::Meant(placed.replace("song", "song (1)")));
    assert!(rig.partial_path().exists());
}

#[tokio::test]
async fn joined_files_must_pass_their_check() {
    let rig = Rig::new();
    for (len, name, failure) in [
        (1_000_000, "a.FLAC", None),
        (1_000_001, "b.flac", Some("odd")),
        (10, "c.mp3", Some("\"mp3\" files carry no checksums")),
    ] {
        std::fs::write(rig.partial_path(), pattern(len)).unwrap();
        let placed = rig.place("", name, true).await;
        match failure {
            None => assert!(std::fs::read(placed.unwrap()).unwrap() == pattern(len)),
            Some(reason) => {
                assert_eq!(placed, Err(PlaceError::CheckFailed(reason.to_owned())));
                assert!(rig.partial_path().exists(), "the bytes stay");
            }
        }
    }
}

#[tokio::test]
async fn unsafe_places_are_refused() {
    let rig = Rig::new();
    std::fs::write(rig.partial_path(), b"x").unwrap();
    for (folder, name) in [("..", "a"), ("/tmp", "a"), ("a/../..", "a"), ("", "../a"), ("", "a/b"), ("", "..")] {
        let refused = rig.place(folder, name, false).await;
        assert!(matches!(refused, Err(PlaceError::Disk(_))), "{folder} {name}: {refused:?}");
    }
    std::os::unix::fs::symlink("/tmp", rig.scratch.path().join("downloads/link")).unwrap();
    assert!(rig.place("link", "a", false).await.is_err());
    assert!(rig.partial_path().exists());
}

#[tokio::test]
async fn a_finished_file_waits_for_the_downloads_folder() {
    let rig = Rig::with(|config| config.downloads = config.incomplete.join("../stick/Downloads"));
    let (stick, bytes) = (rig.scratch.path().join("stick"), pattern(150_000));
    std::fs::write(rig.partial_path(), &bytes).unwrap();
    let away = |refused| matches!(refused, Err(PlaceError::FolderAway(_)));
    assert!(away(rig.place("an album", "a.mp3", false).await));
    assert!(!stick.exists(), "the stick is plugged in by its owner alone");
    // Nor is a file that may be there given up.
    let meant = stick.join("Downloads/an album/b.mp3").to_str().unwrap().to_owned();
    std::fs::rename(rig.partial_path(), rig.scratch.path().join("kept")).unwrap();
    assert!(away(rig.step("an album", "b.mp3", 150_000, false, Some(&meant)).await.map(|_| String::new())));
    std::fs::rename(rig.scratch.path().join("kept"), rig.partial_path()).unwrap();

    std::fs::create_dir(&stick).unwrap();
    rig.place("an album", "a.mp3", false).await.unwrap();
    assert!(std::fs::read(stick.join("Downloads/an album/a.mp3")).unwrap() == bytes);
    assert!(!rig.partial_path().exists());
}

/// `/dev/shm` is another file system wherever there is one.
#[tokio::test]
async fn another_file_system_gets_a_copy() {
    let elsewhere = tempfile::tempdir_in("/dev/shm").expect("a tmpfs at /dev/shm");
    let rig = Rig::with(|config| config.downloads = elsewhere.path().to_owned());
    let bytes = pattern(1_500_000);
    std::fs::write(elsewhere.path().join("a.mp3"), b"taken").unwrap();
    std::fs::write(elsewhere.path().join(format!(".{NAME}")), b"half a copy of an earlier run").unwrap();
    std::fs::write(rig.partial_path(), &bytes).unwrap();
    let placed = rig.place("", "a.mp3", false).await.unwrap();
    assert_eq!(placed, elsewhere.path().join("a (1).mp3").to_str().unwrap());
    assert!(std::fs::read(placed).unwrap() == bytes);
    assert!(!rig.partial_path().exists());
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 2);
    // Killed after the copy, before the original was removed.
    std::fs::write(rig.partial_path(), &bytes).unwrap();
    let copy = elsewhere.path().join("a (1).mp3").to_str().unwrap().to_owned();
    let again = rig.step("", "a.mp3", bytes.len() as u64, false, Some(&copy)).await;
    assert_eq!(again, Ok(Placing::There(copy)));
    assert!(!rig.partial_path().exists());
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn discarding_forgets() {
    let rig = Rig::new();
    std::fs::write(rig.partial_path(), b"x").unwrap();
    rig.pump.discard(NAME).await.unwrap();
    rig.pump.discard(NAME).await.unwrap();
    assert!(!rig.partial_path().exists());
    assert!(rig.pump.discard("../downloads").await.is_err());
}
