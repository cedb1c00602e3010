//! Sockets. Bytes become messages here and messages bytes; nothing is decided.

pub mod catalog;
pub mod dht;
pub mod mdns;
pub mod mesh;
pub mod port_mapping;
pub mod soulseek;
