//! Messages on an adopted connection: frames in, frames out.

use std::future::Future;

use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::time::timeout;
use tracing::debug;

use super::named::Named;
use super::shared::{Conn, Order, Shared, count};
use super::wire::{frame_begins, read_body, read_more, read_narrow_header, read_wide_header, skip, write_paced};
use super::{End, share_list};
use crate::engine::soulseek::distributed::DistributedMessage;
use crate::engine::soulseek::frame::{NARROW_HEADER_LEN, WIDE_HEADER_LEN};
use crate::engine::soulseek::io::{ConnEvent, Purpose};
use crate::engine::soulseek::peer::{self, PeerMessage};
use crate::model::limits;

/// Code of a share list.
pub(super) const SHARED_FILE_LIST: u32 = 5;
/// Code of a search reply.
const FILE_SEARCH_RESPONSE: u32 = 9;
/// Bytes of a search reply that are read to learn its token. A name of the greatest length and the token take a
/// fraction of it, whatever the compression.
const TOKEN_WITHIN: usize = 2 * 1024;

/// Reads messages and reports them until the stream or the protocol breaks.
pub(super) async fn read(
    shared: &Shared,
    conn: &Conn,
    reader: &mut (impl AsyncBufRead + Unpin),
    purpose: Purpose,
) -> Result<(), End> {
    while frame_begins(reader).await? {
        match purpose {
            Purpose::Distributed => read_distributed(shared, conn, reader).await?,
            // Boxed, as the sending of a share list is: an idle connection need not hold the room for it.
            _ => Box::pin(read_peer(shared, conn, reader)).await?,
        }
    }
    Err(End::gone(""))
}

async fn read_distributed(shared: &Shared, conn: &Conn, reader: &mut (impl AsyncBufRead + Unpin)) -> Result<(), End> {
    let (code, body) = in_time(shared, async {
        let (code, len) = read_narrow_header(reader, limits::FRAME_INIT).await?;
        Ok((code, read_body(reader, len).await?))
    })
    .await?;
    count(&shared.counters.bytes_in, body.len().saturating_add(NARROW_HEADER_LEN));
    let message = DistributedMessage::decode(code, &body)?;
    debug!(conn = conn.id.0, message = %Named(&message), "received");
    if matches!(message, DistributedMessage::Other { .. }) {
        return Ok(());
    }
    shared.tell(conn, ConnEvent::Distributed(message)).await
}

async fn read_peer(shared: &Shared, conn: &Conn, reader: &mut (impl AsyncBufRead + Unpin)) -> Result<(), End> {
    let (code, len) = in_time(shared, read_wide_header(reader, peer::frame_max)).await?;
    count(&shared.counters.bytes_in, len.saturating_add(WIDE_HEADER_LEN));
    if code == SHARED_FILE_LIST {
        return share_list::receive(shared, conn, reader, len).await;
    }
    let begun = if code == FILE_SEARCH_RESPONSE {
        let begun = in_time(shared, read_body(reader, len.min(TOKEN_WITHIN))).await?;
        if !shared.wants_results(peer::search_reply_token(&begun)?) {
            count(&shared.counters.unwanted_results, 1);
            return in_time(shared, skip(reader, len.saturating_sub(begun.len()))).await;
        }
        begun
    } else {
        Vec::new()
    };
    let _memory = shared.frame_allowance(len).await;
    let mut body = begun;
    let left = len.saturating_sub(body.len());
    in_time(shared, read_more(reader, &mut body, left)).await?;
    shared
        .tell_with(conn, || {
            let message = PeerMessage::decode(code, &body)?;
            debug!(conn = conn.id.0, message = %Named(&message), "received");
            let known = !matches!(message, PeerMessage::Other { .. });
            Ok(known.then_some(ConnEvent::Peer(message)))
        })
        .await
}

/// A frame that has begun must end within its deadline.
async fn in_time<T>(shared: &Shared, reading: impl Future<Output = Result<T, End>>) -> Result<T, End> {
    match timeout(shared.deadlines.frame, reading).await {
        Ok(read) => read,
        Err(_) => Err(End::gone("a message did not end in time")),
    }
}

/// Sends what is ordered until the connection is closed and nothing is left.
pub(super) async fn write(shared: &Shared, conn: &Conn, writer: &mut (impl AsyncWrite + Unpin)) -> Result<(), End> {
    while let Some(order) = conn.outbox.next().await {
        let frame = match order {
            Order::Init(init) => init.encode(),
            Order::Peer(message) => message.encode(),
            Order::Distributed(message) => message.encode(),
            Order::ShareList => {
                Box::pin(share_list::send(shared, writer)).await?;
                continue;
            }
            // The connection has its purpose, and its socket is in use.
            Order::Adopt(_) | Order::HandOver(_) => continue,
        };
        write_paced(writer, &frame, shared.deadlines.write_stall).await?;
        count(&shared.counters.bytes_out, frame.len());
    }
    Ok(())
}
