//! The appliance's own decisions: which slot starts next, what an update must look like, and what the owner's files on
//! the boot partition mean. Disks, mounts and signatures are `app::appliance`'s; the parts of a card are in docs/image.md.

pub mod bundle;
pub mod card;
pub mod disks;
pub mod slots;
