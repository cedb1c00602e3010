//! Frames on a stream: read without allocating ahead of the bytes, written with a least pace.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::End;
use crate::engine::soulseek::frame::{self, NARROW_HEADER_LEN, WIDE_HEADER_LEN};

/// Bytes that must be taken within one write deadline: 1.6 KiB/s at the default of 10 s.
const PACE: usize = 16 * 1024;

/// Waits, for as long as it takes, until a frame begins. `false`: the other side has ended the stream.
pub(super) async fn frame_begins(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<bool> {
    Ok(!reader.fill_buf().await?.is_empty())
}

/// Reads the head of a server or peer message, exactly: its code and the length of its body.
pub(super) async fn read_wide_header(
    reader: &mut (impl AsyncRead + Unpin),
    length_max: impl FnOnce(u32) -> u32,
) -> Result<(u32, usize), End> {
    let mut header = [0; WIDE_HEADER_LEN];
    reader.read_exact(&mut header).await?;
    Ok(frame::wide_header(header, length_max)?)
}

/// Reads the head of an init or distributed message, exactly: its code and the length of its body.
pub(super) async fn read_narrow_header(
    reader: &mut (impl AsyncRead + Unpin),
    length_max: u32,
) -> Result<(u8, usize), End> {
    let mut header = [0; NARROW_HEADER_LEN];
    reader.read_exact(&mut header).await?;
    Ok(frame::narrow_header(header, length_max)?)
}

/// Reads exactly `body_len` bytes. Memory follows what has arrived, not what was announced.
pub(super) async fn read_body(reader: &mut (impl AsyncRead + Unpin), body_len: usize) -> Result<Vec<u8>, End> {
    let mut body = Vec::new();
    read_more(reader, &mut body, body_len).await?;
    Ok(body)
}

/// Reads exactly `more` bytes onto the end of `body`.
pub(super) async fn read_more(
    reader: &mut (impl AsyncRead + Unpin),
    body: &mut Vec<u8>,
    more: usize,
) -> Result<(), End> {
    let read = reader.take(more as u64).read_to_end(body).await?;
    if read < more {
        return Err(End::gone("the stream ends within a message"));
    }
    Ok(())
}

/// Reads and forgets exactly `len` bytes.
pub(super) async fn skip(reader: &mut (impl AsyncRead + Unpin), len: usize) -> Result<(), End> {
    let skipped = tokio::io::copy(&mut reader.take(len as u64), &mut tokio::io::sink()).await?;
    if skipped < len as u64 {
        return Err(End::gone("the stream ends within a message"));
    }
    Ok(())
}

/// Writes all of it; the other side must take 16 KiB within each `stall`.
pub(super) async fn write_paced(
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    stall: Duration,
) -> Result<(), End> {
    for piece in bytes.chunks(PACE) {
        match timeout(stall, writer.write_all(piece)).await {
            Ok(written) => written?,
            Err(_) => return Err(End::gone("does not take what we send")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_is_read_exactly() {
        let mut bytes: &[u8] = &[7, 0, 0, 0, 9, 0, 0, 0, 1, 2, 3, 42];
        assert_eq!(read_wide_header(&mut bytes, |_| 100).await.unwrap(), (9, 3));
        assert_eq!(read_body(&mut bytes, 3).await.unwrap(), [1, 2, 3]);
        assert_eq!(bytes, [42]);

        let mut bytes: &[u8] = &[1, 0, 0, 0, 3, 42];
        assert_eq!(read_narrow_header(&mut bytes, 100).await.unwrap(), (3, 0));
        assert_eq!(bytes, [42]);
    }

    #[tokio::test]
    async fn impossible_lengths_are_violations_and_cut_frames_are_not() {
        for length in [0, 3, 101, u32::MAX] {
            let bytes = [length.to_le_bytes(), [9, 0, 0, 0]].concat();
            assert!(read_wide_header(&mut bytes.as_slice(), |_| 100).await.unwrap_err().is_violation(), "{length}");
        }
        let mut bytes: &[u8] = &[1, 2, 3];
        assert!(!read_body(&mut bytes, 4).await.unwrap_err().is_violation());
        let mut bytes: &[u8] = &[1, 2, 3];
        assert!(!skip(&mut bytes, 4).await.unwrap_err().is_violation());
    }

    #[tokio::test]
    async fn an_announced_length_costs_no_memory() {
        let mut body = Vec::new();
        let mut bytes: &[u8] = &[1; 100];
        assert!(read_more(&mut bytes, &mut body, 16 * 1024 * 1024).await.is_err());
        assert!(body.capacity() < 1024, "{}", body.capacity());
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let (mut ours, _theirs) = tokio::io::duplex(1024);
        let stalled = write_paced(&mut ours, &[0; 4096], Duration::from_millis(1)).await;
        assert!(stalled.is_err());
    }
}
