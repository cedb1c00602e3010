//! Everything that needs nothing installed, in one binary, by capability.
#![allow(missing_docs, reason = "tests")]

mod catalog;
mod codec;
mod config;
mod disk;
mod lab;
mod net;
mod probe;
mod shares;
mod sim;
mod store;
mod tags;
mod tidy;
mod transfers;
mod web;
