//! A file from a user into its partial file.

use std::pin::Pin;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{BATCH, PROGRESS_EVERY, Progress, Pump, ReceiveOrder, Report, SYNC_BYTES, count};
use crate::disk::pool::{BLOCK_LEN, Block};
use crate::disk::{DiskError, File, Folder};
use crate::engine::soulseek::io::{Begin, FileEvent, ReceiveEnd};
use crate::model::limits::{HANDSHAKE_S, OVERLAP_BYTES};

// The overlap is compared block by block.
const _: () = assert!(OVERLAP_BYTES == BLOCK_LEN as u64);

/// The partial file, ready to go on.
struct Ready {
    file: File,
    folder: Folder,
    /// Bytes in it that count, from the beginning.
    start: u64,
    /// Of these, known to be on the disk.
    synced: u64,
    /// The source must first repeat the last of them.
    overlap: bool,
    /// The record knows less, or is of another boot, or of bytes that are gone.
    news: bool,
}

pub(super) async fn receive(
    pump: &Pump,
    stream: &TcpStream,
    order: &ReceiveOrder,
    report: &Report<'_>,
    stop: &CancellationToken,
) -> ReceiveEnd {
    let ready = match prepare(pump, order).await {
        Ok(ready) => ready,
        Err(end) => return end,
    };
    let start = ready.start;
    let offset = if ready.overlap { start - OVERLAP_BYTES } else { start };
    let told = timeout(Duration::from_secs(HANDSHAKE_S), send_offset(stream, offset)).await;
    if start == order.size {
        // Nothing is missing, so it does not matter whether the other side heard that.
        return finish(pump, &ready, order.size, ready.synced, report).await;
    }
    if !matches!(told, Ok(Ok(()))) {
        return ReceiveEnd::Closed { position: start };
    }
    report.send(FileEvent::Started { offset }).await;
    if ready.news {
        // Said before the first byte comes, so that after a kill in this boot the file's length is believed.
        report.send(FileEvent::Synced { synced: ready.synced, boot: pump.boot() }).await;
    }
    if ready.overlap {
        let end = tokio::select! {
            () = stop.cancelled() => Some(ReceiveEnd::Stopped { position: start }),
            end = compare(pump, &ready, stream) => end,
        };
        if let Some(end) = end {
            return end;
        }
    }

    // Two halves in one task: while one batch is being written the next is received. The channel is the whole of what
    // waits between them.
    let (to_disk, from_socket) = mpsc::channel(BATCH);
    let mut writer = Writer::new(pump, &ready, report);
    let (read, written) =
        tokio::join!(read_socket(pump, stream, order.size - start, to_disk, stop), writer.run(from_socket));
    let (position, synced) = (writer.position, writer.synced);
    let end = match (written, read) {
        (Err(DiskError::Full), _) => ReceiveEnd::DiskFull { position },
        (Err(error), _) => ReceiveEnd::DiskError(error.to_string()),
        (Ok(()), Read::All) => return finish(pump, &ready, order.size, synced, report).await,
        (Ok(()), Read::Stopped) => ReceiveEnd::Stopped { position },
        (Ok(()), Read::Closed | Read::Refused) => ReceiveEnd::Closed { position },
    };
    keep(pump, &ready, position, synced, end, report).await
}

impl Pump {
    /// For `Synced`; 0 stands for "unknown" and equals no boot.
    fn boot(&self) -> u128 {
        self.shared.boot.unwrap_or(0)
    }
}

