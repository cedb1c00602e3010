//! One suite for both backends.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use slskdn::disk::pool::{BLOCK_LEN, Block, Pool};
use slskdn::disk::{Backend, BackendReport, Disk, DiskError, File, Folder};

/// Starts a backend. `None`, with a line on stderr, where the system refuses io_uring: the other half of the suite
/// still runs, and `refused_io_uring_falls_back` proves that this is what happens.
fn start(backend: Backend, blocks: usize) -> Option<Disk> {
    match Disk::start(backend, Pool::new(blocks)) {
        Ok((disk, report)) => {
            let name = if backend == Backend::Uring { "io_uring" } else { "blocking" };
            assert_eq!(report.name, name);
            Some(disk)
        }
        Err(error) => {
            eprintln!("only the blocking backend is tested: {error}");
            None
        }
    }
}

struct Place {
    disk: Disk,
    scratch: tempfile::TempDir,
    folder: Folder,
}

impl Place {
    async fn new(disk: Disk) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let folder = disk.open_folder(scratch.path()).await.unwrap();
        Self { disk, scratch, folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.scratch.path().join(name)
    }

    async fn blocks(&self, bytes: &[u8]) -> Vec<Block> {
        let mut blocks = Vec::new();
        for chunk in bytes.chunks(BLOCK_LEN) {
            let mut block = self.disk.pool().take().await;
            assert_eq!(block.push(chunk), chunk.len());
            blocks.push(block);
        }
        blocks
    }

    async fn empty(&self, count: usize) -> Vec<Block> {
        let mut blocks = Vec::new();
        for _ in 0..count {
            blocks.push(self.disk.pool().take().await);
        }
        blocks
    }
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 31 + at / 997 + usize::from(seed)) % 256).unwrap()).collect()
}

fn joined(blocks: &[Block]) -> Vec<u8> {
    blocks.iter().flat_map(|block| block.bytes().to_vec()).collect()
}

/// Runs one case against one backend, in a runtime of its own as the daemon would.
fn run<F: Future>(backend: Backend, case: impl FnOnce(Place) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let Some(disk) = start(backend, 32) else { return };
    runtime.block_on(async {
        case(Place::new(disk).await).await;
    });
}

macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $case() { super::run(super::Backend::Uring, super::$case); })*
        }
        mod blocking {
            $(#[test] fn $case() { super::run(super::Backend::Blocking, super::$case); })*
        }
        /// Every case, one after the other, against whatever `Auto` gives.
        fn all(expected: &str, check: impl Fn(&BackendReport)) {
            $({
                let (disk, report) = Disk::start(Backend::Auto, Pool::new(32)).unwrap();
                assert_eq!(report.name, expected);
                check(&report);
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
                runtime.block_on(async { $case(Place::new(disk).await).await });
            })*
        }
    };
}

suite![
    what_is_written_is_read,
    reading_stops_at_the_end,
    a_sparse_start_of_a_block_batch,
    an_operation_that_needs_several_calls,
    a_full_disk_is_told_apart,
    preallocating_keeps_the_length,
    truncating_cuts,
    renaming_never_overwrites,
    folders_are_made_once,
    links_are_refused,
    leaving_the_folder_is_refused,
    only_regular_files_are_opened,
    missing_files_are_missing,
    many_operations_at_once,
    an_exhausted_pool_recovers,
    a_caller_may_go_away,
];

async fn what_is_written_is_read(place: Place) {
    let (file, len) = place.disk.open_or_create(&place.folder, "a").await.unwrap();
    assert_eq!(len, 0);
    let bytes = pattern(1, 5 * BLOCK_LEN + 123);
    place.disk.write(&file, 0, place.blocks(&bytes[..3 * BLOCK_LEN + 7]).await).await.unwrap();
    place.disk.write(&file, (3 * BLOCK_LEN + 7) as u64, place.blocks(&bytes[3 * BLOCK_LEN + 7..]).await).await.unwrap();
    place.disk.sync_data(&file).await.unwrap();
    place.disk.sync_all(&file).await.unwrap();
    assert_eq!(std::fs::read(place.path("a")).unwrap(), bytes);
    let (file, len) = place.disk.open_read(&place.path("a")).await.unwrap();
    assert_eq!(len, bytes.len() as u64);
    let back = place.disk.read(&file, 1000, place.empty(4).await).await.unwrap();
    assert_eq!(joined(&back), bytes[1000..1000 + 4 * BLOCK_LEN]);
    drop(back);
    assert_eq!(place.disk.pool().available(), 32, "blocks come back");
}

