//! The lab's own network, and the program on it.

#[path = "lab/hybrid.rs"]
mod hybrid;
#[path = "lab/node.rs"]
mod node;
#[path = "lab/soulseek.rs"]
mod soulseek;
