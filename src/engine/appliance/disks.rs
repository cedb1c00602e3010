//! Names and mount options of disks that are plugged in (DECISIONS 26).

use std::collections::BTreeMap;

/// Names of mount points are at most so long, bytes.
const NAME_LEN: usize = 40;

/// Options of a file system that we mount; `None` for one we do not. Files of a system without owners are the program's.
pub fn options(kind: &str, uid: u32, gid: u32) -> Option<(&'static str, String)> {
    let safe = "nosuid,nodev,noexec,noatime";
    let owned = format!("{safe},uid={uid},gid={gid},umask=0027");
    match kind {
        "ext4" => Some(("ext4", format!("{safe},errors=remount-ro"))),
        "exfat" => Some(("exfat", owned)),
        "vfat" => Some(("vfat", format!("{owned},utf8,flush"))),
        // A disk that was not put away in order is refused by the kernel but for reading: nothing is forced.
        "ntfs" | "ntfs3" => Some(("ntfs3", owned)),
        _ => None,
    }
}

/// Name of the folder a disk is mounted on: its label as far as it can be a name, else its kind and a bit of its UUID;
/// with a number when that name is `taken`.
pub fn name(label: &str, uuid: &str, taken: impl Fn(&str) -> bool) -> String {
    let clean = |text: &str| {
        let mut out = String::new();
        // blkid puts a backslash before what a shell would not take.
        for c in text.trim().chars().filter(|c| *c != '\\') {
            let c = if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
            if out.len() + c.len_utf8() > NAME_LEN {
                break;
            }
            out.push(c);
        }
        out.trim_matches(['-', '.']).to_owned()
    };
    let mut base = clean(label);
    if base.is_empty() {
        let short: String = clean(uuid).chars().take(8).collect();
        base = if short.is_empty() { "disk".to_owned() } else { format!("disk-{short}") };
    }
    if !taken(&base) {
        return base;
    }
    (2..1_000).map(|number| format!("{base}-{number}")).find(|name| !taken(name)).unwrap_or(base)
}

/// `KEY=value` lines of `blkid -o export` or `udevadm`; values with backslashes are taken as they are.
pub fn properties(text: &str) -> BTreeMap<&str, &str> {
    text.lines().take(256).filter_map(|line| line.split_once('=')).collect()
}

/// Mount points below `folder` in `/proc/self/mountinfo`: name of the folder, device, file system. At most 64.
pub fn mounted<'a>(mountinfo: &'a str, folder: &str) -> Vec<(String, &'a str, &'a str)> {
    let prefix = format!("{}/", folder.trim_end_matches('/'));
    let row = |line: &'a str| {
        let (head, tail) = line.split_once(" - ")?;
        let point = unescaped(head.split(' ').nth(4)?);
        let name = point.strip_prefix(&prefix)?;
        let mut tail = tail.split(' ');
        let (kind, device) = (tail.next()?, tail.next()?);
        (!name.is_empty() && !name.contains('/')).then(|| (name.to_owned(), device, kind))
    };
    let mut found: Vec<(String, &str, &str)> = Vec::new();
    for disk in mountinfo.lines().filter_map(row).take(64) {
        // A sandbox sees a mount once for each of its views of the folder; the last one lies on top.
        found.retain(|(name, ..)| *name != disk.0);
        found.push(disk);
    }
    found
}

/// Octal escapes as the kernel writes them.
fn unescaped(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).filter(|d| *first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        if let Some(digits) = digits {
            let value = digits.iter().fold(0_u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
            out.push(u8::try_from(value).unwrap_or(b'?'));
            rest = after.get(3..).unwrap_or_default();
        } else {
            out.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_become_names() {
        let check = |label: &str, taken: &[&str], wanted: &str| {
            assert_eq!(name(label, "AB12-CD34", |name| taken.contains(&name)), wanted);
        };
        check("Music", &[], "Music");
        check("Music", &["Music", "Music-2"], "Music-3");
        check("My Disk/../x", &[], "My-Disk-..-x");
        check("..", &[], "disk-AB12-CD3");
        check("", &[], "disk-AB12-CD3");
        check("Müsik 音楽", &[], "Müsik-音楽");
        check("\u{1b}[31m\n", &[], "31m");
        check(&"é".repeat(60), &[], &"é".repeat(20));
        assert_eq!(name("", "", |_| false), "disk");
    }

    #[test]
    fn only_known_file_systems_are_mounted_and_nothing_on_them_runs() {
        for kind in ["ext4", "exfat", "ntfs", "vfat"] {
            let (_, options) = options(kind, 989, 989).unwrap();
            assert!(options.starts_with("nosuid,nodev,noexec,"), "{options}");
        }
        assert_eq!(options("squashfs", 989, 989), None);
    }

    #[test]
    fn mounts_are_found() {
        let text = "36 35 8:1 / / rw shared:1 - ext4 /dev/root rw\n\
                    40 36 8:17 / /data/media/My\\040Disk rw,nosuid shared:5 - exfat /dev/sdb1 rw,uid=989\n\
                    41 36 8:18 / /data/media/a/b rw - ext4 /dev/sdb2 rw\nrubbish\n";
        assert_eq!(mounted(text, "/data/media"), [("My Disk".to_owned(), "/dev/sdb1", "exfat")]);
        let twice = "40 36 8:17 / /m/a rw - ext4 /dev/sdb1 rw\n41 37 8:17 / /m/a rw - ext4 /dev/sdb1 rw\n";
        assert_eq!(mounted(twice, "/m"), [("a".to_owned(), "/dev/sdb1", "ext4")]);
        assert_eq!(unescaped("a\\0"), "a\\0");
    }
}
