//! What is kept: one LMDB environment, one writer.

pub mod shares;
pub mod tables;
pub mod writer;
