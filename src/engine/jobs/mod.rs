//! Jobs: a release as MusicBrainz lists it, brought home from Soulseek users track by track.
//!
//! [`query`] says what to search for; [`offer`] finds the tracks in what users answer, and says whose files come first;
//! [`judge`] says whether a finished file is the recording that was wanted, and [`deed`] what that says of the user who sent
//! it; [`plan`] leads one job through all of it.
//! Searching, downloading, measuring and keeping records are the shell's. A file's place in the album is named by
//! [`place`], a release that a person names is read by [`reference`], and
//! what the tags of a finished file are to say by [`sheet`].

pub mod deed;
pub mod judge;
pub mod offer;
pub mod place;
pub mod plan;
pub mod query;
pub mod reference;
pub mod sheet;
pub mod work;

/// How far the length that a user claims, or that was measured, may be from the catalogue's, milliseconds
/// (SPEC-FACTS 1).
pub const TOLERANCE_MS: u64 = 3_000;

#[cfg(test)]
pub(crate) mod fixtures;

#[cfg(test)]
mod tests;
