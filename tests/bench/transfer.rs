//! One file over loopback, pump to pump, beside the same file by `sendfile` and `write`, in one run.
//!
//! `cargo bench --bench transfer -- [MiB] [folder] [rounds]`. Both ways start with the file in the page cache and end
//! with the copy synced. CPU time is the process's own, from `/proc/self/stat`; the kernel's flushing is not in it.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a report for a person; a failure ends it"
)]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slskdn::app::clock::Clock;
use slskdn::app::pump::{Limiter, Pump, PumpConfig, ReceiveOrder, SYNC_EVERY, SendOrder};
use slskdn::disk::pool::Pool;
use slskdn::disk::{Backend, Disk};
use slskdn::engine::soulseek::io::{Begin, ReceiveEnd, SendEnd};
use slskdn::model::id::{Token, TransferId};
use slskdn::model::limits::BLOCKS;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;

/// Wall and CPU seconds of one way.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
}

/// Its name, what it does, and what each round cost.
type Way<'a> = (String, Box<dyn FnMut() + 'a>, Vec<Cost>);

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let mib: u64 = arguments.first().map_or(1024, |text| text.parse().unwrap());
    let folder = arguments.get(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let rounds: usize = arguments.get(2).map_or(6, |text| text.parse().unwrap());
    let scratch = tempfile::tempdir_in(&folder).unwrap();
    let source = scratch.path().join("source");
    make(&source, mib);
    println!("{mib} MiB over loopback in {}, {rounds} rounds, medians; both synced", folder.display());

    let copy = scratch.path().join("copy");
    let mut ways: Vec<Way> = vec![("sendfile + write".to_owned(), Box::new(|| plain(&source, &copy)), Vec::new())];
    for backend in [Backend::Uring, Backend::Blocking] {
        match Disk::start(backend, Pool::new(BLOCKS)) {
            Ok((disk, report)) => {
                let (source, scratch) = (&source, scratch.path());
                let way = Box::new(move || pumped(&disk, source, mib * MIB, scratch));
                ways.push((format!("pump, {}", report.name), way, Vec::new()));
            }
            Err(error) => println!("{error}"),
        }
    }
    // In turns and in changing order, so that whatever else the machine does meets all of them: in a virtual machine the
    // one that comes after another is slower, because it is first to touch memory again that the host took back.
    let count = ways.len();
    for round in 0..rounds {
        for turn in 0..count {
            let turn = if round % 2 == 0 { turn } else { count - 1 - turn };
            let (_, way, costs) = &mut ways[(turn + round / 2) % count];
            costs.push(measure(way));
        }
    }
    let wall = |costs: &[Cost]| median(costs.iter().map(|cost| cost.wall));
    let plain_wall = wall(&ways[0].2);
    for (name, _, costs) in &ways {
        let (speed, relation) = (mib as f64 / wall(costs), wall(costs) / plain_wall);
        let cpu = median(costs.iter().map(|cost| cost.cpu)) / (mib as f64 / 1024.0);
        println!("{name:20} {speed:6.0} MiB/s  {relation:5.2} x the plain copy's time  {cpu:5.2} CPU s/GiB");
    }
}

/// A file whose bytes do not repeat in any way a file system could use.
fn make(path: &Path, mib: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    let mut state = 1_u64;
    let mut block = vec![0; 1 << 20];
    for _ in 0..mib {
        for word in block.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
}

fn measure(mut way: impl FnMut()) -> Cost {
    let clock = Clock::start();
    let cpu = cpu_seconds();
    way();
    Cost { wall: clock.now().mono.as_secs_f64(), cpu: cpu_seconds() - cpu }
}

/// User and system time of this process, in hundredths of a second.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, after_name) = text.rsplit_once(')').unwrap();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn plain(source: &Path, copy: &Path) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (socket, _) = listener.accept().unwrap();
            let file = std::fs::File::open(source).unwrap();
            while rustix::fs::sendfile(&socket, &file, None, 1 << 20).unwrap() > 0 {}
        });
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        let mut file = std::fs::File::create(copy).unwrap();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = socket.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            file.write_all(&buffer[..count]).unwrap();
        }
        file.sync_all().unwrap();
    });
    std::fs::remove_file(copy).unwrap();
}

fn pumped(disk: &Disk, source: &Path, size: u64, scratch: &Path) {
    let config = PumpConfig {
        incomplete: scratch.to_owned(),
        downloads: scratch.to_owned(),
        free_min: 0,
        sync_every: SYNC_EVERY,
    };
    let pump = Pump::new(disk.clone(), Limiter::new(0, 0), config, Arc::new(|_| None));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        // Large enough never to fill: nobody listens.
        let (events, _heard) = mpsc::channel(100_000);
        let (stop, transfer) = (CancellationToken::new(), TransferId(1));
        let local_path = source.to_owned();
        let order = SendOrder { transfer, token: Token(1), local_path, size };
        let sending = tokio::spawn({
            let (pump, events, stop) = (pump.clone(), events.clone(), stop.clone());
            async move { pump.send(ours, order, &events, &stop).await }
        });
        theirs.read_u32_le().await.unwrap();
        let order = ReceiveOrder { transfer, file: "partial".to_owned(), size, begin: Begin::Fresh };
        let receiving = tokio::spawn({
            let (pump, events) = (pump.clone(), events.clone());
            async move { pump.receive(theirs, order, &events, &stop).await }
        });
        assert_eq!(receiving.await.unwrap(), ReceiveEnd::Complete);
        assert_eq!(sending.await.unwrap(), SendEnd::Complete { offset: 0 });
        pump.discard("partial").await.unwrap();
    });
}
