//! Connections over loopback: the node's network shell against a scripted server and scripted users that speak raw
//! bytes.
#![allow(clippy::unwrap_used, reason = "tests, their helpers included")]

mod bounds;
mod files;
mod messages;
mod rig;
mod server;
mod share_lists;
