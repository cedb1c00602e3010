//! The `card` commands, run by root around the daemon: the owner's files on the boot partition are read before anything
//! else starts; the set-up code goes there; what the log says is kept now and then.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use super::network::published_name;
use super::node::{ASKED, POWER};
use super::places::{Places, read_plain};
use crate::app::cli::{could_not, print, say};
use crate::app::config_file;
use crate::engine::appliance::card::{self as owner, Network};
use crate::model::config::keys::{Kind, find};
use crate::model::config::{self, Given, Problem, Raw};

/// How the card's settings are called where a place is told.
pub const SOURCE: &str = "slskdn.yml on the card";
/// A longer `slskdn.yml` is refused, bytes.
const YML_LEN: usize = 1024 * 1024;
/// Names in the folder that the daemon writes for us.
pub const CODE: &str = "set-up-code";
/// As above: SHA-256 of the file whose secrets were taken.
pub const TAKEN: &str = "secrets-taken";
/// The kept log is started anew at this length; one before it is kept.
const LOG_LEN: u64 = 4 * 1024 * 1024;
/// Of one look at the log, more is left out.
const LOG_AT_ONCE: u64 = 2 * 1024 * 1024;

/// Where [`read`] leaves what it found.
pub fn folder(places: &Places) -> PathBuf {
    places.at("run/slskdn-card")
}

/// The text of one of the owner's files: without one there is nothing.
fn text(path: &Path, most: usize) -> Result<Option<String>, String> {
    match read_plain(path, most) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| "it is no text in UTF-8".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("it cannot be read: {error}")),
    }
}

/// `card read`: whatever is wrong is told and left out, and the box comes up.
pub fn read(places: &Places) -> ExitCode {
    let fat = places.fat();
    let mut told = Vec::new();
    if !places.is_test() && !places.has_boot() {
        told.push("the boot partition is not mounted: its settings are not known".to_owned());
    }
    let outcome = |name: &str, outcome: io::Result<()>, told: &mut Vec<String>| {
        if let Err(error) = outcome {
            told.push(format!("{name}: it could not be put to work: {error}"));
        }
    };
    match text(&fat.join("hostname"), owner::FILE_LEN).and_then(|text| owner::hostname(&text.unwrap_or_default())) {
        Ok(Some(name)) => outcome("hostname", set_hostname(places, &name), &mut told),
        Ok(None) => {}
        Err(why) => told.push(format!("hostname: {why}")),
    }
    match text(&fat.join("network"), owner::FILE_LEN) {
        Ok(text) => match Network::parse(&text.unwrap_or_default()) {
            Ok(Some(network)) => {
                let path = places.at("run/systemd/network/05-slskdn.network");
                outcome("network", write(&path, network.unit().as_bytes(), 0o644), &mut told);
                told.extend(network.lacks().map(|why| format!("network: {why}")));
            }
            Ok(None) => {}
            Err(mistakes) => {
                told.extend(mistakes.iter().map(|why| format!("network: {why}")));
                told.push("network: nothing of it is used; the router is asked for an address".to_owned());
            }
        },
        Err(why) => told.push(format!("network: {why}")),
    }
    match text(&fat.join("authorized_keys"), owner::FILE_LEN) {
        Ok(text) => {
            let (keys, mistakes) = owner::authorized_keys(&text.unwrap_or_default());
            told.extend(mistakes.iter().map(|why| format!("authorized_keys: {why}")));
            if !keys.is_empty() {
                let path = places.at("root/.ssh/authorized_keys");
                outcome("authorized_keys", write(&path, format!("{}\n", keys.join("\n")).as_bytes(), 0o600), &mut told);
            }
        }
        Err(why) => told.push(format!("authorized_keys: {why}")),
    }
    match text(&fat.join("slskdn.yml"), YML_LEN) {
        Ok(text) => {
            let text = text.unwrap_or_default();
            told.extend(mistakes(&text).iter().map(ToString::to_string));
            outcome("slskdn.yml", hand_over(places, text.as_bytes()), &mut told);
        }
        Err(why) => told.push(format!("slskdn.yml: {why}")),
    }
    // What an editor makes of a name without an ending.
    for name in ["slskdn.yml", "network", "authorized_keys", "hostname"] {
        if fat.join(format!("{name}.txt")).exists() {
            told.push(format!("{name}.txt: not read; its name has to be {name}, without .txt"));
        }
    }
    let lines = told.join("\n");
    let handed = for_the_program(places, "problems", lines.as_bytes());
    if told.is_empty() {
        print(b"the settings on the boot partition are fine\n");
    }
    for line in &told {
        print(format!("on the boot partition, {line}\n").as_bytes());
    }
    match handed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => could_not(&format!("{}: {error}", folder(places).display())),
    }
}

