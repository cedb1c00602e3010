//! A file that a browser or a program sends, streamed to the disk: never more of it in memory than a chunk.

use std::io;
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;

/// Nothing for so long, and the upload is given up.
const IDLE: Duration = Duration::from_secs(30);
/// A form's part begins with at most so many bytes of its own.
const PART_HEAD_LEN: usize = 8 * 1024;
/// Longest boundary of a form (RFC 2046).
const BOUNDARY_LEN: usize = 70;
/// Left free on the disk, beside the file.
const FLOOR: u64 = 64 * 1024 * 1024;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Longer than it may be.
    #[error("a file of at most {0} MiB is taken")]
    TooLong(u64),
    /// No room.
    #[error("there are {have} MiB free on the disk, the file needs {need}")]
    Room {
        /// MiB.
        have: u64,
        /// MiB.
        need: u64,
    },
    /// The sender stopped, or was cut off.
    #[error("the upload broke off")]
    BrokenOff,
    /// Something else than one file.
    #[error("one file is wanted, as the only field of the form")]
    Form,
    /// The disk.
    #[error("the upload cannot be kept: {0}")]
    Disk(#[from] io::Error),
}

/// The boundary of a form, if this is one; empty without a usable one.
fn boundary(headers: &HeaderMap) -> Option<String> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let (kind, rest) = kind.split_once(';').unwrap_or((kind, ""));
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let found = rest.split(';').find_map(|part| part.trim().strip_prefix("boundary="));
    let found = found.map(|text| text.trim_matches('"')).filter(|text| (1..=BOUNDARY_LEN).contains(&text.len()));
    Some(found.unwrap_or_default().to_owned())
}

/// Writes the body, or the one file of the form in it, to `path`, synced. Answers its length. What is there afterwards in
/// case of an error is of no use.
///
/// # Errors
/// Why there is no file.
pub async fn receive(headers: &HeaderMap, body: Body, path: &Path, most: u64) -> Result<u64, UploadError> {
    let stated = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let too_long = || UploadError::TooLong(most >> 20);
    if stated.is_some_and(|stated| stated > most.saturating_add(PART_HEAD_LEN as u64)) {
        return Err(too_long());
    }
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
        let space = rustix::fs::statvfs(folder).map_err(io::Error::from)?;
        let (have, need) = (space.f_bavail.saturating_mul(space.f_frsize), stated.unwrap_or(0).saturating_add(FLOOR));
        if have < need {
            return Err(UploadError::Room { have: have >> 20, need: need >> 20 });
        }
    }
    let mut form = match boundary(headers) {
        Some(boundary) if boundary.is_empty() => return Err(UploadError::Form),
        Some(boundary) => Some(Form { boundary, held: Vec::new(), begun: false }),
        None => None,
    };
    let mut file = tokio::fs::File::create(path).await?;
    let mut body = body;
    let mut length = 0_u64;
    loop {
        let frame = tokio::time::timeout(IDLE, body.frame()).await.map_err(|_| UploadError::BrokenOff)?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| UploadError::BrokenOff)?.into_data() else { continue };
        let passed = match &mut form {
            Some(form) => &form.push(&data)?[..],
            None => &data,
        };
        length = length.saturating_add(passed.len() as u64);
        if length > most {
            return Err(too_long());
        }
        file.write_all(passed).await?;
    }
    if let Some(form) = form {
        let last = form.end()?;
        length = length.saturating_add(last.len() as u64);
        if length > most {
            return Err(too_long());
        }
        file.write_all(&last).await?;
    }
    file.sync_all().await?;
    Ok(length)
}

/// The one file of a form, out of its wrapping.
struct Form {
    boundary: String,
    /// Not passed on yet: the part's head, or what may be the form's end.
    held: Vec<u8>,
    begun: bool,
}

impl Form {
    /// What can be passed on.
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, UploadError> {
        self.held.extend_from_slice(bytes);
        if !self.begun {
            let Some(at) = find(&self.held[..self.held.len().min(PART_HEAD_LEN)], b"\r\n\r\n") else {
                return if self.held.len() >= PART_HEAD_LEN { Err(UploadError::Form) } else { Ok(Vec::new()) };
            };
            if !self.held.starts_with(format!("--{}\r\n", self.boundary).as_bytes()) {
                return Err(UploadError::Form);
            }
            self.held.drain(..at + 4);
            self.begun = true;
        }
        // The end, and a line end or two that some send behind it.
        let keep = self.end_mark().len() + 8;
        let pass = self.held.len().saturating_sub(keep);
        Ok(self.held.drain(..pass).collect())
    }

    fn end_mark(&self) -> Vec<u8> {
        format!("\r\n--{}--", self.boundary).into_bytes()
    }

    /// What came before the form's end.
    fn end(mut self) -> Result<Vec<u8>, UploadError> {
        let at = find(&self.held, &self.end_mark()).filter(|_| self.begun).ok_or(UploadError::BrokenOff)?;
        self.held.truncate(at);
        Ok(self.held)
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    async fn check(kind: Option<&str>, body: &[u8], chunk: usize, most: u64) -> Result<Vec<u8>, UploadError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool").join("upload");
        let mut headers = HeaderMap::new();
        if let Some(kind) = kind {
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        }
        let chunks: Vec<Result<Vec<u8>, io::Error>> = body.chunks(chunk).map(|chunk| Ok(chunk.to_vec())).collect();
        let body = Body::from_stream(stream::iter(chunks));
        let length = receive(&headers, body, &path, most).await?;
        let there = std::fs::read(path).unwrap();
        assert_eq!(there.len() as u64, length);
        Ok(there)
    }

    #[tokio::test]
    async fn a_file_comes_out_as_it_was_sent() {
        let file: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
        let head = "--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
        let form = [head.as_bytes(), &file, b"\r\n--XyZ--\r\n"].concat();
        for chunk in [1, 7, 100, 100_000] {
            assert_eq!(check(Some("multipart/form-data; boundary=XyZ"), &form, chunk, 1 << 20).await.unwrap(), file);
            assert_eq!(check(Some("application/octet-stream"), &file, chunk, 1 << 20).await.unwrap(), file);
        }
        let kind = Some("multipart/form-data; boundary=\"XyZ\"");
        for cut in [0, 10, head.len() - 1, head.len(), form.len() - 9] {
            assert!(check(kind, &form[..cut], 64, 1 << 20).await.is_err(), "{cut}");
        }
        assert!(matches!(check(kind, &form, 64, 19_999).await, Err(UploadError::TooLong(_))));
        assert!(matches!(check(None, &file, 64, 19_999).await, Err(UploadError::TooLong(_))));
        assert!(check(Some("multipart/form-data; boundary=Other"), &form, 64, 1 << 20).await.is_err());
        assert!(check(Some("multipart/form-data"), &form, 64, 1 << 20).await.is_err());
        assert!(check(kind, &b"-".repeat(20_000), 64, 1 << 20).await.is_err());
    }
}
