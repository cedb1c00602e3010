//! The mesh protocol, purely: bytes, times and random numbers arrive as arguments.
//!
//! [`frame`] is what lies on the wire, [`session`] the control stream of one connection, [`exchange`] one request on a
//! stream of its own, [`downloader`] all that is fetched from one peer, [`uploader`] all that one peer gets of a file,
//! [`guard`] who may connect how often. [`control`] is what peers say of recordings, [`lie`] what cannot be so, [`gossip`]
//! when it is said and how much of it is listened to. [`candidates`] is whom we call, [`meeting`] when the DHT is asked
//! and told. Sockets and keys are `net::mesh`'s, files are `app::mesh`'s, which piece comes from whom is
//! `engine::swarm`'s. Paths and file names are never sent.

pub mod candidates;
pub mod control;
pub mod downloader;
pub mod exchange;
pub mod frame;
pub mod gossip;
pub mod guard;
pub mod lie;
pub mod meeting;
pub mod session;
pub mod uploader;

#[cfg(test)]
mod uploader_tests;
