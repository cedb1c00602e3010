//! Follows the shape of a share list through bytes that come in pieces, without keeping any of it.

use crate::engine::soulseek::frame::FrameError;
use crate::engine::soulseek::peer::{FILE_MIN, FOLDER_MIN, check_attributes};
use crate::model::limits::PATH_LEN;
use crate::model::music::ShareCounts;

/// Which number comes next. What lies between two numbers is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    FolderCount,
    FolderNameLen,
    FileCount,
    FileNameLen,
    ExtensionLen,
    AttributeCount,
    Unknown,
    PrivateCount,
    Nothing,
}

/// The place in the list, and what was seen.
#[derive(Debug)]
pub(super) struct Check {
    expect: Expect,
    private: bool,
    number: [u8; 4],
    number_len: usize,
    skip: u64,
    folders_left: u32,
    files_left: u32,
    /// Bytes that may still come.
    left: u64,
    counts: ShareCounts,
}

impl Check {
    /// Before the first byte of a list of at most `length_max`.
    pub(super) fn new(length_max: u64) -> Self {
        Self {
            expect: Expect::FolderCount,
            private: false,
            number: [0; 4],
            number_len: 0,
            skip: 0,
            folders_left: 0,
            files_left: 0,
            left: length_max,
            counts: ShareCounts::default(),
        }
    }

    /// Follows the next bytes.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        while !bytes.is_empty() && (self.skip > 0 || self.expect != Expect::Nothing) {
            let take = if self.skip > 0 {
                let take = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= take as u64;
                take
            } else {
                let take = (self.number.len() - self.number_len).min(bytes.len());
                self.number[self.number_len..self.number_len + take].copy_from_slice(&bytes[..take]);
                self.number_len += take;
                take
            };
            bytes = &bytes[take..];
            self.left = self.left.saturating_sub(take as u64);
            if self.number_len == self.number.len() {
                self.number_len = 0;
                self.on_number(u32::from_le_bytes(self.number))?;
            }
        }
        Ok(())
    }

    fn on_number(&mut self, number: u32) -> Result<(), FrameError> {
        match self.expect {
            Expect::FolderCount | Expect::PrivateCount => {
                self.private = self.expect == Expect::PrivateCount;
                self.folders_left = self.count(number, FOLDER_MIN)?;
                self.next_folder();
            }
            Expect::FolderNameLen => {
                self.skip = text_len(number)?;
                self.expect = Expect::FileCount;
            }
            Expect::FileCount => {
                self.files_left = self.count(number, FILE_MIN)?;
                self.counts.folders = self.counts.folders.saturating_add(1);
                self.next_file();
            }
            Expect::FileNameLen => {
                // The size lies between the name and the extension.
                self.skip = text_len(number)? + 8;
                self.expect = Expect::ExtensionLen;
            }
            Expect::ExtensionLen => {
                self.skip = text_len(number)?;
                self.expect = Expect::AttributeCount;
            }
            Expect::AttributeCount => {
                check_attributes(number as usize)?;
                self.skip = 8 * u64::from(number);
                self.counts.files = self.counts.files.saturating_add(1);
                self.next_file();
            }
            Expect::Unknown => self.expect = Expect::PrivateCount,
            Expect::Nothing => {}
        }
        Ok(())
    }

    fn next_folder(&mut self) {
        self.expect = match self.folders_left.checked_sub(1) {
            Some(left) => {
                self.folders_left = left;
                Expect::FolderNameLen
            }
            None if self.private => Expect::Nothing,
            None => Expect::Unknown,
        };
    }

    fn next_file(&mut self) {
        if let Some(left) = self.files_left.checked_sub(1) {
            self.files_left = left;
            // The code before the name.
            self.skip += 1;
            self.expect = Expect::FileNameLen;
        } else {
            self.next_folder();
        }
    }

    /// A count that the bytes still allowed could hold.
    fn count(&self, count: u32, entry_min: usize) -> Result<u32, FrameError> {
        if u64::from(count).saturating_mul(entry_min as u64) > self.left {
            return Err(FrameError::CountTooLarge { count, left: usize::try_from(self.left).unwrap_or(usize::MAX) });
        }
        Ok(count)
    }

    /// The list is over: what it held. The unknown number and the private folders may be missing.
    pub(super) fn finish(&self) -> Result<ShareCounts, FrameError> {
        let at_end = matches!(self.expect, Expect::Unknown | Expect::PrivateCount | Expect::Nothing);
        if at_end && self.skip == 0 { Ok(self.counts) } else { Err(FrameError::Truncated { missing: 1 }) }
    }
}

fn text_len(length: u32) -> Result<u64, FrameError> {
    if length as usize > PATH_LEN {
        return Err(FrameError::TextTooLong { length: length as usize, length_max: PATH_LEN });
    }
    Ok(u64::from(length))
}
