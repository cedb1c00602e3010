//! A user's share list, read from the disk folder by folder.

use super::FolderView;

/// A user's share list as a stream of folders. Taken folder by folder, so that no list is whole in memory.
#[derive(Clone)]
pub struct Browsed {
    /// Folders.
    pub folders: u32,
    /// Files.
    pub files: u32,
    /// Opens the list for reading, as often as wanted. Each folder may be an error that ends the list.
    pub open: std::sync::Arc<dyn Fn() -> std::io::Result<FolderStream> + Send + Sync>,
}

/// Folders, one after another; reading blocks on the disk.
pub type FolderStream = Box<dyn Iterator<Item = std::io::Result<FolderView>> + Send>;

impl std::fmt::Debug for Browsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Browsed").field("folders", &self.folders).field("files", &self.files).finish_non_exhaustive()
    }
}

impl PartialEq for Browsed {
    fn eq(&self, other: &Self) -> bool {
        (self.folders, self.files) == (other.folders, other.files) && std::sync::Arc::ptr_eq(&self.open, &other.open)
    }
}
