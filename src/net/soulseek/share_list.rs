//! Share lists (code 5), which may be far larger than memory: ours goes out from a file made beforehand, those of
//! others go into a spool of a few files.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufRead, AsyncReadExt, AsyncWrite};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::debug;

use super::End;
use super::shared::{Conn, Shared, count};
use super::wire::{read_more, write_paced};
use crate::engine::soulseek::io::ConnEvent;
use crate::engine::soulseek::peer::PeerMessage;
use crate::engine::soulseek::sharelist::{self, ShareListError, ShareListInflater, ShareListWriter};
use crate::model::id::Username;
use crate::model::limits;
use crate::model::music::ShareCounts;

/// Compressed bytes handled at a time: one trip to the blocking pool, one piece on the wire.
const PIECE: usize = 64 * 1024;
/// Ending of a complete spooled list.
const SPOOLED: &str = "shares";
/// Ending of one that is being received.
const PARTIAL: &str = "part";

/// Makes the spool folder, and empties it of what an earlier run did not finish.
pub(super) async fn prepare(dir: &Path) -> io::Result<()> {
    let dir = dir.to_owned();
    let prepared = spawn_blocking(move || {
        fs::create_dir_all(&dir)?;
        for (path, _) in files(&dir, PARTIAL)? {
            fs::remove_file(path)?;
        }
        Ok(())
    });
    prepared.await.map_err(io::Error::other)?
}

/// Where a user's list lies. The name is a hash: user names are not file names.
pub(super) fn spool_path(dir: &Path, user: &Username) -> PathBuf {
    dir.join(blake3::hash(user.as_str().as_bytes()).to_hex().as_str()).with_extension(SPOOLED)
}

fn files(dir: &Path, ending: &str) -> io::Result<Vec<(PathBuf, std::time::SystemTime)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == ending) {
            found.push((path, entry.metadata()?.modified()?));
        }
    }
    Ok(found)
}

/// A list on its way into the spool. Dropped unfinished, it leaves nothing behind.
struct Spool {
    inflater: Option<ShareListInflater<BufWriter<File>>>,
    partial: PathBuf,
    target: PathBuf,
}

impl Spool {
    fn begin(dir: &Path, conn: &Conn, user: &Username) -> io::Result<Self> {
        let target = spool_path(dir, user);
        // Two connections may deliver one user's list at once.
        let partial = target.with_extension(format!("{}.{PARTIAL}", conn.id.0));
        let file = BufWriter::new(File::create(&partial)?);
        Ok(Self { inflater: Some(ShareListInflater::new(file)), partial, target })
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), ShareListError> {
        self.inflater.as_mut().map_or(Ok(()), |inflater| inflater.push(piece))
    }

    /// The last byte was pushed: the list takes its place, and the oldest ones make room for it.
    fn finish(mut self) -> Result<ShareCounts, ShareListError> {
        let Some(inflater) = self.inflater.take() else { return Ok(ShareCounts::default()) };
        let (mut file, counts) = inflater.finish()?;
        file.flush()?;
        drop(file);
        fs::rename(&self.partial, &self.target)?;
        if let Some(dir) = self.target.parent() {
            let mut others = files(dir, SPOOLED)?;
            others.retain(|(path, _)| *path != self.target);
            others.sort_by_key(|(_, at)| Reverse(*at));
            for (old, _) in others.into_iter().skip(limits::BROWSE_SPOOLS - 1) {
                fs::remove_file(old)?;
            }
        }
        Ok(counts)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        match fs::remove_file(&self.partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                debug!(%error, "an unfinished share list stays in the spool until the next start");
            }
            _ => {}
        }
    }
}

impl From<ShareListError> for End {
    fn from(error: ShareListError) -> Self {
        match error {
            ShareListError::Frame(error) => error.into(),
            error => Self::gone(error.to_string()),
        }
    }
}

/// Runs one step of spooling where it may block.
async fn step<T: Send + 'static>(work: impl FnOnce() -> Result<T, ShareListError> + Send + 'static) -> Result<T, End> {
    match spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        // A panic goes on in the connection's task, where it is contained.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(End::Ours),
        },
    }
}

/// Receives a list of `len` compressed bytes, if one is awaited on this connection.
pub(super) async fn receive(
    shared: &Shared,
    conn: &Conn,
    reader: &mut (impl AsyncBufRead + Unpin),
    len: usize,
) -> Result<(), End> {
    let Some(user) = conn.take_expected() else {
        return Err(End::violation("sends a share list that nobody asked for"));
    };
    // Never closed while the shell lives.
    let _turn = shared.spools.acquire().await.map_err(|_| End::Ours)?;
    let mut spool = Spool::begin(shared.spool_dir(), conn, &user).map_err(ShareListError::Io)?;
    let mut piece = Vec::new();
    let mut left = len;
    while left > 0 {
        piece.clear();
        let next = left.min(PIECE);
        timeout(shared.deadlines.frame, read_more(reader, &mut piece, next))
            .await
            .map_err(|_| End::gone("a share list did not go on in time"))??;
        left -= next;
        (spool, piece) = step(move || spool.push(&piece).map(|()| (spool, piece))).await?;
    }
    let ShareCounts { folders, files } = step(move || spool.finish()).await?;
    debug!(conn = conn.id.0, folders, files, "share list received");
    shared.tell(conn, ConnEvent::Peer(PeerMessage::SharedFileList { folders, files })).await
}

/// Sends our list; an empty one as long as there is none.
pub(super) async fn send(shared: &Shared, writer: &mut (impl AsyncWrite + Unpin)) -> Result<(), End> {
    let stall = shared.deadlines.write_stall;
    let made = match shared.share_list() {
        Some(path) => tokio::fs::File::open(path).await,
        None => Err(io::ErrorKind::NotFound.into()),
    };
    let mut list = match made {
        Ok(list) => list,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, "our share list cannot be read; an empty one is sent");
            }
            let empty = ShareListWriter::new(Vec::new(), 0)?.finish()?;
            let header = sharelist::header(empty.len() as u64)?;
            write_paced(writer, &[&header[..], &empty].concat(), stall).await?;
            count(&shared.counters.bytes_out, header.len() + empty.len());
            return Ok(());
        }
    };
    // The file may be replaced meanwhile; this one is still whole.
    let len = list.metadata().await?.len();
    let header = sharelist::header(len).map_err(|error| End::gone(format!("our share list: {error}")))?;
    write_paced(writer, &header, stall).await?;
    count(&shared.counters.bytes_out, header.len());
    let mut piece = Vec::new();
    let mut left = len;
    while left > 0 {
        piece.clear();
        let read = (&mut list).take(left.min(PIECE as u64)).read_to_end(&mut piece).await?;
        if read == 0 {
            return Err(End::gone("our share list was cut while it was sent"));
        }
        write_paced(writer, &piece, stall).await?;
        count(&shared.counters.bytes_out, read);
        left = left.saturating_sub(read as u64);
    }
    Ok(())
}
