//! The io_uring backend, on a thread of its own.
