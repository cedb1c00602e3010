//! The lab: a private network on loopback with given speeds, delays and faults, in which downloads are tried, measured
//! and shown.
//!
//! Everything in it is real but the network between: nodes are processes of their own that run the code of every day.
//! [`faults`] is what a peer of the lab does beside it to the bytes that it serves.

pub mod faults;
