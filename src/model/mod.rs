//! Plain words: data and arithmetic that every layer shares. Nothing here decides anything, reads a clock or touches
//! the outside world.

pub mod appliance;
pub mod catalog;
pub mod config;
pub mod gossip;
pub mod health;
pub mod id;
pub mod job;
pub mod limits;
pub mod mesh;
pub mod music;
pub mod record;
pub mod repair;
pub mod rescue;
pub mod sheet;
pub mod spectrogram;
pub mod spectrum;
pub mod swarm;
pub mod time;
pub mod trace;
pub mod transfer;
pub mod units;
pub mod variant;
pub mod verdict;
pub mod view;
