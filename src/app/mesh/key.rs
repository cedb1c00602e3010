//! Our key in the data directory: made on first use, readable by its owner alone.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::net::mesh::{Identity, SECRET_LEN};

/// The secret, 32 bytes.
const NAME: &str = "mesh.key";

/// The key in this folder, made if there is none. One that others may read is closed to them first.
///
/// # Errors
/// One sentence.
pub(super) fn load_or_make(folder: &Path) -> Result<Identity, String> {
    let path = folder.join(NAME);
    let wrong = |error: &dyn std::fmt::Display| format!("the mesh key {} cannot be used: {error}", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| wrong(&error))?;
    match File::open(&path) {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(0o600)).map_err(|error| wrong(&error))?;
            let mut secret = Vec::new();
            // One byte more, so that a longer file is noticed.
            file.take(SECRET_LEN as u64 + 1).read_to_end(&mut secret).map_err(|error| wrong(&error))?;
            Identity::from_secret(&secret).map_err(|error| wrong(&error))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let secret = Identity::make().map_err(|error| wrong(&error))?;
            keep(folder, &path, &secret).map_err(|error| wrong(&error))?;
            Identity::from_secret(&secret).map_err(|error| wrong(&error))
        }
        Err(error) => Err(wrong(&error)),
    }
}

/// All of it is there under its name, or nothing.
fn keep(folder: &Path, path: &Path, secret: &[u8]) -> std::io::Result<()> {
    let half = folder.join(".mesh.key.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
    file.write_all(secret)?;
    file.sync_all()?;
    std::fs::rename(&half, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("identity");
        let made = load_or_make(&folder).unwrap().id();
        let path = folder.join(NAME);
        assert_eq!((mode(&folder), mode(&path)), (0o700, 0o600));
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(load_or_make(&folder).unwrap().id(), made);
        assert_eq!(mode(&path), 0o600);
        for bytes in [&b""[..], &[1; 31], &[1; 33]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(load_or_make(&folder).unwrap_err().contains("mesh.key cannot be used"));
        }
    }
}
