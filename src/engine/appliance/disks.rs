//! Names and mount options of disks that are plugged in (DECISIONS 26).

use std::collections::BTreeMap;

/// Names of mount points are at most so long, bytes.
const NAME_LEN: usize = 40;

/// So many disks keep their names; the one that was named first goes when there are more.
pub const KEPT: usize = 64;

/// A disk and the name it keeps.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Kept {
    /// Name of its folder.
    pub name: String,
    /// Of its file system.
    pub uuid: String,
}

/// A driver of the kernel's for a file system, and the options that it alone knows, with a comma in front.
pub type Driver = (&'static str, &'static str);

/// Drivers of a file system that we mount, the first one that the kernel has counts, and the options of all of them; `None`
/// for one that we do not. Files of a system without owners are the program's.
pub fn options(kind: &str, uid: u32, gid: u32) -> Option<(&'static [Driver], String)> {
    let safe = "nosuid,nodev,noexec,noatime";
    let owned = format!("{safe},uid={uid},gid={gid},umask=0027");
    match kind {
        "ext4" => Some((&[("ext4", "")], format!("{safe},errors=remount-ro"))),
        "exfat" => Some((&[("exfat", "")], owned)),
        "vfat" => Some((&[("vfat", "")], format!("{owned},utf8,flush"))),
        // A disk that was not put away in order is for reading only: nothing is forced. ntfs3 refuses it otherwise; the new
        // ntfs, which Linux has beside it since 7.1, does so only when it is told, and else takes its marks off. Debian
        // builds one of the two.
        "ntfs" | "ntfs3" => Some((&[("ntfs3", ""), ("ntfs", ",errors=remount-ro")], owned)),
        _ => None,
    }
}

/// Name of the folder a disk is mounted on: its label as far as it can be a name, else a bit of its UUID; with a number
/// when that name is `taken` or another disk keeps it.
pub fn name(label: &str, uuid: &str, kept: &[Kept], taken: impl Fn(&str) -> bool) -> String {
    let base = base(label, uuid);
    let own = kept.iter().find(|disk| disk.uuid == uuid && is_of(&base, &disk.name) && !taken(&disk.name));
    if let Some(own) = own {
        return own.name.clone();
    }
    let free = |name: &str| !taken(name) && !kept.iter().any(|disk| disk.name == name && disk.uuid != uuid);
    if free(&base) {
        return base;
    }
    (2..1_000).map(|number| format!("{base}-{number}")).find(|name| free(name)).unwrap_or(base)
}

/// All that is kept, after this disk got its name; `None`: as it was. Another disk with the same label never gets the
/// name, even while this one is away: shares go by it, and nothing is shared that nobody chose.
pub fn keep(kept: &[Kept], disk: Kept) -> Option<Vec<Kept>> {
    // A copy of a disk, bit by bit, has no name of its own.
    let is_copy = || kept.iter().any(|old| old.uuid == disk.uuid && is_of(&old.name, &disk.name));
    if disk.uuid.is_empty() || kept.contains(&disk) || is_copy() {
        return None;
    }
    let mut now: Vec<Kept> =
        kept.iter().filter(|old| old.uuid != disk.uuid && old.name != disk.name).cloned().collect();
    now.push(disk);
    Some(now.split_off(now.len().saturating_sub(KEPT)))
}

/// Whether a disk that would be called `base` has this name.
fn is_of(base: &str, name: &str) -> bool {
    let digits = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    name.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(digits))
}

/// The name without a number.
fn base(label: &str, uuid: &str) -> String {
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
    base
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
            assert_eq!(name(label, "AB12-CD34", &[], |name| taken.contains(&name)), wanted);
        };
        check("Music", &[], "Music");
        check("Music", &["Music", "Music-2"], "Music-3");
        check("My Disk/../x", &[], "My-Disk-..-x");
        check("..", &[], "disk-AB12-CD3");
        check("", &[], "disk-AB12-CD3");
        check("Müsik 音楽", &[], "Müsik-音楽");
        check("\u{1b}[31m\n", &[], "31m");
        check(&"é".repeat(60), &[], &"é".repeat(20));
        assert_eq!(name("", "", &[], |_| false), "disk");
    }

    #[test]
    fn disks_of_one_label_keep_their_names_whichever_comes_first() {
        let disk = |name: &str, uuid: &str| Kept { name: name.to_owned(), uuid: uuid.to_owned() };
        let (first, second) = (disk("Elements", "A"), disk("Elements-2", "B"));
        let kept = keep(&[], first.clone()).unwrap();
        assert_eq!(kept, std::slice::from_ref(&first));
        // The first is away: the other is not taken for it.
        assert_eq!(name("Elements", "B", &kept, |_| false), "Elements-2");
        let kept = keep(&kept, second.clone()).unwrap();
        assert_eq!(kept, [first.clone(), second.clone()]);
        // Known already, a copy, and one without a number: nothing to write.
        assert_eq!(keep(&kept, first), None);
        assert_eq!(keep(&kept, disk("Elements-3", "A")), None);
        assert_eq!(keep(&kept, disk("Elements-3", "")), None);
        // After a start, in the other order, and each alone.
        assert_eq!(name("Elements", "B", &kept, |_| false), "Elements-2");
        assert_eq!(name("Elements", "A", &kept, |taken| taken == "Elements-2"), "Elements");
        assert_eq!(name("Elements", "D", &kept, |_| false), "Elements-3");
        assert_eq!(name("Music", "C", &kept, |_| false), "Music");
        // With a new label it gets a new name; a copy of a disk, bit by bit, gets one that is free.
        assert_eq!(name("Backup", "B", &kept, |_| false), "Backup");
        assert_eq!(name("Elements", "A", &kept, |taken| taken == "Elements"), "Elements-3");
        let many: Vec<Kept> = (0..70).map(|n| disk(&format!("x-{n}"), &format!("u{n}"))).collect();
        let kept = keep(&many, second.clone()).unwrap();
        assert_eq!((kept.len(), kept.last()), (KEPT, Some(&second)));
        // A new label: a new name.
        assert_eq!(keep(&[second], disk("Backup", "B")).unwrap(), [disk("Backup", "B")]);
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
