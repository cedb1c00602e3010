//! One file from many sources: its piece list, what of it is there, and who fetches what next.
//!
//! Everything is pure; moving and storing bytes is `app::mesh`'s.

pub mod cost;
pub mod list;
pub mod metrics;
pub mod reputation;
pub mod rescue;
pub mod scheduler;
