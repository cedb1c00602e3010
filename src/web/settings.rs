//! What the web layer is started with: addresses, deadlines, keys, roles. Parsing the configuration file is `app`'s.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::limits;
use crate::model::time::Now;

/// How much a visitor may do; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Readonly,
    /// Search, fetch, write messages.
    Readwrite,
    /// Change settings, connect, disconnect, stop.
    Administrator,
}

impl Role {
    /// slskd's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Readonly => "readonly",
            Self::Readwrite => "readwrite",
            Self::Administrator => "administrator",
        }
    }
}

/// The text is not a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role: expected readonly, readwrite or administrator")]
pub struct RoleError(String);

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        [Self::Readonly, Self::Readwrite, Self::Administrator]
            .into_iter()
            .find(|role| role.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| RoleError(text.to_owned()))
    }
}

/// A range of addresses, `192.168.0.0/16`; a bare address is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    bits: u8,
}

/// The text is not a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of addresses: expected something like 192.168.0.0/16")]
pub struct CidrError(String);

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = || CidrError(text.to_owned());
        let (address, bits) = text.trim().split_once('/').map_or((text.trim(), None), |(a, b)| (a, Some(b)));
        let base: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
        if bits > most { Err(wrong()) } else { Ok(Self { base, bits }) }
    }
}

impl Cidr {
    /// Whether the address lies inside. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let keep = |all: u8| u32::from(all.saturating_sub(self.bits));
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                (u32::from(base) ^ u32::from(address)).checked_shr(keep(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                (u128::from(base) ^ u128::from(address)).checked_shr(keep(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// A key for programs, sent as `X-API-Key`.
#[derive(Clone)]
pub struct ApiKey {
    /// For the log.
    pub name: String,
    /// The secret, 16 to 255 characters (slskd).
    pub key: String,
    /// What its holder may do.
    pub role: Role,
    /// From where it is accepted; empty means from everywhere.
    pub cidr: Vec<Cidr>,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

/// What hashing a password costs (argon2id). Kept inside each hash, so it may be raised later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordCost {
    /// KiB of memory.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl Default for PasswordCost {
    /// 19 MiB, two passes, one lane: the smallest of OWASP's recommended settings, well below the 64 MiB we may take.
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, passes: 2 }
    }
}

/// Reads both clocks.
pub type ClockFn = Arc<dyn Fn() -> Now + Send + Sync>;

/// What the web layer is started with.
#[derive(Clone)]
pub struct WebSettings {
    /// Addresses to listen on. Port 0 lets the system choose.
    pub addresses: Vec<SocketAddr>,
    /// Sockets that listen already (passed by systemd).
    pub listeners: Vec<Arc<std::net::TcpListener>>,
    /// `<data>/control.sock`, for the command line.
    pub control_socket: Option<PathBuf>,
    /// Where an update is uploaded to; none where this is no appliance.
    pub update_spool: Option<PathBuf>,
    /// Host names under which a browser may address us, besides our own. Without port.
    pub allowed_hosts: Vec<String>,
    /// Keys for programs.
    pub api_keys: Vec<ApiKey>,
    /// False: everybody who reaches us is the owner.
    pub authentication: bool,
    /// The name that goes with the password.
    pub username: String,
    /// The password, where the configuration names one; else the one that was set on the page.
    pub password: Option<String>,
    /// Path prefix behind a proxy, `/music`; empty for none.
    pub url_base: String,
    /// Time for a request's headers, and for the next request of an idle connection.
    pub header_timeout: Duration,
    /// Time for a request's body.
    pub body_timeout: Duration,
    /// A visitor that takes nothing of an answer for so long is cut off.
    pub stall_timeout: Duration,
    /// Connections at once; further ones wait in the kernel.
    pub connections: usize,
    /// What hashing a password costs.
    pub password_cost: PasswordCost,
    /// The clock.
    pub clock: ClockFn,
}

impl WebSettings {
    /// No address, no key, authentication on, the limits of `model::limits`.
    pub fn new(clock: ClockFn) -> Self {
        Self {
            addresses: Vec::new(),
            listeners: Vec::new(),
            control_socket: None,
            update_spool: None,
            allowed_hosts: Vec::new(),
            api_keys: Vec::new(),
            authentication: true,
            username: "slskdn".to_owned(),
            password: None,
            url_base: String::new(),
            header_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            connections: limits::WEB_CONNECTIONS,
            password_cost: PasswordCost::default(),
            clock,
        }
    }
}

impl fmt::Debug for WebSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSettings")
            .field("addresses", &self.addresses)
            .field("allowed_hosts", &self.allowed_hosts)
            .field("authentication", &self.authentication)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_addresses() {
        let check = |range: &str, address: &str, inside: bool| {
            let range: Cidr = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), inside, "{range:?} {address}");
        };
        check("192.168.0.0/16", "192.168.7.9", true);
        check("192.168.0.0/16", "192.169.0.1", false);
        check("192.168.0.0/16", "::ffff:192.168.1.1", true);
        check("0.0.0.0/0", "8.8.8.8", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "2001:db8::1", true);
        check("10.0.0.1", "10.0.0.1", true);
        check("10.0.0.1", "10.0.0.2", false);
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/-1", "a/8"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn roles_have_slskds_names_and_an_order() {
        assert_eq!("ReadOnly".parse(), Ok(Role::Readonly));
        assert!("owner".parse::<Role>().is_err());
        assert!(Role::Readonly < Role::Readwrite && Role::Readwrite < Role::Administrator);
    }
}
