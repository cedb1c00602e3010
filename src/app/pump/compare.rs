//! The end of a user's file beside that of a file that is here.

use std::path::Path;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::receive::send_offset;
use super::{Pump, count};
use crate::disk::pool::{BLOCK_LEN, Block};
use crate::disk::{DiskError, File};
use crate::engine::soulseek::downloads::COMPARE;
use crate::engine::soulseek::io::Compared;
use crate::model::limits::{HANDSHAKE_S, ORIGIN_SAMPLE};

// Each end of the file is held in one block.
const _: () = assert!(ORIGIN_SAMPLE <= BLOCK_LEN as u64);

/// What our file begins and ends with; both are all of one that is short.
struct Ours {
    head: Vec<Block>,
    tail: Vec<Block>,
    /// Where the end begins.
    offset: u64,
}

/// What the bytes that came may still be.
struct Beside<'a> {
    head: &'a [u8],
    tail: &'a [u8],
    came: usize,
    is_head: bool,
    is_tail: bool,
}

impl Beside<'_> {
    fn add(&mut self, bytes: &[u8]) {
        let is = |whole: &[u8]| whole.get(self.came..).is_some_and(|rest| rest.starts_with(bytes));
        (self.is_head, self.is_tail) = (self.is_head && is(self.head), self.is_tail && is(self.tail));
        self.came += bytes.len();
    }

    fn verdict(&self) -> Compared {
        let wanted = self.tail.len();
        match (self.is_tail, self.is_head) {
            (true, _) if self.came == wanted => Compared::Same,
            (true, _) => Compared::Unknown(format!("{} of {wanted} bytes came", self.came)),
            (false, true) => Compared::Unknown("it sends from the beginning, whatever it is asked for".to_owned()),
            (false, false) => Compared::Other,
        }
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
    let (head, tail) = ours.as_ref().map_or((&[0; 1][..], &[0; 1][..]), |ours| (bytes(&ours.head), bytes(&ours.tail)));
    let mut beside = Beside { head, tail, came: 0, is_head: true, is_tail: true };
    let told = timeout(Duration::from_secs(HANDSHAKE_S), send_offset(stream, offset)).await;
    if matches!(told, Ok(Ok(()))) {
        // What came until then is compared, however it ended.
        tokio::select! {
            () = stop.cancelled() => {}
            _ = timeout(COMPARE, take(pump, stream, &mut beside)) => {}
        }
    }
    match &ours {
        Ok(_) => beside.verdict(),
        Err(why) => Compared::Unknown(why.clone()),
    }
}

fn bytes(blocks: &[Block]) -> &[u8] {
    blocks.first().map(Block::bytes).unwrap_or_default()
}

/// Reads what is to be compared; or why that cannot be.
async fn ours(pump: &Pump, path: &Path, size: u64) -> Result<Ours, String> {
    let disk = &pump.shared.disk;
    let gone = |error: DiskError| format!("the file is not where it was put: {error}");
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err("it is not known where the file is".to_owned());
    };
    let folder = disk.open_folder(parent).await.map_err(gone)?;
    let (file, len) = disk.open_existing(&folder, name).await.map_err(gone)?;
    if len != size {
        return Err(format!("the file has {len} bytes by now"));
    }
    let offset = size.saturating_sub(ORIGIN_SAMPLE);
    let read = async |file: &File, at| disk.read(file, at, vec![disk.pool().take().await]).await;
    let tail = read(&file, offset).await.map_err(gone)?;
    let head = read(&file, 0).await.map_err(gone)?;
    Ok(Ours { head, tail, offset })
}

/// Takes what comes until it is enough or the other side closes; other bytes too, so that its upload ends well.
async fn take(pump: &Pump, stream: &TcpStream, beside: &mut Beside<'_>) {
    let mut buffer = [0; 4096];
    while beside.came < beside.tail.len() {
        if stream.readable().await.is_err() {
            return;
        }
        let wanted = buffer.len().min(beside.tail.len() - beside.came);
        let granted = pump.shared.limiter.down.take(wanted).await;
        let read = stream.try_read(&mut buffer[..granted]);
        let came = read.as_ref().map_or(0, |count| *count);
        pump.shared.limiter.down.give_back(granted - came);
        count(&pump.shared.limiter.traffic.soulseek_down, came);
        match read {
            Ok(0) => return,
            Ok(came) => beside.add(&buffer[..came]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
