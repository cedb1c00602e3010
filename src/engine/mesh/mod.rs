//! The mesh protocol, purely: bytes, times and random numbers arrive as arguments.
//!
//! [`frame`] is what lies on the wire, [`session`] the control stream of one connection, [`exchange`] one request on a
//! stream of its own, [`guard`] who may connect how often, [`candidates`] whom we call,
//! [`meeting`] when the DHT is asked and told. Sockets and keys are `net::mesh`'s, files are `app::mesh`'s,
//! which piece comes from whom is `engine::swarm`'s. Paths and file names are never sent.

pub mod candidates;
pub mod exchange;
pub mod frame;
pub mod guard;
pub mod meeting;
pub mod session;
