//! What is never shared, and under which names shares appear.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use regex::{RegexSet, RegexSetBuilder};

use super::SharingError;

/// Bytes all filters together may take when compiled. Chosen: hundreds of ordinary filters.
const FILTERS_LEN: usize = 1024 * 1024;

/// Folders of other programs and systems, lower case (ECOSYSTEM-FACTS 3; Nicotine+ leaves the same ones out). Names
/// that begin with a dot are left out besides.
const FOLDERS: [&[u8]; 8] = [
    b"@eadir",
    b"#recycle",
    b"#snapshot",
    b"@recycle",
    b"lost+found",
    b"$recycle.bin",
    b"system volume information",
    b"__macosx",
];
/// Files of other programs and systems, lower case.
const FILES: [&[u8]; 3] = [b"thumbs.db", b"desktop.ini", b"ehthumbs.db"];
/// Ends of unfinished files and of what made way for another, lower case.
const ENDS: [&[u8]; 7] = [b".part", b".tmp", b".crdownload", b".!ut", b".incomplete", b"~", b".bak"];

/// What the owner does not want shared.
#[derive(Debug)]
pub struct Rules {
    filters: RegexSet,
    /// Folders left out with all that is in them, and files.
    excluded: Vec<Excluded>,
}

#[derive(Debug)]
struct Excluded {
    /// Links resolved where they exist.
    path: PathBuf,
    /// The folder it lies in, by whatever path: one that is mounted in two places has two.
    folder: Option<FolderId>,
}

/// Device and number of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderId(u64, u64);

impl FolderId {
    /// Links are followed; `None` if it is not there.
    pub fn of(path: &Path) -> Option<Self> {
        path.metadata().ok().map(|found| Self(found.dev(), found.ino()))
    }
}

impl Rules {
    /// Compiles the filters; they ignore case. A wrong one is refused, because leaving it out would share too much.
    pub fn new(filters: &[String], excluded_paths: &[PathBuf]) -> Result<Self, SharingError> {
        for filter in filters {
            compile(std::slice::from_ref(filter))
                .map_err(|source| SharingError::Filter { filter: filter.clone(), source: Box::new(source) })?;
        }
        let filters = compile(filters).map_err(|source| SharingError::Filters(Box::new(source)))?;
        let excluded = |path: &PathBuf| {
            let path = path.canonicalize().unwrap_or_else(|_| path.clone());
            Excluded { folder: path.parent().and_then(FolderId::of), path }
        };
        Ok(Self { filters, excluded: excluded_paths.iter().map(excluded).collect() })
    }

    /// Whether the owner's filters keep a file out, by its whole path on the disk.
    pub fn filter(&self, path: &Path) -> bool {
        !self.filters.is_empty() && self.filters.is_match(&path.to_string_lossy())
    }

    /// Whether a path, links resolved, lies in a folder that is left out.
    pub fn exclude(&self, real: &Path) -> bool {
        self.excluded.iter().any(|excluded| real.starts_with(&excluded.path))
    }

    /// Whether what has this name in this folder is left out, by whatever path the folder was reached.
    pub fn exclude_in(&self, folder: FolderId, name: &OsStr) -> bool {
        self.excluded.iter().any(|excluded| excluded.folder == Some(folder) && excluded.path.file_name() == Some(name))
    }

    /// Both, for a path of whose folders none was looked at yet.
    pub fn exclude_whole(&self, real: &Path) -> bool {
        let hidden = |path: &Path| {
            let (folder, name) = (path.parent()?, path.file_name()?);
            Some(self.exclude_in(FolderId::of(folder)?, name))
        };
        self.exclude(real) || real.ancestors().any(|path| hidden(path) == Some(true))
    }
}

fn compile(filters: &[String]) -> Result<RegexSet, regex::Error> {
    RegexSetBuilder::new(filters).case_insensitive(true).size_limit(FILTERS_LEN).build()
}

/// Whether an entry of a folder is left out by its name, whatever the owner says.
pub(in crate::app) fn skips_name(name: &[u8], is_folder: bool) -> bool {
    let is = |other: &&[u8]| name.eq_ignore_ascii_case(other);
    name.starts_with(b".")
        || if is_folder {
            FOLDERS.iter().any(is)
        } else {
            FILES.iter().any(is) || ENDS.iter().any(|end| name.len() > end.len() && is_end(name, end))
        }
}

