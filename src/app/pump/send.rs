//! A shared file to a user.

use std::io::IoSlice;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{BATCH, CLOSE_WAIT, Progress, Pump, Report, STALL, SendOrder};
use crate::disk::File;
use crate::disk::pool::{BLOCK_LEN, Block};
use crate::engine::soulseek::io::{FileEvent, SendEnd};
use crate::model::id::Token;
use crate::model::limits::HANDSHAKE_S;

pub(super) async fn send(
    pump: &Pump,
    mut stream: TcpStream,
    order: &SendOrder,
    report: &Report<'_>,
    stop: &CancellationToken,
) -> SendEnd {
    let file = match pump.shared.disk.open_read(&order.local_path).await {
        Ok((file, len)) if len == order.size => file,
        Ok((_, len)) => {
            let path = order.local_path.display();
            return SendEnd::FileError(format!("{path} has {len} bytes, {} when indexed", order.size));
        }
        Err(error) => return SendEnd::FileError(error.to_string()),
    };
    let greeting = timeout(Duration::from_secs(HANDSHAKE_S), greet(&mut stream, order.token));
    let offset = tokio::select! {
        () = stop.cancelled() => return SendEnd::Stopped,
        greeted = greeting => match greeted {
            Ok(Ok(offset)) if offset <= order.size => offset,
            _ => return SendEnd::Closed { position: 0 },
        },
    };
    report.send(FileEvent::Started { offset }).await;

    // Two halves in one task: while one batch is being sent the next is read.
    let (to_socket, from_disk) = mpsc::channel(1);
    let (read, sent) = tokio::join!(
        read_file(pump, &file, offset, order.size, to_socket),
        write_socket(pump, &stream, offset, from_disk, report, stop)
    );
    match (sent, read) {
        (Err(end), _) => return end,
        (Ok(()), Err(error)) => return SendEnd::FileError(error),
        (Ok(()), Ok(())) => {}
    }
    tokio::select! {
        () = stop.cancelled() => SendEnd::Stopped,
        closed = timeout(CLOSE_WAIT, until_closed(&mut stream)) => match closed {
            // Broken off instead of closed: bytes on the way were thrown away.
            Ok(Err(_)) => SendEnd::Closed { position: order.size },
            Ok(Ok(())) | Err(_) => SendEnd::Complete { offset },
        },
    }
}

/// Sends the token, reads the offset.
async fn greet(stream: &mut TcpStream, token: Token) -> std::io::Result<u64> {
    stream.write_all(&token.0.to_le_bytes()).await?;
    stream.read_u64_le().await
}

/// Reads until the other side closes. Whatever else it says means nothing.
async fn until_closed(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut ignored = [0; 256];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// Reads batch after batch, one ahead of the socket.
async fn read_file(
    pump: &Pump,
    file: &File,
    mut at: u64,
    size: u64,
    out: mpsc::Sender<Vec<Block>>,
) -> Result<(), String> {
    let disk = &pump.shared.disk;
    while at < size {
        // Room first, so that never more than one batch waits; no room means that the sending half has ended.
        let Ok(room) = out.reserve().await else { return Ok(()) };
        let wanted = usize::try_from((size - at).div_ceil(BLOCK_LEN as u64)).unwrap_or(BATCH).min(BATCH);
        let blocks = tokio::select! {
            blocks = disk.pool().take_many(wanted) => blocks,
            () = out.closed() => return Ok(()),
        };
        let expected = (size - at).min((blocks.len() * BLOCK_LEN) as u64);
        let mut blocks = disk.read(file, at, blocks).await.map_err(|error| error.to_string())?;
        // A file that grew meanwhile is sent as it was indexed.
        let mut left = usize::try_from(expected).unwrap_or(usize::MAX);
        for block in &mut blocks {
            block.truncate(left);
            left -= block.len();
        }
        if left > 0 {
            return Err(format!("the file became shorter: {left} bytes are missing at {at}"));
        }
        at += expected;
        room.send(blocks);
    }
    Ok(())
}

/// Sends batch after batch until there are no more.
async fn write_socket(
    pump: &Pump,
    stream: &TcpStream,
    mut position: u64,
    mut batches: mpsc::Receiver<Vec<Block>>,
    report: &Report<'_>,
    stop: &CancellationToken,
) -> Result<(), SendEnd> {
    let bucket = &pump.shared.limiter.up;
    let mut progress = Progress::new(report);
    loop {
        let batch = tokio::select! {
            () = stop.cancelled() => return Err(SendEnd::Stopped),
            batch = batches.recv() => batch,
        };
        let Some(batch) = batch else { return Ok(()) };
        let total: usize = batch.iter().map(Block::len).sum();
        let mut sent = 0;
        while sent < total {
            let ready = async {
                let granted = bucket.take(total - sent).await;
                (granted, timeout(STALL, stream.writable()).await)
            };
            let granted = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(SendEnd::Stopped),
                (granted, ready) = ready => match ready {
                    Ok(Ok(())) => granted,
                    _ => return Err(SendEnd::Closed { position }),
                },
            };
            let mut slices = [IoSlice::new(&[]); BATCH];
            let count = slice(&batch, sent, granted, &mut slices);
            let written = stream.try_write_vectored(&slices[..count]);
            let went = written.as_ref().map_or(0, |count| *count);
            bucket.give_back(granted - went);
            super::count(&pump.shared.limiter.traffic.soulseek_up, went);
            match written {
                Ok(count) => {
                    sent += count;
                    position += count as u64;
                    progress.at(position);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(SendEnd::Closed { position }),
            }
        }
    }
}

/// The bytes from `skip` on, `len` at most, as slices; returns how many slices.
fn slice<'a>(batch: &'a [Block], mut skip: usize, mut len: usize, slices: &mut [IoSlice<'a>; BATCH]) -> usize {
    let mut count = 0;
    for block in batch.iter().take(BATCH) {
        let bytes = block.bytes();
        let gone = skip.min(bytes.len());
        skip -= gone;
        let here = &bytes[gone..][..len.min(bytes.len() - gone)];
        if !here.is_empty() {
            slices[count] = IoSlice::new(here);
            count += 1;
            len -= here.len();
        }
    }
    count
}
