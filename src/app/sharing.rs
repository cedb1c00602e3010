//! Scans shared folders into the index and watches them.
