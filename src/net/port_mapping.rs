//! Asks the router to let callers in: PCP, then NAT-PMP, then UPnP.
//!
//! Runs beside everything else and is never waited for: with no router that answers, users still reach us through the
//! server. The router is the gateway of the default route. A mapping is a lease: it is renewed at half its time and
//! given back at the end. What happens is told as one sentence for the page.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{InternetProtocol, PortMappingOptions, TimeoutConfig, natpmp};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::Tokio;
use igd_next::{AddPortError, GatewayIpVersion, PortMappingProtocol, SearchOptions};
use thiserror::Error;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// Where the kernel shows its routes.
const ROUTES: &str = "/proc/net/route";
/// What the mapping is called in the router's own pages.
const DESCRIPTION: &str = "slskdn";
/// Asked for with UPnP, seconds: NAT-PMP's recommendation is two hours, and routers that forget to end leases exist.
const UPNP_LEASE_S: u32 = 3_600;
/// How long to look for a UPnP router (it may wait up to 3 s before it answers).
const UPNP_SEARCH: Duration = Duration::from_secs(6);

/// Whether to ask at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Ask whatever router answers.
    Auto,
    /// Do not ask.
    #[default]
    Off,
}

/// How often things are tried. Chosen.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// Between attempts while no router helps.
    retry: Duration,
    /// Between renewals at least, however short the router's leases.
    renewal_min: Duration,
    /// For the router's farewell.
    release: Duration,
    /// First wait for a PCP or NAT-PMP answer; doubled three times.
    answer: Duration,
}

const TIMING: Timing = Timing {
    retry: Duration::from_secs(600),
    renewal_min: Duration::from_secs(30),
    release: Duration::from_secs(2),
    answer: Duration::from_millis(250),
};

/// Why there is no mapping.
#[derive(Debug, Error)]
enum MappingError {
    #[error("this machine has no default route to a router")]
    NoGateway,
    #[error("the router at {gateway} answers neither PCP, NAT-PMP ({nat_pmp}) nor UPnP ({upnp})")]
    Refused { gateway: Ipv4Addr, nat_pmp: String, upnp: String },
}

/// Which kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    fn pcp(self) -> InternetProtocol {
        match self {
            Self::Tcp => InternetProtocol::Tcp,
            Self::Udp => InternetProtocol::Udp,
        }
    }

    fn upnp(self) -> PortMappingProtocol {
        match self {
            Self::Tcp => PortMappingProtocol::TCP,
            Self::Udp => PortMappingProtocol::UDP,
        }
    }
}

/// How a mapping stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// One sentence for the page.
    pub text: String,
    /// The port that is open at the router, if one is.
    pub port: Option<NonZeroU16>,
}

impl Mapped {
    fn none(text: impl Into<String>) -> Self {
        Self { text: text.into(), port: None }
    }
}

/// The task that keeps a port mapped.
pub struct PortMapping;

impl PortMapping {
    /// Has `port` mapped until `cancel`, in a task of its own.
    pub fn start(protocol: Protocol, port: u16, mode: Mode, cancel: CancellationToken) -> watch::Receiver<Mapped> {
        let (state, shown) = watch::channel(Mapped::none("port mapping is off"));
        match (mode, NonZeroU16::new(port)) {
            (Mode::Auto, Some(port)) => {
                state.send_replace(Mapped::none("looking for a router that opens the port"));
                tokio::spawn(async move {
                    let keeper = Keeper { protocol, port, find_gateway: default_gateway, upnp: true, timing: TIMING };
                    keeper.run(&state, &cancel).await;
                });
            }
            (Mode::Auto, None) | (Mode::Off, _) => {}
        }
        shown
    }
}

struct Keeper<F> {
    protocol: Protocol,
    port: NonZeroU16,
    find_gateway: F,
    upnp: bool,
    timing: Timing,
}

