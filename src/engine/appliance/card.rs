//! The owner's small files on the boot partition: `hostname`, `network`, `authorized_keys`. Every PC writes them with its
//! own line ends. What makes no sense is left out and named; the rest counts.

use std::net::IpAddr;

/// A longer file is refused, bytes.
pub const FILE_LEN: usize = 16 * 1024;
/// Keys taken from `authorized_keys`; further ones are left out and named.
pub const KEYS: usize = 32;

/// Lines without comments and empty ones, with their numbers from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let numbered = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// The box's name.
///
/// # Errors
/// One sentence.
pub fn hostname(text: &str) -> Result<Option<String>, String> {
    let Some((number, name)) = lines(text).next() else { return Ok(None) };
    // RFC 1123; `.local` is what it is called on the network anyway.
    let name = name.strip_suffix(".local").unwrap_or(name).to_ascii_lowercase();
    let fine = (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if fine {
        Ok(Some(name))
    } else {
        Err(format!("line {number}: a name has letters, digits and - in it, 63 at most, and no dots"))
    }
}

/// The lines of `authorized_keys` that are keys, and what is wrong with the others.
pub fn authorized_keys(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut problems) = (Vec::new(), Vec::new());
    for (number, line) in lines(text) {
        let mut words = line.split_ascii_whitespace();
        let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let known = matches!(
            kind,
            "ssh-ed25519"
                | "ssh-rsa"
                | "ecdsa-sha2-nistp256"
                | "ecdsa-sha2-nistp384"
                | "ecdsa-sha2-nistp521"
                | "sk-ssh-ed25519@openssh.com"
                | "sk-ecdsa-sha2-nistp256@openssh.com"
        );
        let letters = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
        if !known || key.len() < 64 || key.len() > 2_048 || !letters {
            problems.push(format!("line {number} is no public key: one begins with ssh-ed25519, ssh-rsa or ecdsa-"));
        } else if keys.len() >= KEYS {
            problems.push(format!("line {number} and those after it: {KEYS} keys are taken"));
            break;
        } else {
            // The comment may be anything; it is left out.
            keys.push(format!("{kind} {key}"));
        }
    }
    (keys, problems)
}

/// A fixed address in place of the one the router gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// With the length of its network, as in `192.168.1.20/24`.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The router.
    pub gateways: Vec<IpAddr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
}

impl Network {
    /// `address=`, `gateway=`, `dns=`; `None` when the file says nothing, and the router is asked.
    ///
    /// # Errors
    /// Every mistake: half a network would be none, so nothing of it counts.
    pub fn parse(text: &str) -> Result<Option<Self>, Vec<String>> {
        let (mut found, mut problems) = (Self::default(), Vec::new());
        for (number, line) in lines(text) {
            let Some((key, value)) = line.split_once(['=', ':']) else {
                problems.push(format!("line {number}: address=, gateway= or dns= is wanted"));
                continue;
            };
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
            for word in value.split([' ', ',']).filter(|word| !word.is_empty()) {
                let wrong = |what: &str| format!("line {number}: {word:?} is no {what}");
                let ip = word.parse::<IpAddr>();
                match key.as_str() {
                    "address" => match address(word) {
                        Some(address) if found.addresses.len() < 8 => found.addresses.push(address),
                        _ => problems.push(wrong("address with the length of its network, as in 192.168.1.20/24")),
                    },
                    "gateway" if found.gateways.len() < 2 => {
                        ip.map_or_else(|_| problems.push(wrong("address")), |ip| found.gateways.push(ip));
                    }
                    "dns" if found.dns.len() < 4 => {
                        ip.map_or_else(|_| problems.push(wrong("address")), |ip| found.dns.push(ip));
                    }
                    "gateway" | "dns" => problems.push(format!("line {number}: too many of them")),
                    _ => problems.push(format!("line {number}: address=, gateway= or dns= is wanted")),
                }
            }
        }
        if found.addresses.is_empty() && found != Self::default() {
            problems.push("without address= the other lines have no meaning".to_owned());
        }
        match (problems.is_empty(), found.addresses.is_empty()) {
            (false, _) => Err(problems),
            (true, true) => Ok(None),
            (true, false) => Ok(Some(found)),
        }
    }

