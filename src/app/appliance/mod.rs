//! What makes a small board a box: updates into the slot that does not run, the owner's files on the boot partition, disks
//! that are plugged in, the rescue page. Decisions are `engine::appliance`'s.
//!
//! The daemon has no rights to any of it. What needs root is done by small services that run this program's own hidden
//! commands, take nothing from the daemon but a few plain files, and check all of it.

pub mod card;
pub mod install;
pub mod media;
pub mod network;
pub mod node;
pub mod places;
pub mod rescue;
pub mod signify;
pub mod update;
pub mod usb;
