//! One upload of a scripted user: the offer, the file connection, and the faults of the script.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpSocket, tcp::OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::PATIENCE;
use super::peer::Shared;
use super::report::RunEnd;
use crate::engine::soulseek::peer::{Init, PeerMessage};
use crate::engine::soulseek::server::ConnectionType;
use crate::engine::swarm::list::PIECE_LEN;
use crate::model::id::Token;

/// Bytes that the kernel holds for the other side: small, so that what is called sent has nearly arrived.
const SEND_BUFFER: u32 = 64 * 1024;

/// Offers the file to somebody whose turn it is, and sends it if it is taken.
pub(super) async fn offer(shared: &Arc<Shared>, user: &str, out: &mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    if shared.is_silent() {
        return Ok(());
    }
    let (token, answer) = shared.offer();
    let size = Some(shared.content.size());
    let request = PeerMessage::TransferRequest { upload: true, token, path: shared.path(), size };
    let told = shared.tell(user, Some(out), &request).await;
    let taken = match told {
        Ok(()) => timeout(PATIENCE, answer).await.is_ok_and(|answer| answer == Ok(true)),
        Err(_) => false,
    };
    shared.withdraw(token);
    if !taken {
        return told;
    }
    shared.report.send_modify(|report| report.transfers += 1);
    let at = shared.address(user).await?;
    sleep(shared.script.rtt).await;
    let socket = TcpSocket::new_v4()?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    let mut stream = timeout(PATIENCE, socket.connect(at.into())).await??;
    stream.set_nodelay(true)?;
    let own = shared.script.name.as_str().into();
    stream.write_all(&Init::PeerInit { user: own, kind: ConnectionType::File, token: Token(0) }.encode()).await?;
    stream.write_all(&token.0.to_le_bytes()).await?;
    let offset = timeout(PATIENCE, stream.read_u64_le()).await??;
    let mut begun = None;
    shared.report.send_modify(|report| begun = report.begin(user, offset));
    let mut run = Running { shared, at: begun, end: RunEnd::Left };
    if (shared.script.deny_offset && offset > 0) || offset > shared.content.size() {
        run.end = RunEnd::Denied;
        return Ok(());
    }
    let (mut reader, mut writer) = stream.into_split();
    let sent = tokio::select! {
        biased;
        sent = run.send(&mut writer, offset) => sent,
        () = hung_up(&mut reader) => Sent::Refused,
    };
    run.end = match sent {
        Sent::All if timeout(PATIENCE, hung_up(&mut reader)).await.is_ok() => RunEnd::Complete,
        Sent::All => RunEnd::LeftOpen,
        Sent::Refused if shared.is_silent() => RunEnd::Silent,
        Sent::Refused => RunEnd::Closed,
        Sent::Gone => {
            shared.away.cancel();
            RunEnd::Left
        }
    };
    Ok(())
}

/// Returns when the other side closes, whatever it may say before.
async fn hung_up(reader: &mut OwnedReadHalf) {
    let mut byte = [0];
    while reader.read(&mut byte).await.is_ok_and(|read| read > 0) {}
}

enum Sent {
    /// To the end of the file.
    All,
    /// The other side takes no more.
    Refused,
    /// The script says to drop everything.
    Gone,
}

/// A run in the report; it is over when this is dropped.
struct Running<'a> {
    shared: &'a Shared,
    at: Option<usize>,
    end: RunEnd,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.report.send_modify(|report| report.end(self.at, self.end));
    }
}

impl Running<'_> {
    async fn send(&self, writer: &mut OwnedWriteHalf, offset: u64) -> Sent {
        let (script, size) = (&self.shared.script, self.shared.content.size());
        sleep(script.rtt).await;
        let mut at = offset;
        let mut pieces = self.shared.report.borrow().sent / PIECE_LEN;
        while at < size {
            let end = ((at / PIECE_LEN + 1) * PIECE_LEN).min(size);
            let Ok(mut piece) = read(self.shared, at, end - at).await else { return Sent::Gone };
            pieces += 1;
            if script.corrupt_every > 0
                && pieces.is_multiple_of(script.corrupt_every)
                && let Some(byte) = piece.first_mut()
            {
                *byte ^= 1;
                self.shared.report.send_modify(|report| report.corrupted += 1);
            }
            let mut rest = piece.as_slice();
            while !rest.is_empty() {
                if self.left(script.disconnect_after) == 0 {
                    return Sent::Gone;
                }
                let mut allowed = self.left(script.stall_after);
                if self.shared.has_recovered() {
                    allowed = u64::MAX;
                } else if allowed == 0 {
                    let since = *self.shared.silent_since.get_or_init(Instant::now);
                    match script.recovers {
                        Some(after) => sleep_until(since + after).await,
                        // Until the other side has enough of it.
                        None => std::future::pending::<()>().await,
                    }
                    continue;
                }
                let allowed = allowed.min(self.left(script.disconnect_after));
                let wanted = rest.len().min(usize::try_from(allowed).unwrap_or(usize::MAX));
                let granted = self.shared.bucket.take(wanted).await;
                let (now, later) = rest.split_at(granted);
                if writer.write_all(now).await.is_err() {
                    return Sent::Refused;
                }
                rest = later;
                self.shared.report.send_modify(|report| report.sent(self.at, granted as u64));
            }
            at = end;
        }
        // Reached with the last byte, it is kept all the same.
        if self.left(script.disconnect_after) == 0 { Sent::Gone } else { Sent::All }
    }

    /// Bytes that may be sent before this limit of the script.
    fn left(&self, limit: Option<u64>) -> u64 {
        limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.shared.report.borrow().sent))
    }
}

async fn read(shared: &Shared, at: u64, len: u64) -> io::Result<Vec<u8>> {
    let content = Arc::clone(&shared.content);
    let work = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        content.read(at, &mut bytes).map(|()| bytes)
    });
    work.await.map_err(io::Error::other)?
}