impl<F: Fn() -> Option<Ipv4Addr>> Keeper<F> {
    async fn run(&self, state: &watch::Sender<Mapped>, cancel: &CancellationToken) {
        loop {
            let pause = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                found = self.obtain() => match found {
                    Ok(lease) => {
                        if self.keep(lease, state, cancel).await {
                            break;
                        }
                        // The lease was lost: ask anew at once, and slowly if that fails.
                        Duration::ZERO
                    }
                    Err(error) => {
                        debug!(%error, "no port mapping");
                        state.send_replace(Mapped::none(format!(
                            "{error}: forward {} port {} to this machine by hand, or others reach it less well",
                            self.protocol.name(),
                            self.port
                        )));
                        self.timing.retry
                    }
                },
            };
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        state.send_replace(Mapped::none("port mapping is off"));
    }

    /// Renews a lease until it is lost (`false`) or `cancel` (`true`).
    async fn keep(&self, mut lease: Lease, state: &watch::Sender<Mapped>, cancel: &CancellationToken) -> bool {
        loop {
            let mapped = Mapped { text: lease.describe(self.port, self.protocol), port: Some(lease.port()) };
            if *state.borrow() != mapped {
                info!(mapping = mapped.text, "port mapping");
                state.send_replace(mapped);
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    // The lease ends by itself if the router does not answer now.
                    let _ = timeout(self.timing.release, lease.release()).await;
                    return true;
                }
                () = tokio::time::sleep(lease.renewal().max(self.timing.renewal_min)) => {}
            }
            // With another address of our own it would lead nowhere.
            if let (Some(local), Some(gateway)) = (lease.local(), (self.find_gateway)())
                && local_address_towards(gateway).await.is_some_and(|now| now != local)
            {
                info!("our address is another one; the port mapping is asked for anew");
                let _ = timeout(self.timing.release, lease.release()).await;
                return false;
            }
            if let Err(error) = lease.renew().await {
                info!(error, "port mapping lost");
                state.send_replace(Mapped::none("the router did not renew the port mapping; asking again"));
                return false;
            }
        }
    }

    async fn obtain(&self) -> Result<Lease, MappingError> {
        let gateway = (self.find_gateway)().ok_or(MappingError::NoGateway)?;
        let client = local_address_towards(gateway).await.ok_or(MappingError::NoGateway)?;
        let options = PortMappingOptions {
            external_port: Some(self.port),
            lifetime_seconds: None,
            timeout_config: Some(TimeoutConfig {
                initial_timeout: self.timing.answer,
                max_retries: 3,
                max_retry_timeout: None,
            }),
        };
        // Tries PCP, and NAT-PMP where the router says that it knows only that.
        let pcp =
            crab_nat::PortMapping::new(gateway.into(), IpAddr::V4(client), self.protocol.pcp(), self.port, options);
        let nat_pmp = match pcp.await {
            Ok(mapping) => return Ok(Lease::Pcp(mapping)),
            Err(error) => {
                debug!(%error, "no mapping by PCP");
                // A router that is silent to a version it does not know may still know NAT-PMP.
                match natpmp::port_mapping(gateway.into(), self.protocol.pcp(), self.port, options).await {
                    Ok(mapping) => return Ok(Lease::Pcp(mapping)),
                    Err(error) => error.to_string(),
                }
            }
        };
        match self.obtain_upnp(client).await {
            Ok(lease) => Ok(lease),
            Err(upnp) => Err(MappingError::Refused { gateway, nat_pmp, upnp }),
        }
    }

    async fn obtain_upnp(&self, client: Ipv4Addr) -> Result<Lease, String> {
        if !self.upnp {
            return Err("not asked".to_owned());
        }
        let mut search = SearchOptions::default();
        search.bind_addr = SocketAddr::from((client, 0));
        search.timeout = Some(UPNP_SEARCH);
        search.single_search_timeout = Some(UPNP_SEARCH);
        search.gateway_ip_version = GatewayIpVersion::V4;
        let gateway = igd_next::aio::tokio::search_gateway(search).await.map_err(|error| error.to_string())?;
        let local = SocketAddrV4::new(client, self.port.get());
        let mut lease = UpnpLease { gateway, protocol: self.protocol.upnp(), local, lease_s: UPNP_LEASE_S };
        lease.add().await.map_err(|error| error.to_string())?;
        Ok(Lease::Upnp(lease))
    }
}

