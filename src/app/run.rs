//! Wires the daemon together.

use std::process::ExitCode;

use super::settings::Sources;

/// Runs the appliance until it is told to stop.
pub fn serve(sources: Sources) -> ExitCode {
    let _ = sources;
    ExitCode::SUCCESS
}