async fn reading_stops_at_the_end(place: Place) {
    std::fs::write(place.path("short"), pattern(2, BLOCK_LEN + 10)).unwrap();
    let (file, _) = place.disk.open_existing(&place.folder, "short").await.unwrap();
    let back = place.disk.read(&file, 5, place.empty(3).await).await.unwrap();
    assert_eq!(joined(&back), pattern(2, BLOCK_LEN + 10)[5..]);
    assert_eq!(back.iter().map(Block::len).collect::<Vec<_>>(), [BLOCK_LEN, 5, 0]);
    assert!(joined(&place.disk.read(&file, 1 << 40, place.empty(1).await).await.unwrap()).is_empty());
    assert!(place.disk.write(&file, 0, place.blocks(b"x").await).await.is_err(), "opened for reading");
}

/// Blocks that are not full, empty ones among them, are written without gaps.
async fn a_sparse_start_of_a_block_batch(place: Place) {
    let (file, _) = place.disk.open_or_create(&place.folder, "a").await.unwrap();
    let mut blocks = place.empty(4).await;
    blocks[1].push(b"ab");
    blocks[3].push(b"cde");
    place.disk.write(&file, 2, blocks).await.unwrap();
    place.disk.write(&file, 0, Vec::new()).await.unwrap();
    assert_eq!(std::fs::read(place.path("a")).unwrap(), b"\0\0abcde");
}

/// The kernel takes 1,024 pieces in one call: the rest is continued, as after any short write or read.
async fn an_operation_that_needs_several_calls(place: Place) {
    let pool = Pool::new(2100);
    let (file, _) = place.disk.open_or_create(&place.folder, "a").await.unwrap();
    let bytes = pattern(6, 2100 * 3);
    let mut blocks = Vec::new();
    for chunk in bytes.chunks(3) {
        let mut block = pool.take().await;
        block.push(chunk);
        blocks.push(block);
    }
    place.disk.write(&file, 0, blocks).await.unwrap();
    assert_eq!(std::fs::read(place.path("a")).unwrap(), bytes);
    let mut blocks = Vec::new();
    for _ in 0..2100 {
        let mut block = pool.take().await;
        block.grow(BLOCK_LEN - 3);
        blocks.push(block);
    }
    let back = place.disk.read(&file, 0, blocks).await.unwrap();
    let tails: Vec<u8> = back.iter().flat_map(|block| block.bytes()[BLOCK_LEN - 3..].to_vec()).collect();
    assert_eq!(tails, bytes);
}

