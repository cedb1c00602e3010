//! Repairs on real folders.
