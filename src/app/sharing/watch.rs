//! Notices changes in the shared folders where the file system tells of them (inotify).
//!
//! Changes made on another machine (NFS, SMB) are not told; the periodic check finds those.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Config, ErrorKind, Event, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::mailbox::Mailbox;
use super::rules::skips_name;

/// Watches folders until it is dropped.
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    watched: Vec<PathBuf>,
}

impl Watch {
    /// Tells `mailbox` of every changed path from now on.
    pub(super) fn start(mailbox: Arc<Mailbox>) -> Result<Self, String> {
        let config = Config::default().with_follow_symlinks(false);
        let watcher = RecommendedWatcher::new(move |event| heard(&mailbox, event), config);
        let watcher = watcher.map_err(|error| format!("changes are not noticed at once: {}", reason(&error)))?;
        Ok(Self { watcher, watched: Vec::new() })
    }

    /// Watches a folder and all below it. What cannot be watched is left to the periodic check, and told.
    pub(super) fn add(&mut self, folder: &Path) -> Result<(), String> {
        if self.watched.iter().any(|watched| watched == folder) {
            return Ok(());
        }
        self.watched.push(folder.to_owned());
        self.watcher.watch(folder, RecursiveMode::Recursive).map_err(|error| {
            format!("not every change below {} is noticed at once: {}", folder.display(), reason(&error))
        })
    }

    /// Watches a folder no longer; it may be another one when it comes back.
    pub(super) fn remove(&mut self, folder: &Path) {
        self.watched.retain(|watched| watched != folder);
        // It may be gone, and its watch with it.
        drop(self.watcher.unwatch(folder));
    }
}

fn reason(error: &notify::Error) -> String {
    match &error.kind {
        ErrorKind::MaxFilesWatch => "the system watches no more folders (fs.inotify.max_user_watches)".to_owned(),
        ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    }
}

fn heard(mailbox: &Mailbox, event: notify::Result<Event>) {
    let Ok(event) = event else { return mailbox.overflow() };
    if event.need_rescan() {
        return mailbox.overflow();
    }
    let matters = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        // Told again when the file is closed.
        EventKind::Modify(ModifyKind::Data(_)) | EventKind::Other => false,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) => true,
    };
    if matters {
        let skipped = |path: &Path| {
            let name = path.file_name().map_or(&b""[..], OsStr::as_bytes);
            skips_name(name, true) && skips_name(name, false)
        };
        event.paths.iter().filter(|path| !skipped(path)).for_each(|path| mailbox.touch(path));
    }
}
