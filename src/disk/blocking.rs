//! The blocking backend.
