//! The end of a user's file beside that of a file that is here.

use std::path::Path;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Pump;
use super::receive::{send_offset, some};
use crate::disk::pool::{BLOCK_LEN, Block};
use crate::disk::{DiskError, File};
use crate::engine::soulseek::downloads::COMPARE;
use crate::engine::soulseek::io::Compared;
use crate::model::limits::{HANDSHAKE_S, ORIGIN_SAMPLE};

// An end of the file is held in one block; never both, or those who hold one and wait for another might be all there are.
const _: () = assert!(ORIGIN_SAMPLE <= BLOCK_LEN as u64);

/// What our file ends with: all of one that is short.
struct Ours {
    file: File,
    tail: Vec<Block>,
    /// Where the end begins.
    offset: u64,
}

/// What came, beside the end of our file.
struct Beside<'a> {
    tail: &'a [u8],
    came: usize,
    is_tail: bool,
    /// Of all that came.
    hash: blake3::Hasher,
}

impl<'a> Beside<'a> {
    fn new(tail: &'a [u8]) -> Self {
        Self { tail, came: 0, is_tail: true, hash: blake3::Hasher::new() }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.is_tail &= self.tail.get(self.came..).is_some_and(|rest| rest.starts_with(bytes));
        self.came += bytes.len();
        self.hash.update(bytes);
    }
}

/// Asks for the end, and says how it compares. The connection is to be closed then.
pub(super) async fn compare(
    pump: &Pump,
    stream: &TcpStream,
    path: &Path,
    size: u64,
    stop: &CancellationToken,
) -> Compared {
    let ours = ours(pump, path, size).await;
    // Where we cannot compare the last byte is asked for: the user is not to blame, and sees an upload that went well.
    let offset = ours.as_ref().map_or(size.saturating_sub(1), |ours| ours.offset);
    let mut beside = Beside::new(ours.as_ref().map_or(&[0; 1][..], |ours| bytes(&ours.tail)));
    let told = timeout(Duration::from_secs(HANDSHAKE_S), send_offset(stream, offset)).await;
    if matches!(told, Ok(Ok(()))) {
        // What came until then is compared, however it ended.
        tokio::select! {
            () = stop.cancelled() => {}
            _ = timeout(COMPARE, take(pump, stream, &mut beside)) => {}
        }
    }
    let (came, wanted, is_tail, hash) = (beside.came, beside.tail.len(), beside.is_tail, beside.hash.finalize());
    match ours {
        Ok(_) if is_tail && came == wanted => Compared::Same,
        Ok(_) if is_tail => Compared::Unknown(format!("{came} of {wanted} bytes came")),
        Ok(Ours { file, tail, .. }) => {
            drop(tail);
            begins_so(pump, &file, came, hash).await
        }
        Err(why) => Compared::Unknown(why),
    }
}

/// What came is not what our file ends with: whether it is what it begins with.
async fn begins_so(pump: &Pump, file: &File, came: usize, hash: blake3::Hash) -> Compared {
    let disk = &pump.shared.disk;
    match disk.read(file, 0, vec![disk.pool().take().await]).await {
        Ok(head) if bytes(&head).get(..came).is_some_and(|head| blake3::hash(head) == hash) => {
            Compared::Unknown("it sends from the beginning, whatever it is asked for".to_owned())
        }
        Ok(_) => Compared::Other,
        Err(error) => Compared::Unknown(gone(&error)),
    }
}

fn gone(error: &DiskError) -> String {
    format!("the file is not where it was put: {error}")
}

fn bytes(blocks: &[Block]) -> &[u8] {
    blocks.first().map(Block::bytes).unwrap_or_default()
}

/// Reads what is to be compared; or why that cannot be.
async fn ours(pump: &Pump, path: &Path, size: u64) -> Result<Ours, String> {
    let disk = &pump.shared.disk;
    let gone = |error: DiskError| gone(&error);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err("it is not known where the file is".to_owned());
    };
    let folder = disk.open_folder(parent).await.map_err(gone)?;
    let (file, len) = disk.open_existing(&folder, name).await.map_err(gone)?;
    if len != size {
        return Err(format!("the file has {len} bytes by now"));
    }
    let offset = size.saturating_sub(ORIGIN_SAMPLE);
    let tail = disk.read(&file, offset, vec![disk.pool().take().await]).await.map_err(gone)?;
    Ok(Ours { file, tail, offset })
}

/// Takes what comes until it is enough or the other side closes; other bytes too, so that its upload ends well.
async fn take(pump: &Pump, stream: &TcpStream, beside: &mut Beside<'_>) {
    let mut buffer = [0; 4096];
    while beside.came < beside.tail.len() {
        let wanted = buffer.len().min(beside.tail.len() - beside.came);
        match some(pump, stream, &mut buffer[..wanted]).await {
            Ok(0) | Err(_) => return,
            Ok(came) => beside.add(&buffer[..came]),
        }
    }
}
