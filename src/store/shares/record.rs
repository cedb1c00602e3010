//! Records of the share index.

use serde::{Deserialize, Serialize};

use crate::model::music::Attributes;
use crate::store::StoreError;
use crate::store::records::Record;

/// One shared folder of the owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// First part of its virtual paths; no two roots have the same.
    pub alias: String,
    /// Where it lies; bytes, because a path need not be text.
    pub local_path: Vec<u8>,
    /// Its folder is there. While it is not (an unmounted disk) its files are kept but not answered.
    pub present: bool,
    /// Folders with at least one file.
    pub folders: u32,
    /// Files.
    pub files: u32,
    /// Bytes of the files.
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FolderRecord {
    pub(super) root: u32,
    /// Virtual path.
    pub(super) path: String,
    /// Below the root, without a leading slash.
    pub(super) local: Vec<u8>,
    /// Files in it; never 0 in a commit.
    pub(super) files: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    pub(super) id: u32,
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    pub(super) attributes: Attributes,
    /// Name on the disk, where it is not the advertised one.
    pub(super) local: Option<Vec<u8>>,
    /// Advertised name, where the key has not the whole of it.
    pub(super) long_name: Option<String>,
}

impl Record for RootRecord {
    const NAME: &'static str = "share root";
    const VERSION: u8 = 1;
}

impl Record for FolderRecord {
    const NAME: &'static str = "share folder";
    const VERSION: u8 = 1;
}

impl Record for FileRecord {
    const NAME: &'static str = "share file";
    const VERSION: u8 = 1;
}

pub(super) fn damaged(record: &'static str, reason: &(impl ToString + ?Sized)) -> StoreError {
    StoreError::RecordDamaged { record, reason: reason.to_string() }
}

pub(super) fn id(bytes: &[u8]) -> Result<u32, StoreError> {
    bytes.try_into().map(u32::from_be_bytes).map_err(|_| damaged("share id", "not 4 bytes"))
}
