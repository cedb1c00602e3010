//! The fixed pool of buffers.
