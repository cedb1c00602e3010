//! `card network`: tells on the screen where the page is, or why nothing reaches it. A box without a network has no other
//! way to say so.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use super::card::{host_name, told_host};
use super::node::ASKED;
use super::places::{Places, read_plain};
use crate::app::cli::{could_not, print, say};

/// More network cards than that are not looked at.
const CARDS: usize = 32;
/// `ARPHRD_ETHER`, the kind of a card with a cable.
const ETHERNET: &str = "1";

/// So often a start the code on the card is given another name.
const RENAMES: u8 = 3;

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

/// A name of the network, from `busctl`'s `v s "slskdn7"`.
fn name_in(answer: &str) -> Option<String> {
    let name = answer.trim().strip_prefix("v s \"")?.strip_suffix('"')?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    ((1..=63).contains(&name.len()) && name.bytes().all(plain)).then(|| name.to_owned())
}

/// What systemd-resolved calls the box.
fn resolved_name() -> Option<String> {
    let asked = Command::new("/usr/bin/busctl")
        // It must not be started by this, and a name is not worth waiting for: only `call` heeds both.
        .args(["--auto-start=no", "--timeout=5", "call", "org.freedesktop.resolve1", "/org/freedesktop/resolve1"])
        .args(["org.freedesktop.DBus.Properties", "Get", "ss", "org.freedesktop.resolve1.Manager", "LLMNRHostname"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    name_in(&String::from_utf8_lossy(&asked.stdout))
}

/// What the box is called on the network: where two have one name, one of them is given a number.
pub fn published_name(places: &Places) -> String {
    let kept = places.at("run/slskdn/name");
    let before = line(&kept).filter(|name| !name.is_empty());
    match if places.is_test() { None } else { resolved_name() } {
        Some(name) => {
            if before.as_ref() != Some(&name) {
                // Without it the name is asked for again.
                drop(std::fs::write(&kept, &name));
            }
            name
        }
        // Rather the one it had than one that may be another box's.
        None => before.unwrap_or_else(|| host_name(places)),
    }
}

/// Has the set-up code written anew where it stands on the card beside another name. Whoever changes the name again and
/// again (multicast DNS repeated between two networks does) must not wear the card: [`RENAMES`] times a start.
fn rename_on_card(places: &Places, host: &str) -> io::Result<()> {
    if told_host(places).is_none_or(|told| told == host) || !places.node().is_dir() {
        return Ok(());
    }
    let counted = places.at("run/slskdn/renames");
    let renames = line(&counted).and_then(|count| count.parse().ok()).unwrap_or(0_u8);
    if renames >= RENAMES {
        return Ok(());
    }
    std::fs::write(&counted, (renames + 1).to_string())?;
    // The folder is the program's: what lies there already may be a link.
    match OpenOptions::new().write(true).create_new(true).open(places.node().join(ASKED)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
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
    let host = published_name(places);
    if let Err(error) = rename_on_card(places, &host) {
        say(&format!("the set-up code is on the boot partition with another name than {host}: {error}"));
    }
    let look = || -> io::Result<String> {
        let shown = Command::new("/usr/sbin/ip")
            .args(["-oneline", "address", "show", "up", "scope", "global"])
            .stdin(Stdio::null())
            .output()?;
        if !shown.status.success() {
            return Err(io::Error::other(format!("ip: {}", String::from_utf8_lossy(&shown.stderr).trim())));
        }
        Ok(sentence(&cards(places)?, &addresses(&String::from_utf8_lossy(&shown.stdout)), &host))
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
    fn a_name_of_the_network_is_read_or_nothing() {
        assert_eq!(name_in("v s \"slskdn7\"\n").as_deref(), Some("slskdn7"));
        for wrong in ["", "v s \"\"\n", "v u 7\n", "v s \"two words\"\n", "v s \"a"] {
            assert_eq!(name_in(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_card_is_told_another_name_a_few_times_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::new(Some(folder.path().to_owned()));
        let asked = places.node().join(ASKED);
        let name = places.at("run/slskdn/name");
        for at in [places.fat(), places.node(), places.at("run/slskdn")] {
            std::fs::create_dir_all(at).unwrap();
        }
        let look = |now: &str| {
            std::fs::write(&name, now).unwrap();
            rename_on_card(&places, &published_name(&places)).unwrap();
            std::fs::remove_file(&asked).is_ok()
        };
        assert!(!look("slskdn7"), "no code is on the card");
        std::fs::write(
            places.fat().join("set-up-code.txt"),
            "Open http://slskdn.local and enter this set-up code:\r\n\r\n    bcd-fgh\r\n",
        )
        .unwrap();
        assert!(!look("slskdn"), "it is that name");
        assert_eq!((0..20).filter(|n| look(&format!("slskdn{n}"))).count(), usize::from(RENAMES));
        // What lies there already is left alone.
        std::fs::remove_file(places.at("run/slskdn/renames")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &asked).unwrap();
        assert!(look("slskdn8") && !folder.path().join("elsewhere").exists());
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
