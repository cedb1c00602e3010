//! Quantities with their unit.

use std::fmt;

use serde::{Deserialize, Serialize};

/// 1,024 bytes.
pub const KIB: u64 = 1024;
/// 1,024 KiB.
pub const MIB: u64 = 1024 * KIB;
/// 1,024 MiB.
pub const GIB: u64 = 1024 * MIB;

/// A number of bytes, shown with a binary unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bytes(pub u64);

#[expect(clippy::cast_precision_loss, reason = "shown with two digits after the point")]
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        match n {
            0..KIB => write!(f, "{n} B"),
            KIB..MIB => write!(f, "{:.1} KiB", n as f64 / KIB as f64),
            MIB..GIB => write!(f, "{:.1} MiB", n as f64 / MIB as f64),
            _ => write!(f, "{:.2} GiB", n as f64 / GIB as f64),
        }
    }
}

/// Bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BytesPerSec(pub u64);

impl fmt::Display for BytesPerSec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Bytes(self.0))
    }
}
