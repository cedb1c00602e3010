//! Wires the daemon together.