    /// What is missing for more than the page: one sentence each.
    pub fn lacks(&self) -> impl Iterator<Item = &'static str> {
        let gateway = "there is no gateway=: nobody beyond your own network is reached by IPv4";
        let dns =
            "there is no dns=: the Soulseek server is not found, unless the router tells of a name server by IPv6";
        [(self.gateways.is_empty(), gateway), (self.dns.is_empty(), dns)]
            .into_iter()
            .filter_map(|(lacks, sentence)| lacks.then_some(sentence))
    }

    /// As systemd-networkd reads it.
    pub fn unit(&self) -> String {
        let mut out = "# From `network` on the boot partition.\n[Match]\nType=ether\nName=en* eth* end*\n\n[Network]\n\
                       DHCP=no\nMulticastDNS=yes\nLinkLocalAddressing=ipv6\n"
            .to_owned();
        for (ip, length) in &self.addresses {
            out.push_str(&format!("Address={ip}/{length}\n"));
        }
        for ip in &self.gateways {
            out.push_str(&format!("Gateway={ip}\n"));
        }
        for ip in &self.dns {
            out.push_str(&format!("DNS={ip}\n"));
        }
        out
    }
}

fn address(word: &str) -> Option<(IpAddr, u8)> {
    let (ip, length) = word.split_once('/')?;
    let (ip, length) = (ip.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?);
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let usable = !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast();
    (usable && (1..=most).contains(&length)).then_some((ip, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_boxes() {
        assert_eq!(hostname("\u{feff}# mine\r\nMusic-Box\r\n"), Ok(Some("music-box".to_owned())));
        assert_eq!(hostname("attic.local"), Ok(Some("attic".to_owned())));
        assert_eq!(hostname("\n# nothing\n"), Ok(None));
        for wrong in ["a b", "-a", "a-", "a.b", "ä", &"a".repeat(64), "a\u{1b}[31m"] {
            assert!(hostname(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_are_taken_and_the_rest_is_named() {
        let key = format!("ssh-ed25519 {}", "A".repeat(68));
        let (keys, problems) =
            authorized_keys(&format!("# me\r\n{key} me@there\r\nssh-dss AAAA\r\ncommand=\"x\" {key}\n"));
        assert_eq!(keys, std::slice::from_ref(&key));
        assert_eq!(problems.len(), 2, "{problems:?}");
        let (keys, problems) = authorized_keys(&format!("{key}\n").repeat(100));
        assert_eq!((keys.len(), problems.len()), (KEYS, 1));
    }

    #[test]
    fn a_fixed_address() {
        let text = "address = 192.168.1.20/24\r\ngateway=192.168.1.1\r\ndns=192.168.1.1, 9.9.9.9\r\n";
        let unit = Network::parse(text).unwrap().unwrap().unit();
        for line in ["DHCP=no", "Address=192.168.1.20/24", "Gateway=192.168.1.1", "DNS=192.168.1.1", "DNS=9.9.9.9"] {
            assert!(unit.lines().any(|found| found == line), "{line}: {unit}");
        }
        assert_eq!(Network::parse(text).unwrap().unwrap().lacks().count(), 0);
        let lacks = |text: &str| Network::parse(text).unwrap().unwrap().lacks().collect::<String>();
        assert!(lacks("address=10.0.0.5/8\ndns=10.0.0.1").starts_with("there is no gateway="));
        assert!(lacks("address=10.0.0.5/8\ngateway=10.0.0.1").starts_with("there is no dns="));
        assert_eq!(Network::parse("# DHCP\n"), Ok(None));
        for (wrong, mistakes) in [
            ("address=192.168.1.20", 1),
            ("address=300.1.1.1/24\ngateway=here", 2),
            ("address=10.0.0.1/33", 1),
            ("address=0.0.0.0/0", 1),
            ("gateway=10.0.0.1", 1),
            ("wifi=me", 1),
            ("hello", 1),
            ("address=10.0.0.1/24\n[Link]\nUnmanaged=yes", 2),
        ] {
            assert_eq!(Network::parse(wrong).unwrap_err().len(), mistakes, "{wrong}");
        }
    }
}
