//! `slskdn spectrogram`: one file's picture, decoded in a worker like every other file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{could_not, say};
use crate::app::picture::{self, Size};
use crate::probe::{self, Pool};

/// Draws one file. 0: the picture is there. 1: no sound can be had from the file. 2: it, or the picture's place, cannot be
/// used.
pub(super) fn spectrogram(path: &Path, output: &Path) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return could_not(&format!("no runtime: {error}")),
    };
    let pool = match Pool::new(PathBuf::from("/proc/self/exe"), 1) {
        Ok(pool) => pool,
        Err(error) => return could_not(&error.to_string()),
    };
    // A link may be named here; what it points to is what is drawn.
    let file = match std::fs::canonicalize(path).and_then(|path| probe::open(&path)) {
        Ok(file) => file,
        Err(error) => return could_not(&format!("{}: {error}", path.display())),
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let drawn = match runtime.block_on(pool.spectrogram(file, &name)) {
        Ok(drawn) => drawn,
        Err(outcome) => {
            say(&format!("{}: {}", path.display(), outcome.reason().unwrap_or("it was not drawn")));
            return ExitCode::FAILURE;
        }
    };
    match picture::png(&drawn, Size::WIDE).and_then(|png| std::fs::write(output, png)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => could_not(&format!("{}: {error}", output.display())),
    }
}
