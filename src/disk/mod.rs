//! Bytes to and from the disk, through one pool of buffers.

pub mod blocking;
pub mod pool;
pub mod uring;