/// `/dev/full` answers every write with ENOSPC, in a completion as in a system call.
async fn a_full_disk_is_told_apart(place: Place) {
    let full = File::from_std(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let failed = place.disk.write(&full, 0, place.blocks(b"anything").await).await.unwrap_err();
    assert_eq!((failed.written, failed.error), (0, DiskError::Full));
    assert_eq!(place.disk.pool().available(), 32);
    let closed = File::from_std(std::fs::File::open("/dev/null").unwrap());
    let failed = place.disk.write(&closed, 0, place.blocks(b"x").await).await.unwrap_err();
    assert!(matches!(failed.error, DiskError::Io { .. }), "{failed}");
}

async fn preallocating_keeps_the_length(place: Place) {
    let (file, _) = place.disk.open_or_create(&place.folder, "a").await.unwrap();
    place.disk.preallocate(&file, 1 << 20).await.unwrap();
    place.disk.preallocate(&file, 0).await.unwrap();
    let sizes = place.disk.sizes(&file).await.unwrap();
    assert_eq!(sizes.len, 0);
    place.disk.write(&file, 0, place.blocks(&pattern(3, 100)).await).await.unwrap();
    let sizes = place.disk.sizes(&file).await.unwrap();
    let metadata = std::fs::metadata(place.path("a")).unwrap();
    assert_eq!((sizes.len, sizes.allocated), (100, metadata.blocks() * 512));
    place.disk.truncate(&file, 100).await.unwrap();
    assert!(place.disk.sizes(&file).await.unwrap().allocated <= sizes.allocated);
}

async fn truncating_cuts(place: Place) {
    std::fs::write(place.path("a"), pattern(4, 1000)).unwrap();
    let (file, len) = place.disk.open_or_create(&place.folder, "a").await.unwrap();
    assert_eq!(len, 1000);
    place.disk.truncate(&file, 10).await.unwrap();
    assert_eq!(std::fs::read(place.path("a")).unwrap(), pattern(4, 10));
}

async fn renaming_never_overwrites(place: Place) {
    let to = place.disk.make_folders(&place.folder, "there").await.unwrap();
    std::fs::write(place.path("old"), b"new bytes").unwrap();
    std::fs::write(place.path("there/taken"), b"old bytes").unwrap();
    let taken = place.disk.rename(&place.folder, "old", &to, "taken").await;
    assert_eq!(taken, Err(DiskError::Taken(place.path("there/taken"))));
    assert_eq!(std::fs::read(place.path("there/taken")).unwrap(), b"old bytes");
    place.disk.rename(&place.folder, "old", &to, "free").await.unwrap();
    assert_eq!(std::fs::read(place.path("there/free")).unwrap(), b"new bytes");
    let missing = place.disk.rename(&place.folder, "old", &to, "other").await;
    assert_eq!(missing, Err(DiskError::Missing(place.path("old"))));
    for bad in ["../escaped", "a/b", "..", ""] {
        let refused = place.disk.rename(&to, "free", &place.folder, bad).await;
        assert_eq!(refused, Err(DiskError::UnsafeName(bad.into())));
    }
}

async fn folders_are_made_once(place: Place) {
    for _ in 0..2 {
        let made = place.disk.make_folders(&place.folder, "a/b c/d").await.unwrap();
        assert_eq!(made.path(), place.path("a/b c/d"));
    }
    assert!(place.path("a/b c/d").is_dir());
    std::fs::write(place.path("a/file"), b"").unwrap();
    let refused = place.disk.make_folders(&place.folder, "a/file/x").await.unwrap_err();
    assert_eq!(refused, DiskError::Taken(place.path("a/file")));
    place.disk.sync_folder(&place.folder).await.unwrap();
    assert!(place.disk.free_space(&place.folder).await.unwrap() > 0);
}

async fn links_are_refused(place: Place) {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"secret").unwrap();
    symlink(outside.path().join("secret"), place.path("link")).unwrap();
    symlink(outside.path(), place.path("folder")).unwrap();
    let refused = |result: Result<(File, u64), DiskError>| result.unwrap_err();
    assert_eq!(
        refused(place.disk.open_or_create(&place.folder, "link").await),
        DiskError::SymbolicLink(place.path("link"))
    );
    assert_eq!(refused(place.disk.open_read(&place.path("link")).await), DiskError::SymbolicLink(place.path("link")));
    refused(place.disk.open_existing(&place.folder, "folder/secret").await);
    let made = place.disk.make_folders(&place.folder, "folder/new").await.unwrap_err();
    assert_eq!(made, DiskError::SymbolicLink(place.path("folder")));
    assert!(!outside.path().join("new").exists());
    place.disk.remove(&place.folder, "link").await.unwrap();
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret", "the link goes, not its target");
}

