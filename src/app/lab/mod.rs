//! The lab: a private network on loopback, with given speeds, delays and faults.

pub mod soulseek;
