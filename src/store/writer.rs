//! The one writing thread.