/// What is wrong with a `slskdn.yml` by itself.
fn mistakes(text: &str) -> Vec<Problem> {
    let given = config_file::read(text, SOURCE);
    let mut found = given.and_then(|given| config::resolve(&[given])).err().unwrap_or_default();
    // What has no place is about several keys, and the others may be in another file.
    found.retain(|problem| !problem.place.source.is_empty());
    found
}

fn set_hostname(places: &Places, name: &str) -> io::Result<()> {
    write(&places.at("etc/hostname"), format!("{name}\n").as_bytes(), 0o644)?;
    if !places.is_test() {
        rustix::system::sethostname(name.as_bytes())?;
    }
    Ok(())
}

/// Written as a whole, its folder made if need be: 0700 where the file is for nobody else.
fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Err(io::ErrorKind::InvalidInput.into()) };
    if !folder.exists() {
        std::fs::create_dir_all(folder)?;
        if mode == 0o600 {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
        }
    }
    let temporary = path.with_extension("new");
    drop(std::fs::remove_file(&temporary));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    drop(file);
    std::fs::rename(&temporary, path)
}

fn hand_over(places: &Places, yml: &[u8]) -> io::Result<()> {
    for_the_program(places, "slskdn.yml", yml)
}

/// Readable for the program, whose group the folder has, and for nobody else: it may hold a password.
fn for_the_program(places: &Places, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = folder(places);
    let path = folder.join(name);
    write(&path, bytes, 0o640)?;
    let group = std::fs::metadata(&folder)?.gid();
    std::os::unix::fs::chown(&path, None, Some(group))
}

/// Secrets in a file, as they are written there.
pub fn secrets(given: &[Given]) -> impl Iterator<Item = &Given> {
    given.iter().filter(|given| {
        let secret = find(&given.key).is_some_and(|key| matches!(key.kind, Kind::Secret));
        secret && matches!(&given.value, Raw::One(text) if !text.is_empty())
    })
}

