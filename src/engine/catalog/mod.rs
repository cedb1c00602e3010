//! Identification: which recording a file is, and what the catalogs say about it.
//!
//! The room decides what to ask ([`request`]), how fast ([`pace`]), how long an answer stands ([`request::life`]),
//! what an answer means ([`musicbrainz`], [`acoustid`], [`discogs`]) and in which order the sources of an identity are
//! tried ([`resolve`]). Sending, JSON's grammar and keeping answers are the shells'.

pub mod acoustid;
pub mod discogs;
pub mod matching;
pub mod musicbrainz;
pub mod pace;
pub mod request;
pub mod resolve;
mod wire;

pub use self::wire::{AnswerError, values_exceed};