fn is_end(name: &[u8], end: &[u8]) -> bool {
    name.len().checked_sub(end.len()).is_some_and(|at| name[at..].eq_ignore_ascii_case(end))
}

/// One shared folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Root {
    /// Follows from the path, so it is the same after every restart.
    pub(super) id: u32,
    /// Unlike every other root's.
    pub(super) alias: String,
    pub(super) path: PathBuf,
}

impl Root {
    /// The id as the API shows it.
    pub(super) fn name(&self) -> String {
        format!("{:08x}", self.id)
    }
}

/// Gives the owner's folders their ids and names. A folder listed twice counts once; an alias used twice gets a number;
/// without an alias the folder's own name is taken.
pub(super) fn roots(directories: &[(String, PathBuf)]) -> Vec<Root> {
    let mut roots: Vec<Root> = Vec::new();
    let mut aliases = BTreeSet::new();
    for (alias, path) in directories {
        let path: PathBuf = path.components().collect();
        if roots.iter().any(|root| root.path == path) {
            continue;
        }
        let own = || path.file_name().map(|name| name.to_string_lossy().into_owned());
        let alias = Some(alias.trim().to_owned()).filter(|alias| !alias.is_empty()).or_else(own);
        let alias = alias.unwrap_or_else(|| "share".to_owned());
        let alias = alias.replace(|c: char| c == '\\' || c == '/' || c.is_control(), "_");
        let mut free = alias.clone();
        let mut count = 2_usize;
        while !aliases.insert(free.clone()) {
            free = format!("{alias} ({count})");
            count += 1;
        }
        let hash = blake3::hash(path.as_os_str().as_bytes());
        let mut id = hash.as_bytes().first_chunk().copied().map_or(0, u32::from_be_bytes);
        while roots.iter().any(|root| root.id == id) {
            id = id.wrapping_add(1);
        }
        roots.push(Root { id, alias: free, path });
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_systems_and_unfinished_files_are_skipped() {
        for name in
            [".hidden", "song.mp3.part", "a.TMP", "Thumbs.db", "DESKTOP.INI", "x.crdownload", "notes~", "a.flac.BAK"]
        {
            assert!(skips_name(name.as_bytes(), false), "{name}");
        }
        for name in ["@eaDir", "#recycle", "#snapshot", "lost+found", ".@__thumb", "$RECYCLE.BIN"] {
            assert!(skips_name(name.as_bytes(), true), "{name}");
        }
        for name in ["song.mp3", "part", "departure.flac", "@eaDir"] {
            assert!(!skips_name(name.as_bytes(), false), "{name}");
        }
        assert!(!skips_name(b"song.part", true));
    }

    #[test]
    fn filters_ignore_case_and_wrong_ones_are_named() {
        let rules = Rules::new(&[r"\.ini$".to_owned(), "/private/".to_owned()], &[]).unwrap();
        assert!(rules.filter(Path::new("/music/A.INI")));
        assert!(rules.filter(Path::new("/music/Private/song.mp3")));
        assert!(!rules.filter(Path::new("/music/a.ini.mp3")));
        let error = Rules::new(&["fine".to_owned(), "(".to_owned()], &[]).unwrap_err();
        assert!(error.to_string().contains("`(`"), "{error}");
        assert!(Rules::new(&["(a{1000}){1000}".to_owned()], &[]).is_err());
    }

    #[test]
    fn aliases_are_unique_and_ids_stay() {
        let directories = [
            ("Music", "/a/music"),
            ("", "/b/music/"),
            ("Music", "/c"),
            ("Music", "/a/music/."),
            ("x\\y/z", "/d"),
            ("", "/"),
        ];
        let directories: Vec<_> = directories.iter().map(|(a, p)| ((*a).to_owned(), PathBuf::from(p))).collect();
        let found = roots(&directories);
        let aliases: Vec<_> = found.iter().map(|root| root.alias.as_str()).collect();
        assert_eq!(aliases, ["Music", "music", "Music (2)", "x_y_z", "share"]);
        assert_eq!(roots(&directories[2..3])[0].id, found[2].id);
        assert_eq!(found[0].name().len(), 8);
    }
}