/// SHA-256 in hexadecimal, by which the daemon says which file it has read.
pub fn mark(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    hash.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// `card write`: what the daemon wants on the boot partition and on the screen. Nothing of it is taken as it is: a code is
/// letters and digits, and a mark has to be the one of the file that is there.
pub fn write_back(places: &Places) -> ExitCode {
    let mut failed = Vec::new();
    // First: what is left from here on is looked at by the next run.
    if let Err(error) = std::fs::remove_file(places.node().join(ASKED))
        && error.kind() != io::ErrorKind::NotFound
    {
        failed.push(format!("{ASKED}: {error}"));
    }
    let asked = places.node().join("card");
    let code = read_plain(&asked.join(CODE), 64).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let code = code.map(|code| code.trim().to_owned());
    // Its folder goes with the program. What was told last is then what somebody may have read.
    if asked.is_dir()
        && let Err(error) = tell_code(places, code.as_ref().filter(|code| is_code(code)))
    {
        failed.push(format!("the set-up code could not be written on the boot partition: {error}"));
    }
    if let Ok(taken) = read_plain(&asked.join(TAKEN), 64)
        && let Err(error) = blank(places, &String::from_utf8_lossy(&taken))
    {
        failed.push(format!("passwords could not be removed from the boot partition: {error}"));
    }
    for sentence in &failed {
        say(sentence);
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `card power`: ends everything, when the daemon left a word that says so. What else may lie there does nothing.
pub fn power(places: &Places) -> ExitCode {
    let asked = places.node().join(POWER);
    let word = read_plain(&asked, 16);
    // First: the box must not come up only to go down again.
    if let Err(error) = std::fs::remove_file(&asked) {
        return could_not(&format!("{}: {error}", asked.display()));
    }
    let command = match word.as_deref() {
        Ok(b"restart") => "reboot",
        Ok(b"off") => "poweroff",
        _ => return could_not("what the program asks for is neither to restart nor to switch off"),
    };
    print(format!("the page asked for it: {command}\n").as_bytes());
    if places.is_test() {
        return ExitCode::SUCCESS;
    }
    match Command::new("/usr/bin/systemctl").args(["--no-block", command]).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => could_not(&format!("systemctl {command}: {status}")),
        Err(error) => could_not(&format!("systemctl {command}: {error}")),
    }
}

/// What the box is called on the network.
pub fn host_name(places: &Places) -> String {
    if places.is_test() {
        return "slskdn".to_owned();
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn is_code(code: &str) -> bool {
    (1..=32).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The code that stands on the boot partition: who has read it there will type it after the next start.
pub fn told_code(places: &Places) -> Option<String> {
    let text = read_plain(&places.fat().join("set-up-code.txt"), 4096).ok()?;
    let text = String::from_utf8(text).ok()?;
    let code = text.lines().find_map(|line| line.strip_prefix("    "))?.trim();
    is_code(code).then(|| code.to_owned())
}

/// The box's name beside that code.
pub fn told_host(places: &Places) -> Option<String> {
    let text = String::from_utf8(read_plain(&places.fat().join("set-up-code.txt"), 4096).ok()?).ok()?;
    text.lines().find_map(|line| Some(line.split_once("http://")?.1.split_once(".local")?.0.to_owned()))
}

fn tell_code(places: &Places, code: Option<&String>) -> io::Result<()> {
    let path = places.fat().join("set-up-code.txt");
    let Some(code) = code else {
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    let host = published_name(places);
    print(format!("open http://{host}.local and enter the set-up code: {code}\n").as_bytes());
    let text = format!("Open http://{host}.local and enter this set-up code:\r\n\r\n    {code}\r\n");
    // A card is not written to without need.
    if read_plain(&path, 4096).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let mut file = File::create(&path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Secrets leave the boot partition, which every PC reads, once they are kept elsewhere.
fn blank(places: &Places, taken: &str) -> io::Result<()> {
    let path = places.fat().join("slskdn.yml");
    let before = read_plain(&path, YML_LEN)?;
    let length = before.len();
    if mark(&before) != taken.trim() {
        return Ok(());
    }
    let wrong = |_| io::Error::from(io::ErrorKind::InvalidData);
    let mut text = String::from_utf8(before).map_err(|_| io::ErrorKind::InvalidData)?;
    let given = config_file::read(&text, SOURCE).map_err(wrong)?;
    let keys: Vec<String> = secrets(&given).map(|given| given.key.clone()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    for key in keys {
        text = config_file::edit(&text, &key, None).map_err(wrong)?;
    }
    hand_over(places, text.as_bytes())?;
    // A name that is given away leaves its blocks as they are, for everybody to read who looks for deleted files. (What a
    // card keeps aside for itself is out of reach.)
    let mut old = OpenOptions::new().write(true).open(&path)?;
    let temporary = places.fat().join("slskdn.new");
    let replaced = File::create(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        // The name has to lead to it before the old blocks are spoilt.
        file.sync_all()?;
        File::open(places.fat())?.sync_all()
    });
    // No room for two of them: in its place then, which a power cut may spoil. The secrets are kept already.
    let instead: &[u8] = if replaced.is_ok() { b"" } else { text.as_bytes() };
    if replaced.is_err() {
        drop(std::fs::remove_file(&temporary));
    }
    old.write_all(instead)?;
    old.write_all(&vec![b'\n'; length.saturating_sub(instead.len())])?;
    old.sync_all()?;
    if replaced.is_err() {
        old.set_len(text.len() as u64)?;
        old.sync_all()?;
    }
    File::open(places.fat())?.sync_all()
}

/// A place in the log of another start says nothing about this one's, which is in memory and begins anew: on a board
/// without a clock all of it may bear an earlier time.
fn forget_place(places: &Places, cursor: &Path) -> io::Result<()> {
    let (Ok(place), Ok(start)) =
        (read_plain(cursor, 4096), read_plain(&places.at("proc/sys/kernel/random/boot_id"), 64))
    else {
        return Ok(());
    };
    let start = format!("b={}", String::from_utf8_lossy(&start).trim().replace('-', ""));
    if String::from_utf8_lossy(&place).trim().split(';').any(|part| part == start) {
        return Ok(());
    }
    std::fs::remove_file(cursor)
}

/// `card keep-log`: what the log has gathered since the last time, appended to the kept one.
pub fn keep_log(places: &Places) -> ExitCode {
    let folder = places.at("data/log");
    let keep = || -> io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        let path = folder.join("system.log");
        if std::fs::metadata(&path).is_ok_and(|found| found.len() > LOG_LEN - LOG_AT_ONCE) {
            std::fs::rename(&path, folder.join("system.log.1"))?;
        }
        forget_place(places, &folder.join("cursor"))?;
        let mut log = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        let mut journal = Command::new("/usr/bin/journalctl")
            .args(["--quiet", "--no-pager", "--priority=info", "--output=short-iso"])
            .arg(format!("--cursor-file={}", folder.join("cursor").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        if let Some(mut lines) = journal.stdout.take() {
            io::copy(&mut lines.by_ref().take(LOG_AT_ONCE), &mut log)?;
            // It keeps its place only when it comes to its end.
            io::copy(&mut lines, &mut io::sink())?;
        }
        journal.wait()?;
        log.sync_all()
    };
    match keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("the log could not be kept in {}: {error}", folder.display()));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::Appliance;
    use super::*;

    fn places(folder: &Path) -> Places {
        for path in ["boot/firmware", "run/slskdn-card", "run/slskdn-node/card", "etc", "run/systemd/network"] {
            std::fs::create_dir_all(folder.join(path)).unwrap();
        }
        Places::new(Some(folder.to_owned()))
    }

    #[test]
    fn a_place_in_the_log_counts_for_its_start_alone() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        std::fs::create_dir_all(places.at("proc/sys/kernel/random")).unwrap();
        std::fs::write(places.at("proc/sys/kernel/random/boot_id"), "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\n").unwrap();
        let cursor = places.at("cursor");
        forget_place(&places, &cursor).unwrap();
        let line = |start: &str| format!("s=67a1;i=9f2;b={start};m=5d8a;t=63a1;x=ab12\n");
        std::fs::write(&cursor, line("0f1e2d3c4b5a69788796a5b4c3d2e1f0")).unwrap();
        forget_place(&places, &cursor).unwrap();
        assert!(cursor.exists());
        std::fs::write(&cursor, line("ffffffffffffffffffffffffffffffff")).unwrap();
        forget_place(&places, &cursor).unwrap();
        assert!(!cursor.exists());
    }

    #[test]
    fn what_makes_no_sense_is_told_and_the_rest_counts() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let put = |name: &str, text: &[u8]| std::fs::write(places.fat().join(name), text).unwrap();
        let got = |path: &str| std::fs::read_to_string(places.at(path)).unwrap_or_default();
        assert_eq!(read(&places), ExitCode::SUCCESS);
        assert_eq!(got("run/slskdn-card/problems"), "");
        put("hostname", b"attic\r\n");
        put("network", b"address=10.0.0.5\n");
        put("authorized_keys", &[0xff, 0xfe, 0, 0]);
        put("slskdn.yml", b"soulseek:\r\n  username: me\r\nweb:\r\n  prot: 1\r\n");
        assert_eq!(read(&places), ExitCode::SUCCESS);
        let problems = got("run/slskdn-card/problems");
        for word in ["network: line 1", "the router is asked", "authorized_keys: it is no text", "web.prot"] {
            assert!(problems.contains(word), "{word}: {problems}");
        }
        assert_eq!(got("etc/hostname"), "attic\n");
        assert!(got("run/slskdn-card/slskdn.yml").contains("username: me"));
        assert!(!places.at("run/systemd/network/05-slskdn.network").exists());
        put("network", b"address=10.0.0.5/8\n");
        put("hostname.txt", b"attic\n");
        read(&places);
        let problems = got("run/slskdn-card/problems");
        for word in ["hostname.txt: not read", "network: there is no gateway=", "network: there is no dns="] {
            assert!(problems.contains(word), "{word}: {problems}");
        }
        assert!(got("run/systemd/network/05-slskdn.network").contains("Address=10.0.0.5/8"));
    }

    #[test]
    fn the_code_is_there_until_it_was_used() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let (asked, file) = (places.node().join("card").join(CODE), places.fat().join("set-up-code.txt"));
        std::fs::write(&asked, "bcdfg-hjkmn").unwrap();
        assert_eq!(write_back(&places), ExitCode::SUCCESS);
        assert!(std::fs::read_to_string(&file).unwrap().contains("bcdfg-hjkmn"));
        assert_eq!(told_code(&places).as_deref(), Some("bcdfg-hjkmn"));
        // Something else than a code is not written anywhere.
        std::fs::write(&asked, "../../etc\n[2J").unwrap();
        write_back(&places);
        assert!(!file.exists());
        assert_eq!(told_code(&places), None);
        std::fs::write(&asked, "bcdfg-hjkmn").unwrap();
        write_back(&places);
        std::fs::remove_file(&asked).unwrap();
        write_back(&places);
        assert!(!file.exists());
        // The program ended without its having been used.
        std::fs::write(&asked, "bcdfg-hjkmn").unwrap();
        write_back(&places);
        std::fs::remove_dir_all(asked.parent().unwrap()).unwrap();
        assert_eq!(write_back(&places), ExitCode::SUCCESS);
        assert_eq!(told_code(&places).as_deref(), Some("bcdfg-hjkmn"));
    }

    #[test]
    fn what_is_left_while_the_card_is_written_is_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let (program, asked) = (Appliance::new(Some(folder.path().to_owned())), places.node().join(ASKED));
        program.leave(CODE, Some("bcdfg-hjkmn"));
        assert!(asked.exists());
        write_back(&places);
        assert!(!asked.exists() && told_code(&places).is_some());
        // Also that there is nothing any more.
        program.leave(CODE, None);
        assert!(asked.exists());
    }

    #[test]
    fn secrets_leave_the_card_only_once_they_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let path = places.fat().join("slskdn.yml");
        let text = "# mine\nsoulseek:\n  username: me\n  password: hunter2 # secret\n";
        std::fs::write(&path, text).unwrap();
        std::fs::write(places.node().join("card").join(TAKEN), mark(b"another file")).unwrap();
        write_back(&places);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        std::fs::write(places.node().join("card").join(TAKEN), mark(text.as_bytes())).unwrap();
        // What an undelete would bring back.
        let mut old = File::open(&path).unwrap();
        write_back(&places);
        let blanked = "# mine\nsoulseek:\n  username: me\n  password: ~ # secret\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), blanked);
        assert_eq!(mistakes(blanked), []);
        let mut left = String::new();
        old.read_to_string(&mut left).unwrap();
        assert_eq!(left, "\n".repeat(text.len()));
        // Without room for a second file, whose name a folder has here: in its place.
        std::fs::write(&path, text).unwrap();
        std::fs::create_dir(places.fat().join("slskdn.new")).unwrap();
        write_back(&places);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), blanked);
    }
}