async fn leaving_the_folder_is_refused(place: Place) {
    let below = place.disk.make_folders(&place.folder, "below").await.unwrap();
    std::fs::write(place.path("above"), b"above").unwrap();
    for bad in ["../above", "/etc/hostname", "x/../../above", ""] {
        let refused = place.disk.open_or_create(&below, bad).await.unwrap_err();
        assert_eq!(refused, DiskError::UnsafeName(bad.into()));
        assert!(place.disk.remove(&below, bad).await.is_err(), "{bad}");
    }
    for bad in ["..", "a/../b", "/tmp"] {
        assert!(place.disk.make_folders(&below, bad).await.is_err(), "{bad}");
    }
    assert!(place.path("above").exists());
}

async fn only_regular_files_are_opened(place: Place) {
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(place.disk.open_read(&pipe).await.unwrap_err(), DiskError::NotAFile(pipe.clone()));
    assert!(place.disk.open_or_create(&place.folder, "pipe").await.is_err());
    let folder = place.disk.open_read(place.scratch.path()).await.unwrap_err();
    assert_eq!(folder, DiskError::NotAFile(place.scratch.path().to_owned()));
    assert!(place.disk.open_read(Path::new("/dev/null")).await.is_err());
}

async fn missing_files_are_missing(place: Place) {
    let gone = place.path("gone");
    assert_eq!(place.disk.open_read(&gone).await.unwrap_err(), DiskError::Missing(gone.clone()));
    assert_eq!(place.disk.open_existing(&place.folder, "gone").await.unwrap_err(), DiskError::Missing(gone.clone()));
    assert_eq!(place.disk.open_folder(&gone).await.unwrap_err(), DiskError::Missing(gone));
    place.disk.remove(&place.folder, "gone").await.unwrap();
    place.disk.create_new(&place.folder, "new").await.unwrap();
    let again = place.disk.create_new(&place.folder, "new").await.unwrap_err();
    assert_eq!(again, DiskError::Taken(place.path("new")));
}

