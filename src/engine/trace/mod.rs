//! Traces: sums over the lines of a job, and lines as people and tools read them.
//!
//! Decides which lines tell the story and what a job came to. When lines are written and which of them are kept is the
//! shell's.

mod line;
mod summary;
mod tally;
pub mod transfer;

pub use self::line::{is_key, line};
pub use self::summary::{short, summarize};
pub use self::tally::add;

#[cfg(test)]
mod tests;
