//! A Soulseek network of one's own: a small server and scripted users, for the lab and for tests.
//!
//! [`Server`] does what a node needs of the server: login, addresses, calls, searches, presence. [`Peer`] is a user who
//! shares one file and behaves as its [`PeerScript`] says. Both speak with the codecs of `engine::soulseek` over real
//! sockets. What a download through them must come to is the lab's business. Neither is meant for a network with
//! strangers: the bounds here are there to end a runaway test.

mod peer;
mod report;
mod server;
mod upload;

use std::fmt::{Display, Write as _};
use std::io;
use std::time::Duration;

use md5::{Digest as _, Md5};
use tokio::io::{AsyncRead, AsyncReadExt as _};

pub use self::peer::{Content, Peer, PeerScript};
pub use self::report::{PeerReport, Run, RunEnd};
pub use self::server::Server;
use crate::engine::soulseek::frame::{self, NARROW_HEADER_LEN, WIDE_HEADER_LEN};
use crate::engine::soulseek::peer::{INIT_FRAME_MAX, Init};

/// For anything the other side owes at once: a first message, an answer, an offset.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages waiting for one connection; whoever lets more wait is cut off.
const OUTBOX: usize = 64;

fn invalid(error: impl Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// As Login carries it.
fn md5_hex(text: &[u8]) -> String {
    Md5::digest(text).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Reads a server or peer message: its code and its body.
async fn read_wide(
    reader: &mut (impl AsyncRead + Unpin),
    length_max: impl FnOnce(u32) -> u32,
) -> io::Result<(u32, Vec<u8>)> {
    let mut header = [0; WIDE_HEADER_LEN];
    reader.read_exact(&mut header).await?;
    let (code, length) = frame::wide_header(header, length_max).map_err(invalid)?;
    Ok((code, read_body(reader, length).await?))
}

/// Reads the first message of a connection between users.
async fn read_init(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Init> {
    let mut header = [0; NARROW_HEADER_LEN];
    reader.read_exact(&mut header).await?;
    let (code, length) = frame::narrow_header(header, INIT_FRAME_MAX).map_err(invalid)?;
    Init::decode(code, &read_body(reader, length).await?).map_err(invalid)
}

async fn read_body(reader: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if reader.take(length as u64).read_to_end(&mut body).await? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}
