//! Moves file bytes between sockets and the disk.
