//! The share index.