async fn many_operations_at_once(place: Place) {
    let tasks: Vec<_> = (0..40_u8)
        .map(|number| {
            let (disk, folder) = (place.disk.clone(), place.folder.clone());
            tokio::spawn(async move {
                let (file, _) = disk.open_or_create(&folder, &format!("file {number}")).await.unwrap();
                for round in 0..20_u64 {
                    let mut block = disk.pool().take().await;
                    block.push(&pattern(number, BLOCK_LEN));
                    disk.write(&file, round * BLOCK_LEN as u64, vec![block]).await.unwrap();
                }
                disk.sync_data(&file).await.unwrap();
                let blocks = disk.pool().take_many(4).await;
                let count = blocks.len();
                let back = disk.read(&file, 7 * BLOCK_LEN as u64, blocks).await.unwrap();
                assert_eq!(joined(&back), pattern(number, BLOCK_LEN).repeat(count));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for number in 0..40_u8 {
        let bytes = std::fs::read(place.path(&format!("file {number}"))).unwrap();
        assert_eq!(bytes, pattern(number, BLOCK_LEN).repeat(20));
    }
    assert_eq!(place.disk.pool().available(), 32);
}

async fn an_exhausted_pool_recovers(place: Place) {
    let (file, _) = place.disk.open_or_create(&place.folder, "a").await.unwrap();
    let mut all = place.empty(32).await;
    assert!(place.disk.pool().try_take().is_none());
    let pool = place.disk.pool().clone();
    let waiting = tokio::spawn(async move { pool.take().await.len() });
    for block in &mut all {
        block.push(&pattern(9, BLOCK_LEN));
    }
    place.disk.write(&file, 0, all).await.unwrap();
    assert_eq!(waiting.await.unwrap(), 0);
    assert_eq!(std::fs::metadata(place.path("a")).unwrap().len(), 32 * BLOCK_LEN as u64);
}

/// An operation whose caller is gone is finished all the same, and its buffers come back.
async fn a_caller_may_go_away(place: Place) {
    let (file, _) = place.disk.open_or_create(&place.folder, "a").await.unwrap();
    let bytes = pattern(5, 16 * BLOCK_LEN);
    let blocks = place.blocks(&bytes).await;
    {
        let write = place.disk.write(&file, 0, blocks);
        tokio::pin!(write);
        let _ = futures_util::poll!(write.as_mut());
    }
    let all = place.empty(32).await;
    assert_eq!(all.len(), 32);
    assert_eq!(std::fs::read(place.path("a")).unwrap(), bytes);
}

/// With io_uring refused as a sandbox would refuse it, `Auto` says why, falls back, and everything still holds.
/// Asked for the watchdog: more operations than the ring takes at once hang, as on a disk that is gone, and its thread is well.
#[test]
fn the_thread_is_there_while_every_operation_hangs() {
    const WAITING: usize = 100;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for backend in [Backend::Uring, Backend::Blocking] {
        let Some(disk) = start(backend, WAITING) else { continue };
        runtime.block_on(async {
            let (pipe, writer) = std::io::pipe().unwrap();
            let pipe = File::from_std(std::os::fd::OwnedFd::from(pipe).into());
            let mut waiting = Vec::new();
            for _ in 0..WAITING {
                let (disk, pipe, block) = (disk.clone(), pipe.clone(), disk.pool().take().await);
                waiting.push(tokio::spawn(async move { disk.read(&pipe, 0, vec![block]).await }));
            }
            assert!(disk.is_there().await);
            // Nothing comes out of a pipe that nobody writes into; plain reads at a place are refused there.
            assert!(backend == Backend::Blocking || !waiting.iter().any(tokio::task::JoinHandle::is_finished));
            drop(writer);
            for task in waiting {
                assert_eq!(task.await.unwrap().is_ok(), backend == Backend::Uring);
            }
            assert!(disk.is_there().await);
        });
    }
}

#[test]
fn refused_io_uring_falls_back() {
    const CHILD: &str = "SLSKDN_TEST_REFUSED";
    if std::env::var_os(CHILD).is_none() {
        let test = "disk::backends::refused_io_uring_falls_back";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args([test, "--exact", "--nocapture"]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("1 passed"), "{text}");
        return;
    }
    refuse_io_uring();
    assert!(Disk::start(Backend::Uring, Pool::new(2)).is_err());
    all("blocking", |report| assert!(report.reason.contains("Operation not permitted"), "{}", report.reason));
}

/// Makes `io_uring_setup` answer EPERM in this thread and those it starts.
#[expect(unsafe_code, reason = "seccomp has no safe door")]
fn refuse_io_uring() {
    /// One instruction of the filter, as in `linux/filter.h`.
    #[repr(C)]
    struct Instruction {
        code: u16,
        if_true: u8,
        if_false: u8,
        operand: u32,
    }
    #[repr(C)]
    struct Filter {
        len: u16,
        instructions: *const Instruction,
    }
    unsafe extern "C" {
        fn prctl(option: i32, ...) -> i32;
    }
    /// The same number on every architecture we build for.
    const IO_URING_SETUP: u32 = 425;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    let program = [
        Instruction { code: LOAD_WORD, if_true: 0, if_false: 0, operand: 0 },
        Instruction { code: JUMP_IF_EQUAL, if_true: 0, if_false: 1, operand: IO_URING_SETUP },
        Instruction { code: RETURN, if_true: 0, if_false: 0, operand: EPERM },
        Instruction { code: RETURN, if_true: 0, if_false: 0, operand: ALLOW },
    ];
    let filter = Filter { len: 4, instructions: program.as_ptr() };
    // SAFETY: PR_SET_NO_NEW_PRIVS (38) takes numbers; PR_SET_SECCOMP (22) in filter mode (2) reads the program above,
    // which lives until the call returns and is copied by the kernel.
    let (locked, installed) = unsafe { (prctl(38, 1_u64, 0_u64, 0_u64, 0_u64), prctl(22, 2_u64, &raw const filter)) };
    assert_eq!((locked, installed), (0, 0), "{}", std::io::Error::last_os_error());
}