pub(super) async fn send_offset(stream: &TcpStream, offset: u64) -> std::io::Result<()> {
    let bytes = offset.to_le_bytes();
    let mut sent = 0;
    while sent < bytes.len() {
        stream.writable().await?;
        match stream.try_write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Opens the partial file, cuts off what cannot be trusted and reserves room for the rest.
async fn prepare(pump: &Pump, order: &ReceiveOrder) -> Result<Ready, ReceiveEnd> {
    let failed = |position| {
        move |error: DiskError| match error {
            DiskError::Full => ReceiveEnd::DiskFull { position },
            other => ReceiveEnd::DiskError(other.to_string()),
        }
    };
    let disk = &pump.shared.disk;
    let folder = disk.open_folder(&pump.shared.config.incomplete).await.map_err(failed(0))?;
    let (file, len) = disk.open_or_create(&folder, &order.file).await.map_err(failed(0))?;
    let partial = match &order.begin {
        Begin::Fresh => None,
        Begin::Continue(partial) | Begin::Join(partial) => Some(partial),
    };
    // Within one boot the page cache is the truth; after another, only what was synced is.
    let same_boot = partial.is_some_and(|partial| pump.shared.boot == Some(partial.boot));
    let recorded = partial.map_or(0, |partial| partial.synced);
    let trusted = match partial {
        None => 0,
        Some(_) if same_boot => len,
        Some(_) => len.min(recorded),
    };
    let trusted = trusted.min(order.size);
    let join = matches!(order.begin, Begin::Join(_));
    let start = if join && trusted < OVERLAP_BYTES { 0 } else { trusted };
    if len > start {
        disk.truncate(&file, start).await.map_err(failed(start))?;
    }
    let missing = order.size - start;
    if missing > 0 {
        let reserved = disk.sizes(&file).await.map_err(failed(start))?.allocated;
        let needed = order.size.saturating_sub(reserved.max(start));
        let floor = pump.shared.config.free_min.saturating_add(needed);
        if disk.free_space(&folder).await.map_err(failed(start))? < floor {
            return Err(ReceiveEnd::DiskFull { position: start });
        }
        disk.preallocate(&file, order.size).await.map_err(failed(start))?;
    }
    if len == 0 {
        // Perhaps new: its name must survive a power cut before any byte is called synced.
        disk.sync_folder(&folder).await.map_err(failed(start))?;
    }
    let synced = recorded.min(start);
    let news = !same_boot || synced != recorded;
    Ok(Ready { file, folder, start, synced, overlap: join && start > 0 && missing > 0, news })
}

/// Whether the source repeats the end of what we hold. `None`: it does.
async fn compare(pump: &Pump, ready: &Ready, stream: &TcpStream) -> Option<ReceiveEnd> {
    let closed = ReceiveEnd::Closed { position: ready.start };
    let blocks = vec![pump.shared.disk.pool().take().await];
    let held = match pump.shared.disk.read(&ready.file, ready.start - OVERLAP_BYTES, blocks).await {
        Ok(held) => held,
        Err(error) => return Some(ReceiveEnd::DiskError(error.to_string())),
    };
    let mut expected = held.first().map(Block::bytes).unwrap_or_default();
    let mut buffer = [0; 4096];
    while !expected.is_empty() {
        let wanted = expected.len().min(buffer.len());
        let came = match some(pump, stream, &mut buffer[..wanted]).await {
            Ok(0) | Err(_) => return Some(closed),
            Ok(came) => came,
        };
        let (head, tail) = expected.split_at(came);
        if head != &buffer[..came] {
            return Some(ReceiveEnd::OverlapDiffers);
        }
        expected = tail;
    }
    None
}

/// Waits for some of what a user sends, counted and within the limit; 0 at its end.
pub(super) async fn some(pump: &Pump, stream: &TcpStream, into: &mut [u8]) -> std::io::Result<usize> {
    loop {
        stream.readable().await?;
        let granted = pump.shared.limiter.down.take(into.len()).await;
        let read = stream.try_read(&mut into[..granted]);
        let came = read.as_ref().map_or(0, |count| *count);
        pump.shared.limiter.down.give_back(granted - came);
        count(&pump.shared.limiter.traffic.soulseek_down, came);
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// Why the receiving half ended.
enum Read {
    /// Every wanted byte came.
    All,
    /// The other side closed.
    Closed,
    /// We stopped it.
    Stopped,
    /// The writing half has ended; it knows why.
    Refused,
}

/// Takes `left` bytes, at most, and hands them over in blocks. What came before any end is handed over too.
async fn read_socket(
    pump: &Pump,
    stream: &TcpStream,
    mut left: u64,
    out: mpsc::Sender<Block>,
    stop: &CancellationToken,
) -> Read {
    let (pool, bucket) = (pump.shared.disk.pool(), &pump.shared.limiter.down);
    let mut filling: Option<Block> = None;
    let mut hand_over_at = Instant::now();
    let end = loop {
        if left == 0 {
            break Read::All;
        }
        let late = async {
            match filling {
                Some(_) => tokio::time::sleep_until(hand_over_at).await,
                None => std::future::pending().await,
            }
        };
        // No buffer is taken before there are bytes for it: idle connections hold none.
        let granted = async {
            stream.readable().await?;
            let room = filling.as_ref().map_or(BLOCK_LEN, Block::room);
            let wanted = room.min(usize::try_from(left).unwrap_or(room));
            let granted = bucket.take(wanted).await;
            let block = if filling.is_none() { Some(pool.take().await) } else { None };
            Ok::<_, std::io::Error>((granted, block))
        };
        let (granted, fresh) = tokio::select! {
            biased;
            () = stop.cancelled() => break Read::Stopped,
            () = out.closed() => break Read::Refused,
            granted = granted => match granted {
                Ok(granted) => granted,
                Err(_) => break Read::Closed,
            },
            () = late => {
                // Slow bytes are written before the block is full, so that the file shows what is there.
                if let Some(block) = filling.take()
                    && out.send(block).await.is_err()
                {
                    break Read::Refused;
                }
                continue;
            }
        };
        if fresh.is_some() {
            filling = fresh;
            hand_over_at = Instant::now() + PROGRESS_EVERY;
        }
        let Some(block) = &mut filling else { continue };
        let read = stream.try_read(&mut block.spare()[..granted]);
        let came = read.as_ref().map_or(0, |count| *count);
        bucket.give_back(granted - came);
        count(&pump.shared.limiter.traffic.soulseek_down, came);
        match read {
            Ok(0) => break Read::Closed,
            Ok(count) => {
                block.grow(count);
                left = left.saturating_sub(count as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break Read::Closed,
        }
        if block.room() == 0
            && let Some(block) = filling.take()
            && out.send(block).await.is_err()
        {
            break Read::Refused;
        }
    };
    if let Some(block) = filling.take().filter(|block| !block.is_empty()) {
        let _ = out.send(block).await;
    }
    end
}

/// The writing half.
struct Writer<'a> {
    pump: &'a Pump,
    ready: &'a Ready,
    report: &'a Report<'a>,
    /// Bytes in the file that count.
    position: u64,
    /// Of these, known to be on the disk.
    synced: u64,
    /// When the last sync began.
    synced_at: Instant,
}

/// A sync under way, with the position it makes durable.
type Sync<'a> = Pin<Box<dyn Future<Output = (u64, Result<(), DiskError>)> + Send + 'a>>;

impl<'a> Writer<'a> {
    fn new(pump: &'a Pump, ready: &'a Ready, report: &'a Report<'a>) -> Self {
        Self { pump, ready, report, position: ready.start, synced: ready.synced, synced_at: Instant::now() }
    }

    /// Writes what comes, in order, one operation at a time, and syncs now and then beside it.
    async fn run(&mut self, blocks: mpsc::Receiver<Block>) -> Result<(), DiskError> {
        let mut sync: Option<Sync<'a>> = None;
        let written = self.write_all(blocks, &mut sync).await;
        // The kernel tells a failed sync once, and then calls the next one good. Whoever dropped this answer would take
        // lost bytes for durable ones.
        match sync {
            Some(sync) => {
                let (synced, result) = sync.await;
                self.on_synced(synced, result).await.and(written)
            }
            None => written,
        }
    }

    async fn write_all(
        &mut self,
        mut blocks: mpsc::Receiver<Block>,
        sync: &mut Option<Sync<'a>>,
    ) -> Result<(), DiskError> {
        let mut progress = Progress::new(self.report);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = self.synced_at + self.pump.shared.config.sync_every;
            let unsynced = self.position - self.synced;
            // With two portions unsynced the disk cannot keep up: then the network waits.
            let behind = sync.is_some() && unsynced >= 2 * SYNC_BYTES;
            tokio::select! {
                count = blocks.recv_many(&mut batch, BATCH), if !behind => {
                    if count == 0 {
                        break;
                    }
                    self.write(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).await?;
                    progress.at(self.position);
                }
                (synced, result) = Self::outcome(sync), if sync.is_some() => {
                    *sync = None;
                    self.on_synced(synced, result).await?;
                }
                () = tokio::time::sleep_until(due), if sync.is_none() && unsynced > 0 => {}
            }
            let unsynced = self.position - self.synced;
            let now = Instant::now();
            let time = unsynced > 0 && now >= self.synced_at + self.pump.shared.config.sync_every;
            if sync.is_none() && (unsynced >= SYNC_BYTES || time) {
                self.synced_at = now;
                // Free space is looked at as often: another program may use the disk as well.
                if self.pump.shared.disk.free_space(&self.ready.folder).await? < self.pump.shared.config.free_min {
                    return Err(DiskError::Full);
                }
                let (disk, file, position) = (&self.pump.shared.disk, &self.ready.file, self.position);
                *sync = Some(Box::pin(async move { (position, disk.sync_data(file).await) }));
            }
        }
        Ok(())
    }

    async fn on_synced(&mut self, synced: u64, result: Result<(), DiskError>) -> Result<(), DiskError> {
        if result.is_ok() {
            self.synced = synced;
            self.report.send(FileEvent::Synced { synced, boot: self.pump.boot() }).await;
        } else {
            // What was to be synced may be lost, see `retreat`.
            self.position = self.synced;
        }
        result
    }

    async fn write(&mut self, batch: Vec<Block>) -> Result<(), DiskError> {
        let len: u64 = batch.iter().map(|block| block.len() as u64).sum();
        let written = self.pump.shared.disk.write(&self.ready.file, self.position, batch).await;
        self.position += written.as_ref().map_or_else(|failed| failed.written, |()| len);
        written.map_err(|failed| failed.error)
    }

    async fn outcome(sync: &mut Option<Sync<'a>>) -> (u64, Result<(), DiskError>) {
        match sync {
            Some(sync) => sync.await,
            None => std::future::pending().await,
        }
    }
}

/// Every byte is there: now it must stay.
async fn finish(pump: &Pump, ready: &Ready, size: u64, synced: u64, report: &Report<'_>) -> ReceiveEnd {
    match pump.shared.disk.sync_all(&ready.file).await {
        Ok(()) => {
            report.send(FileEvent::Synced { synced: size, boot: pump.boot() }).await;
            ReceiveEnd::Complete
        }
        Err(error) => retreat(pump, ready, synced, error).await,
    }
}

/// The transfer ended early: exactly the bytes that count stay, and they stay for good. Room reserved behind them is
/// given back, because nobody knows when the download goes on.
async fn keep(
    pump: &Pump,
    ready: &Ready,
    position: u64,
    synced: u64,
    end: ReceiveEnd,
    report: &Report<'_>,
) -> ReceiveEnd {
    let disk = &pump.shared.disk;
    let kept = match disk.truncate(&ready.file, position).await {
        Ok(()) => disk.sync_data(&ready.file).await,
        Err(error) => Err(error),
    };
    match kept {
        Ok(()) => {
            report.send(FileEvent::Synced { synced: position, boot: pump.boot() }).await;
            end
        }
        Err(error) => retreat(pump, ready, synced.min(position), error).await,
    }
}

/// A sync failed: the kernel may have dropped what it could not write, so the file must not claim it any more.
async fn retreat(pump: &Pump, ready: &Ready, synced: u64, error: DiskError) -> ReceiveEnd {
    match (pump.shared.disk.truncate(&ready.file, synced).await, error) {
        (Ok(()), DiskError::Full) => ReceiveEnd::DiskFull { position: synced },
        (Ok(()), error) | (Err(error), _) => ReceiveEnd::DiskError(error.to_string()),
    }
}