/// A mapping that stands.
enum Lease {
    /// By PCP or NAT-PMP.
    Pcp(crab_nat::PortMapping),
    /// By UPnP.
    Upnp(UpnpLease),
}

struct UpnpLease {
    gateway: Gateway<Tokio>,
    protocol: PortMappingProtocol,
    local: SocketAddrV4,
    /// Seconds; 0 means for good.
    lease_s: u32,
}

impl UpnpLease {
    async fn add(&mut self) -> Result<(), AddPortError> {
        match self.add_for(self.lease_s).await {
            Err(AddPortError::OnlyPermanentLeasesSupported) if self.lease_s != 0 => {
                self.lease_s = 0;
                self.add_for(0).await
            }
            added => added,
        }
    }

    async fn add_for(&self, lease_s: u32) -> Result<(), AddPortError> {
        let port = self.local.port();
        self.gateway.add_port(self.protocol, port, SocketAddr::V4(self.local), lease_s, DESCRIPTION).await
    }
}

impl Lease {
    /// The address that the router was told; `None` where it goes by who asks.
    fn local(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Pcp(_) => None,
            Self::Upnp(upnp) => Some(*upnp.local.ip()),
        }
    }

    /// When to renew it.
    fn renewal(&self) -> Duration {
        let lease_s = match self {
            Self::Pcp(mapping) => mapping.lifetime(),
            // A permanent one is still checked: routers forget when they restart.
            Self::Upnp(upnp) if upnp.lease_s == 0 => UPNP_LEASE_S,
            Self::Upnp(upnp) => upnp.lease_s,
        };
        Duration::from_secs(u64::from(lease_s / 2))
    }

    async fn renew(&mut self) -> Result<(), String> {
        match self {
            // Asking for a lifetime of zero would mean to end it.
            Self::Pcp(mapping) if mapping.lifetime() == 0 => Err("the router's lease has no duration".to_owned()),
            Self::Pcp(mapping) => mapping.renew().await.map_err(|error| error.to_string()),
            Self::Upnp(upnp) => upnp.add().await.map_err(|error| error.to_string()),
        }
    }

    async fn release(self) {
        let released = match self {
            Self::Pcp(mapping) => mapping.try_drop().await.map_err(|(error, _)| error.to_string()),
            Self::Upnp(upnp) => {
                upnp.gateway.remove_port(upnp.protocol, upnp.local.port()).await.map_err(|error| error.to_string())
            }
        };
        debug!(?released, "port mapping given back");
    }

    /// What is open at the router.
    fn port(&self) -> NonZeroU16 {
        match self {
            Self::Pcp(mapping) => mapping.external_port(),
            Self::Upnp(upnp) => NonZeroU16::new(upnp.local.port()).unwrap_or(NonZeroU16::MIN),
        }
    }

    fn describe(&self, port: NonZeroU16, protocol: Protocol) -> String {
        match self {
            Self::Pcp(mapping) if mapping.external_port() != port && protocol == Protocol::Udp => {
                format!("the router's port {} is open, and leads to ours", mapping.external_port())
            }
            Self::Pcp(mapping) if mapping.external_port() != port => format!(
                "the router mapped port {} instead of {port}: choose a listen_port that is free there",
                mapping.external_port()
            ),
            Self::Pcp(mapping) => format!(
                "port {port} is open, by {}",
                match mapping.mapping_type() {
                    crab_nat::PortMappingType::NatPmp => "NAT-PMP",
                    crab_nat::PortMappingType::Pcp { .. } => "PCP",
                }
            ),
            Self::Upnp(_) => format!("port {port} is open, by UPnP"),
        }
    }
}

