//! Share lists of others, fetched lately: the handles, not the lists. Turning a page must not fetch the list again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::model::id::Username;
use crate::model::limits;
use crate::model::time::UnixMs;
use crate::model::view::{Browsed, FolderView};

/// Lists read at once: each reading inflates up to 64 MiB of text from the disk, one folder in memory at a time.
const READERS: usize = 2;

/// The last [`limits::BROWSE_SPOOLS`] lists; the oldest is forgotten.
#[derive(Debug)]
pub(crate) struct BrowseCache {
    lists: Mutex<VecDeque<(Username, Arc<Browsed>, UnixMs)>>,
    readers: Arc<Semaphore>,
}

impl Default for BrowseCache {
    fn default() -> Self {
        Self { lists: Mutex::default(), readers: Arc::new(Semaphore::new(READERS)) }
    }
}

/// A folder in a list of folders.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FolderLine {
    pub(crate) name: crate::model::music::WireText,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// Folders of one page, and how many there are in all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lines {
    pub(crate) lines: Vec<FolderLine>,
    pub(crate) all: usize,
}

impl BrowseCache {
    /// The list of a user and when it came.
    pub(crate) fn get(&self, user: &Username) -> Option<(Arc<Browsed>, UnixMs)> {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.iter().find(|(name, ..)| name == user).map(|(_, list, at)| (Arc::clone(list), *at))
    }

    pub(crate) fn put(&self, user: Username, list: Browsed, now: UnixMs) -> Arc<Browsed> {
        let list = Arc::new(list);
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|(name, ..)| *name != user);
        lists.truncate(limits::BROWSE_SPOOLS - 1);
        lists.push_front((user, Arc::clone(&list), now));
        list
    }

    pub(crate) fn forget(&self, user: &Username) {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).retain(|(name, ..)| name != user);
    }

    /// Reads folders whose name holds `words` (all of them, in any case), skipping `offset` of those.
    pub(crate) async fn lines(
        &self,
        list: &Arc<Browsed>,
        words: &str,
        offset: usize,
        limit: usize,
    ) -> std::io::Result<Lines> {
        let words: Vec<String> = words.to_lowercase().split_whitespace().map(str::to_owned).collect();
        self.read(list, move |folders| {
            let mut found = Lines::default();
            for folder in folders {
                let folder = folder?;
                if !words.is_empty() {
                    let name = folder.name.as_str().to_lowercase();
                    if !words.iter().all(|word| name.contains(word)) {
                        continue;
                    }
                }
                if (offset..offset.saturating_add(limit)).contains(&found.all) {
                    let bytes = folder.files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size));
                    found.lines.push(FolderLine { name: folder.name, files: folder.files.len(), bytes });
                }
                found.all += 1;
            }
            Ok(found)
        })
        .await
    }

    /// One folder of the list.
    pub(crate) async fn folder(
        &self,
        list: &Arc<Browsed>,
        name: crate::model::music::WireText,
    ) -> std::io::Result<Option<FolderView>> {
        self.read(list, move |mut folders| {
            let wanted = |folder: &std::io::Result<FolderView>| {
                folder.as_ref().map_or(true, |folder| folder.name.to_wire() == name.to_wire())
            };
            folders.find(wanted).transpose()
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        list: &Arc<Browsed>,
        work: impl FnOnce(crate::model::view::FolderStream) -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let Ok(permit) = Arc::clone(&self.readers).acquire_owned().await else {
            return Err(std::io::ErrorKind::Interrupted.into());
        };
        let list = Arc::clone(list);
        tokio::task::spawn_blocking(move || {
            let done = work((list.open)()?);
            drop(permit);
            done
        })
        .await
        .unwrap_or_else(|problem| Err(std::io::Error::other(problem)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(folders: u32) -> Browsed {
        let one = |n: u32| FolderView { name: format!("Music\\Folder {n}").as_str().into(), files: Vec::new() };
        Browsed { folders, files: 0, open: Arc::new(move || Ok(Box::new((0..folders).map(move |n| Ok(one(n)))))) }
    }

    #[tokio::test]
    async fn pages_and_words_choose_folders() {
        let cache = BrowseCache::default();
        let list = cache.put("a".into(), list(120), UnixMs(1));
        let page = cache.lines(&list, "", 100, 50).await.unwrap();
        assert_eq!((page.lines.len(), page.all), (20, 120));
        let page = cache.lines(&list, "FOLDER 11", 0, 50).await.unwrap();
        assert_eq!(page.all, 11, "11 and 110 to 119");
        let folder = cache.folder(&list, "Music\\Folder 7".into()).await.unwrap();
        assert_eq!(folder.map(|f| f.name.as_str().to_owned()), Some("Music\\Folder 7".to_owned()));
        assert_eq!(cache.folder(&list, "no".into()).await.unwrap(), None);
    }

    #[test]
    fn the_oldest_list_is_forgotten() {
        let cache = BrowseCache::default();
        for n in 0..=limits::BROWSE_SPOOLS {
            cache.put(format!("user {n}").as_str().into(), list(1), UnixMs(0));
        }
        assert!(cache.get(&"user 0".into()).is_none());
        assert!(cache.get(&"user 1".into()).is_some());
        cache.forget(&"user 1".into());
        assert!(cache.get(&"user 1".into()).is_none());
    }
}
