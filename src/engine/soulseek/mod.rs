//! The Soulseek protocol and what we do on that network.
//!
//! `frame`, `server`, `peer` and `distributed` are the codec. `session`, `connections`, `tree`, `searches`,
//! `downloads` and `uploads` are machines, each with one concern; `node` joins them behind one door: feed it an
//! [`io::Input`], drain its [`io::Action`]s, wait until its deadline.

pub mod chance;
pub mod connections;
pub mod distributed;
pub mod downloads;
pub mod effect;
pub mod frame;
pub mod inquiries;
pub mod io;
pub mod names;
pub mod node;
pub mod peer;
pub mod queue;
pub mod searches;
pub mod server;
pub mod session;
pub mod sharelist;
pub mod shares;
pub mod transfer;
pub mod tree;
pub mod uploads;

use std::net::Ipv4Addr;

use crate::model::id::Username;

/// What the owner configured, as far as the engine needs it. Read by every machine, replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Account; empty means "not configured": the node then waits and says so.
    pub username: Username,
    /// Its password. Never shown.
    pub password: Secret,
    /// The port the shell listens on.
    pub listen_port: u16,
    /// What others read about us.
    pub description: String,
    /// Uploads at once.
    pub upload_slots: u32,
    /// Downloads in progress at once.
    pub download_slots: u32,
    /// Uploads waiting or running, per user: files.
    pub user_queue_files: u32,
    /// The same in MiB; 0 is no limit. One file alone may be larger.
    pub user_queue_mib: u64,
    /// Uploads waiting or running, all users: files.
    pub queue_files: u32,
    /// The same in MiB; 0 is no limit. One file alone may be larger.
    pub queue_mib: u64,
    /// Users who get nothing from us.
    pub banned: Vec<Username>,
    /// Take part in the distributed network as a parent: how many children at most (0 to 10).
    pub children_max: u32,
    /// Upload limit in bytes per second, where one is set: bounds the number of children.
    pub upload_limit: Option<u64>,
    /// Attempts of one download before it ends as failed.
    pub download_attempts_max: u32,
    /// Look for the same file at other users when a source fails for good.
    pub failover: bool,
    /// Non-global addresses that may be dialled all the same: network and prefix length (0 to 32).
    pub private_ranges: Vec<(Ipv4Addr, u8)>,
}

/// A secret: no `Debug`, no `Display`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}