/// Our address on the way to the router. Nothing is sent.
async fn local_address_towards(gateway: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
    socket.connect((gateway, crab_nat::GATEWAY_PORT)).await.ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(local) => Some(*local.ip()),
        SocketAddr::V6(_) => None,
    }
}

fn default_gateway() -> Option<Ipv4Addr> {
    match std::fs::read_to_string(ROUTES) {
        Ok(routes) => parse_default_gateway(&routes),
        Err(error) => {
            debug!(%error, "{ROUTES} cannot be read");
            None
        }
    }
}

/// The gateway of the default route with the lowest metric. Addresses are hexadecimal words in the machine's byte order.
fn parse_default_gateway(routes: &str) -> Option<Ipv4Addr> {
    /// Flags `RTF_UP` and `RTF_GATEWAY` of `route(7)`.
    const UP_AND_GATEWAY: u32 = 0x3;
    let mut best: Option<(u32, Ipv4Addr)> = None;
    for line in routes.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let &[_interface, destination, gateway, flags, _, _, metric, mask, ..] = fields.as_slice() else { continue };
        let word = |text: &str| u32::from_str_radix(text, 16).ok();
        let (Some(0), Some(0), Some(gateway), Some(flags)) =
            (word(destination), word(mask), word(gateway), word(flags))
        else {
            continue;
        };
        let Ok(metric) = metric.parse::<u32>() else { continue };
        let is_better = best.is_none_or(|(lowest, _)| metric < lowest);
        if flags & UP_AND_GATEWAY == UP_AND_GATEWAY && is_better {
            best = Some((metric, Ipv4Addr::from(gateway.to_ne_bytes())));
        }
    }
    best.map(|(_, gateway)| gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    fn word(ip: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(ip))
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_names_the_router() {
        let route = |interface, destination, gateway, flags, metric, mask| {
            let (destination, gateway, mask) = (word(destination), word(gateway), word(mask));
            format!("{interface}\t{destination}\t{gateway}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
        };
        let any = [0, 0, 0, 0];
        let routes = [
            HEAD.to_owned(),
            route("wlan0", any, [10, 0, 0, 1], "0003", 600, any),
            route("eth0", any, [192, 168, 1, 1], "0003", 100, any),
            route("eth0", [192, 168, 1, 0], any, "0001", 0, [255, 255, 255, 0]),
            route("tun0", any, [10, 8, 0, 1], "0003", 0, [128, 0, 0, 0]),
            route("ppp0", any, any, "0001", 0, any),
            route("down0", any, [172, 16, 0, 1], "0002", 0, any),
        ]
        .concat();
        assert_eq!(parse_default_gateway(&routes), Some(Ipv4Addr::new(192, 168, 1, 1)));
    }

    #[test]
    fn no_route_or_another_format_is_no_router() {
        for routes in ["", HEAD, "x", "x\ny z\n", &format!("{HEAD}eth0\tZZ\t0\t3\t0\t0\t0\t0\n")] {
            assert_eq!(parse_default_gateway(routes), None, "{routes:?}");
        }
    }

    #[tokio::test]
    async fn off_says_so() {
        let state = PortMapping::start(Protocol::Tcp, 50_300, Mode::Off, CancellationToken::new());
        assert_eq!(*state.borrow(), Mapped::none("port mapping is off"));
    }

    fn quick() -> Timing {
        let short = Duration::from_millis(20);
        Timing { retry: short, renewal_min: short, release: Duration::from_secs(5), answer: short }
    }

    fn keep(find_gateway: impl Fn() -> Option<Ipv4Addr> + Send + Sync + 'static, timing: Timing) -> Kept {
        let (sender, state) = watch::channel(Mapped::none(""));
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let port = NonZeroU16::new(50_300).unwrap();
        let task = tokio::spawn(async move {
            // Without UPnP: its search would leave the loopback.
            Keeper { protocol: Protocol::Tcp, port, find_gateway, upnp: false, timing }.run(&sender, &stop).await;
        });
        Kept { state, cancel, task }
    }

    struct Kept {
        state: watch::Receiver<Mapped>,
        cancel: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Kept {
        async fn says(&mut self, part: &str) {
            let said = self.state.wait_for(|mapped| mapped.text.contains(part));
            timeout(Duration::from_secs(30), said).await.expect(part).expect(part);
        }

        async fn end(self) {
            self.cancel.cancel();
            self.task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn without_a_router_the_page_says_what_to_do() {
        let mut kept = keep(|| None, quick());
        kept.says("no default route").await;
        kept.says("forward TCP port 50300").await;
        kept.end().await;
    }

    /// A router on a loopback address of its own, as the protocol's port is fixed.
    struct FakeRouter {
        socket: UdpSocket,
        at: Ipv4Addr,
    }

    impl FakeRouter {
        async fn start(last: u8) -> Self {
            let [.., high, low] = std::process::id().to_be_bytes();
            let at = Ipv4Addr::new(127, high.saturating_add(1).min(254), low, last);
            let socket = UdpSocket::bind((at, crab_nat::GATEWAY_PORT)).await.unwrap();
            Self { socket, at }
        }

        /// The next NAT-PMP mapping request for TCP: (external port, lifetime). PCP is refused on the way.
        async fn request(&self) -> (u16, u32, SocketAddr) {
            let mut datagram = [0; 1100];
            loop {
                let next = timeout(Duration::from_secs(30), self.socket.recv_from(&mut datagram));
                let (_, from) = next.await.unwrap().unwrap();
                if datagram[0] == 0 {
                    assert_eq!(datagram[1], 2, "an order to map TCP");
                    assert_eq!(datagram[4..6], 50_300_u16.to_be_bytes(), "internal port");
                    let port = u16::from_be_bytes([datagram[6], datagram[7]]);
                    let lifetime = u32::from_be_bytes(datagram[8..12].try_into().unwrap());
                    return (port, lifetime, from);
                }
                // "Unsupported version", as NAT-PMP routers answer.
                let refusal = [0, 0, 0, 1, 0, 0, 0, 9];
                self.socket.send_to(&refusal, from).await.unwrap();
            }
        }

        async fn answer(&self, to: SocketAddr, external_port: u16, lifetime: u32) {
            let mut answer = vec![0, 130, 0, 0, 0, 0, 0, 9];
            answer.extend(50_300_u16.to_be_bytes());
            answer.extend(external_port.to_be_bytes());
            answer.extend(lifetime.to_be_bytes());
            self.socket.send_to(&answer, to).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_nat_pmp_lease_is_made_renewed_and_given_back() {
        let router = FakeRouter::start(1).await;
        let at = router.at;
        // Enough patience that a busy machine sends no request twice.
        let mut kept = keep(move || Some(at), Timing { answer: Duration::from_secs(5), ..quick() });
        for _ in 0..2 {
            let (port, lifetime, from) = router.request().await;
            assert_eq!(port, 50_300);
            assert!(lifetime > 0);
            // One second: renewed after the least time between renewals.
            router.answer(from, 50_300, 1).await;
            kept.says("port 50300 is open, by NAT-PMP").await;
        }
        kept.cancel.cancel();
        loop {
            let (port, lifetime, from) = router.request().await;
            router.answer(from, port, lifetime).await;
            if lifetime == 0 {
                break;
            }
        }
        kept.end().await;
    }

    #[tokio::test]
    async fn another_port_than_ours_is_said() {
        let router = FakeRouter::start(2).await;
        let at = router.at;
        let mut kept = keep(move || Some(at), Timing { answer: Duration::from_secs(5), ..quick() });
        let (_, _, from) = router.request().await;
        router.answer(from, 50_301, 7_200).await;
        kept.says("mapped port 50301 instead of 50300").await;
        drop(router);
        kept.cancel.cancel();
        kept.says("off").await;
        kept.end().await;
    }
}
