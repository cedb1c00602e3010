//! The browse reply, folder by folder, both ways.
