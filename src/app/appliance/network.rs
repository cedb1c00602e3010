//! `card network`: tells on the screen where the page is, or why nothing reaches it. A box without a network has no other
//! way to say so.

use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use super::card::host_name;
use super::places::{Places, read_plain};
use crate::app::cli::{could_not, print};

/// More network cards than that are not looked at.
const CARDS: usize = 32;
/// `ARPHRD_ETHER`, the kind of a card with a cable.
const ETHERNET: &str = "1";

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Card {
    name: String,
    /// Somebody is at the other end of its cable.
    cable: bool,
}

/// One line of one of the kernel's small files.
fn line(path: &Path) -> Option<String> {
    // Where no cable can be asked for, reading it is an error.
    let bytes = read_plain(path, 4096).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn cards(places: &Places) -> io::Result<Vec<Card>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(places.at("sys/class/net"))?.take(CARDS) {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // The way back to the box itself and tunnels have no cable.
        if line(&path.join("type")).as_deref() == Some(ETHERNET) {
            found.push(Card { name: name.to_owned(), cable: line(&path.join("carrier")).as_deref() == Some("1") });
        }
    }
    found.sort();
    Ok(found)
}

/// Addresses in what `ip -oneline address show scope global` prints: `2: eth0    inet 192.168.1.20/24 brd …`.
fn addresses(text: &str) -> Vec<String> {
    let word = |line: &str| line.split_whitespace().nth(3)?.split('/').next().map(str::to_owned);
    text.lines().take(CARDS).filter_map(word).collect()
}

fn sentence(cards: &[Card], addresses: &[String], host: &str) -> String {
    let names = || cards.iter().map(|card| card.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(address) = addresses.first() {
        let address = if address.contains(':') { format!("[{address}]") } else { address.clone() };
        format!("the page is at http://{host}.local and at http://{address}")
    } else if cards.is_empty() {
        "no network: this box has no network card that it knows".to_owned()
    } else if cards.iter().all(|card| !card.cable) {
        format!("no network: no cable in {}, or nothing at its other end", names())
    } else {
        format!(
            "no network: no router gave {} an address. On the same cable the page is at http://{host}.local; a fixed \
             address goes into the file network on the boot partition",
            names()
        )
    }
}

/// Tells it unless it is what was told before.
pub fn network(places: &Places) -> ExitCode {
    let look = || -> io::Result<String> {
        let shown = Command::new("/usr/sbin/ip")
            .args(["-oneline", "address", "show", "up", "scope", "global"])
            .stdin(Stdio::null())
            .output()?;
        if !shown.status.success() {
            return Err(io::Error::other(format!("ip: {}", String::from_utf8_lossy(&shown.stderr).trim())));
        }
        Ok(sentence(&cards(places)?, &addresses(&String::from_utf8_lossy(&shown.stdout)), &host_name(places)))
    };
    let now = match look() {
        Ok(now) => now,
        Err(error) => return could_not(&format!("the network cards cannot be looked at: {error}")),
    };
    let told = places.at("run/slskdn/network");
    if line(&told).as_deref() == Some(&now) {
        return ExitCode::SUCCESS;
    }
    print(format!("{now}\n").as_bytes());
    match std::fs::write(&told, format!("{now}\n")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => could_not(&format!("{}: {error}", told.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told() {
        let card = |name: &str, cable| Card { name: name.to_owned(), cable };
        let told = |cards: &[Card], text: &str| sentence(cards, &addresses(text), "slskdn");
        assert!(told(&[], "").contains("no network card"));
        assert!(told(&[card("eth0", false)], "").contains("no cable in eth0"));
        assert!(told(&[card("eth0", true), card("eth1", false)], "").contains("no router gave eth0, eth1 an address"));
        let four = "2: eth0    inet 192.168.1.20/24 metric 1024 brd 192.168.1.255 scope global dynamic eth0\n";
        assert_eq!(told(&[card("eth0", true)], four), "the page is at http://slskdn.local and at http://192.168.1.20");
        let six = "2: eth0    inet6 fd00::20/64 scope global \n";
        assert!(told(&[card("eth0", true)], six).ends_with("http://[fd00::20]"));
        assert_eq!(addresses("\n2:\n"), Vec::<String>::new());
    }

    #[test]
    fn cards_are_those_with_a_cable() {
        let folder = tempfile::tempdir().unwrap();
        for (name, kind, carrier) in [("lo", "772", "1"), ("eth1", "1", "0"), ("eth0", "1", "1")] {
            let at = folder.path().join("sys/class/net").join(name);
            std::fs::create_dir_all(&at).unwrap();
            std::fs::write(at.join("type"), format!("{kind}\n")).unwrap();
            std::fs::write(at.join("carrier"), format!("{carrier}\n")).unwrap();
        }
        let found = cards(&Places::new(Some(folder.path().to_owned()))).unwrap();
        let found: Vec<_> = found.iter().map(|card| (card.name.as_str(), card.cable)).collect();
        assert_eq!(found, [("eth0", true), ("eth1", false)]);
    }
}
