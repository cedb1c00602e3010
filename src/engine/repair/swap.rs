//! How a new file takes the place of an old one, and how that is undone, one step at a time.
//!
//! Nothing is remembered between two steps but the names and the two contents, which are on record before the first:
//! what to do next follows from what lies under the names. So a kill at any moment is nothing but a pause, and at every
//! moment one of the two files lies there whole. Nothing but the hidden temporary file, a second name of the old file,
//! and (if the owner wants no backups) the old file behind a durable new one is ever removed.

/// What lies under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lies {
    /// Nothing.
    Nothing,
    /// The file that is replaced, byte for byte.
    Old,
    /// The file that replaces it, byte for byte.
    New,
    /// Something else.
    Other,
}

/// What is seen in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Under the old file's name.
    pub old: Lies,
    /// Under the new file's name; the same where both have one name.
    pub new: Lies,
    /// Under the backup's name; `Nothing` where there is to be none.
    pub backup: Lies,
    /// Under the hidden temporary name.
    pub temporary: Lies,
    /// Where the new file goes when the old one is put back.
    pub aside: Lies,
    /// The backup is another name of the very file under the old name.
    pub linked: bool,
    /// The finished file is still where the job left it.
    pub source: bool,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Both files have one name.
    pub same_name: bool,
    /// What becomes of the old file.
    pub fate: Fate,
}

/// What becomes of the old file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is kept under the backup's name.
    Kept,
    /// It is removed at the end.
    Removed,
    /// It stays where it is; never with one name for both.
    Stays,
}

/// Why it does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The old file is no longer what it was.
    Changed,
    /// Something else lies under a name that is needed: other names are to be tried.
    Taken,
    /// The new file is nowhere.
    Gone,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the finished file under the temporary name, durable.
    Write,
    /// Give the old file the backup's name besides; where there are no links, instead.
    Link,
    /// Rename the temporary file to the new name, over the old file where both have one name.
    Put,
    /// Rename the old file to the backup's name.
    PutAway,
    /// Rename the backup to the old name.
    PutBack,
    /// Let the files under the old name and the backup's name change places; where names cannot be exchanged, rename the
    /// new file to the temporary name.
    Exchange,
    /// Rename the temporary file to the name aside.
    Unhide,
    /// Rename the new file to the name aside.
    LayAside,
    /// Remove the temporary file.
    RemoveTemporary,
    /// Remove the backup.
    RemoveBackup,
    /// Remove the old file.
    RemoveOld,
    /// It is done.
    Done,
    /// It cannot be done; everything is as it was, but for what the owner changed.
    Stop(Why),
}

/// The next step of putting the new file in the old one's place.
pub fn next(want: Want, sight: Sight) -> Step {
    if want.same_name { same_name(want, sight) } else { other_name(want, sight) }
}

/// The next step of leaving the old file as it was, where the new one is not in its place yet; where it is, of bringing
/// the swap to its end.
pub fn give_up(want: Want, sight: Sight) -> Step {
    let Sight { old, new, backup, temporary, linked, .. } = sight;
    let placed = if want.same_name { old } else { new };
    match (old, backup) {
        _ if placed == Lies::New => next(want, sight),
        (Lies::Nothing, Lies::Old) if want.same_name => Step::PutBack,
        (Lies::Old, Lies::Old) if linked => Step::RemoveBackup,
        _ if matches!(temporary, Lies::New | Lies::Other) => Step::RemoveTemporary,
        _ => Step::Stop(Why::Gone),
    }
}

fn same_name(want: Want, sight: Sight) -> Step {
    let Sight { old, backup, temporary, source, linked, .. } = sight;
    match (old, backup) {
        (Lies::New, _) if matches!(temporary, Lies::New | Lies::Other) => Step::RemoveTemporary,
        (Lies::New, Lies::Old) if want.fate == Fate::Removed => Step::RemoveBackup,
        (Lies::New, _) => Step::Done,
        // Where there are no links, the old file was renamed first.
        (Lies::Nothing | Lies::Old, Lies::Old) if temporary == Lies::New => Step::Put,
        (Lies::Nothing, Lies::Old) => {
            if source {
                Step::Write
            } else {
                Step::PutBack
            }
        }
        (Lies::Old, Lies::Nothing) if temporary == Lies::New => Step::Link,
        (Lies::Old, Lies::Nothing | Lies::Old) if source => Step::Write,
        // No new file any more: as if nothing had been begun.
        (Lies::Old, Lies::Old) if linked => Step::RemoveBackup,
        (Lies::Old, Lies::Nothing | Lies::Old) => stop(sight, Why::Gone),
        (Lies::Old, Lies::New | Lies::Other) => stop(sight, Why::Taken),
        (Lies::Other | Lies::Nothing, _) => stop(sight, Why::Changed),
    }
}

fn other_name(want: Want, sight: Sight) -> Step {
    let Sight { old, new, backup, temporary, source, .. } = sight;
    match (new, old) {
        (Lies::New, _) if matches!(temporary, Lies::New | Lies::Other) => Step::RemoveTemporary,
        (Lies::New, Lies::Old) => match (want.fate, backup) {
            (Fate::Stays, _) => Step::Done,
            (Fate::Removed, _) => Step::RemoveOld,
            (Fate::Kept, Lies::Nothing) => Step::PutAway,
            (Fate::Kept, _) => Step::Stop(Why::Taken),
        },
        (Lies::New, Lies::Nothing) => Step::Done,
        (Lies::New, _) if want.fate == Fate::Stays => Step::Done,
        (Lies::Nothing, Lies::Old) if temporary == Lies::New => Step::Put,
        (Lies::Nothing, Lies::Old) if source => Step::Write,
        (Lies::Nothing, Lies::Old) => stop(sight, Why::Gone),
        (Lies::Old | Lies::Other, Lies::Old) => stop(sight, Why::Taken),
        (Lies::New, _) | (_, Lies::Nothing | Lies::New | Lies::Other) => stop(sight, Why::Changed),
    }
}

/// Leaves no temporary file behind, unless it may be the only one of its kind.
fn stop(sight: Sight, why: Why) -> Step {
    match sight.temporary {
        Lies::Nothing | Lies::Old => Step::Stop(why),
        Lies::New if !sight.source => Step::Stop(why),
        Lies::New | Lies::Other => Step::RemoveTemporary,
    }
}

/// The next step of putting the old file back. Both are kept.
pub fn undo(same_name: bool, sight: Sight) -> Step {
    let Sight { old, new, backup, temporary, aside, .. } = sight;
    if same_name {
        // The name aside is the backup's.
        return match (old, backup, temporary) {
            (Lies::Old, Lies::New, _) | (Lies::Old, Lies::Nothing, Lies::Nothing) => Step::Done,
            (Lies::New, Lies::Old, Lies::Nothing) => Step::Exchange,
            // The second: the owner removed the new one.
            (Lies::Nothing, Lies::Old, Lies::New | Lies::Nothing) => Step::PutBack,
            (Lies::Old, Lies::Nothing, Lies::New) => Step::Unhide,
            _ => Step::Stop(Why::Changed),
        };
    }
    // The old one first: at no moment is there none under a name that players know.
    match (old, backup, new, aside) {
        (Lies::Nothing, Lies::Old, _, _) => Step::PutBack,
        (Lies::Old, _, Lies::New, Lies::Nothing) => Step::LayAside,
        (Lies::Old, _, Lies::New, _) => Step::Stop(Why::Taken),
        (Lies::Old, _, _, _) => Step::Done,
        _ => Step::Stop(Why::Changed),
    }
}

/// Longest name of a file on the disks we know, bytes.
const NAME_LEN: usize = 255;

/// A name with something before and behind it; the name is cut where the whole would be too long for a disk.
fn around(before: &[u8], name: &[u8], behind: &[u8]) -> Vec<u8> {
    let room = NAME_LEN.saturating_sub(before.len() + behind.len());
    let mut end = room.min(name.len());
    // Whole characters, where the name is text.
    while end > 0 && name.get(end).is_some_and(|byte| byte & 0xc0 == 0x80) {
        end -= 1;
    }
    [before, name.get(..end).unwrap_or_default(), behind].concat()
}

/// The hidden name under which the new file is written first.
pub fn temporary_name(old: &[u8]) -> Vec<u8> {
    around(b".", old, b".slskdn-new")
}

/// The `number`th name, from 1, for a file that makes way: `NAME.bak`, `NAME.2.bak`. It always ends in `.bak`, by which
/// shares and scans pass it over.
pub fn backup_name(name: &[u8], number: u32) -> Vec<u8> {
    match number {
        0 | 1 => around(b"", name, b".bak"),
        _ => around(b"", name, format!(".{number}.bak").as_bytes()),
    }
}

fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'.') {
        Some(at) if at > 0 => (&name[..at], &name[at + 1..]),
        _ => (name, b""),
    }
}

/// Whether a new file with this extension takes the old one's very name.
pub fn keeps_name(old: &[u8], extension: &str) -> bool {
    split(old).1.eq_ignore_ascii_case(extension.as_bytes())
}

/// The `number`th name, from 1, for the new file: the old one's with another extension, `Song.flac`, `Song (2).flac`.
pub fn new_name(old: &[u8], extension: &str, number: u32) -> Vec<u8> {
    let behind = match (number, extension) {
        (0 | 1, "") => String::new(),
        (0 | 1, extension) => format!(".{extension}"),
        (number, "") => format!(" ({number})"),
        (number, extension) => format!(" ({number}).{extension}"),
    };
    around(b"", split(old).0, behind.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Lies; 4] = [Lies::Nothing, Lies::Old, Lies::New, Lies::Other];

    fn sights() -> impl Iterator<Item = Sight> {
        (0..4_usize.pow(5) * 4).map(|n| {
            let at = |place: u32| ALL[n / 4_usize.pow(place) % 4];
            let bits = n / 4_usize.pow(5);
            Sight {
                old: at(0),
                new: at(1),
                backup: at(2),
                temporary: at(3),
                aside: at(4),
                linked: bits & 1 == 1,
                source: bits & 2 == 2,
            }
        })
    }

    /// What the folder looks like after a step that succeeded.
    fn after(step: Step, mut s: Sight, same_name: bool, exchanges: bool) -> Sight {
        match step {
            Step::Write => s.temporary = Lies::New,
            Step::Link => (s.backup, s.linked) = (s.old, true),
            Step::Put => {
                if same_name {
                    (s.old, s.linked) = (s.temporary, false);
                } else {
                    s.new = s.temporary;
                }
                s.temporary = Lies::Nothing;
            }
            Step::PutAway => (s.backup, s.old) = (s.old, Lies::Nothing),
            Step::PutBack => (s.old, s.backup, s.linked) = (s.backup, Lies::Nothing, false),
            Step::Exchange if exchanges => (s.old, s.backup) = (s.backup, s.old),
            Step::Exchange => (s.temporary, s.old) = (s.old, Lies::Nothing),
            Step::Unhide => (s.backup, s.temporary) = (s.temporary, Lies::Nothing),
            Step::LayAside => (s.aside, s.new) = (s.new, Lies::Nothing),
            Step::RemoveTemporary => s.temporary = Lies::Nothing,
            Step::RemoveBackup => (s.backup, s.linked) = (Lies::Nothing, false),
            Step::RemoveOld => s.old = Lies::Nothing,
            Step::Done | Step::Stop(_) => {}
        }
        s
    }

    fn whole(s: Sight) -> usize {
        let is_music = |lies: &Lies| matches!(lies, Lies::Old | Lies::New);
        [s.old, s.new, s.backup, s.temporary, s.aside].iter().filter(|lies| is_music(lies)).count()
            + usize::from(s.source)
    }

    fn strangers(s: Sight) -> usize {
        [s.old, s.new, s.backup, s.aside].iter().filter(|lies| **lies == Lies::Other).count()
    }

    #[test]
    fn from_wherever_it_stands_it_ends_and_loses_nothing() {
        let fates = [Fate::Kept, Fate::Removed, Fate::Stays];
        let wants = fates.into_iter().flat_map(|fate| [true, false].map(|same_name| Want { same_name, fate }));
        for want in wants.filter(|want| !(want.same_name && want.fate == Fate::Stays)) {
            for begin in sights() {
                let mut sight =
                    Sight { linked: begin.linked && begin.old == Lies::Old && begin.backup == Lies::Old, ..begin };
                if want.same_name {
                    sight.new = sight.old;
                }
                let first = sight;
                let mut steps = Vec::new();
                loop {
                    let step = next(want, sight);
                    steps.push(step);
                    assert!(steps.len() < 8, "{want:?} {first:?}: {steps:?}");
                    if matches!(step, Step::Done | Step::Stop(_)) {
                        break;
                    }
                    let then = after(step, sight, want.same_name, true);
                    assert!(whole(then) > 0 || whole(sight) == 0, "{want:?} {first:?}: {steps:?}");
                    assert_eq!(strangers(then), strangers(sight), "{want:?} {first:?}: {steps:?}");
                    sight = then;
                    if want.same_name {
                        sight.new = sight.old;
                    }
                }
                if steps.last() == Some(&Step::Done) {
                    assert_eq!(if want.same_name { sight.old } else { sight.new }, Lies::New, "{first:?}: {steps:?}");
                }
            }
        }
    }

    #[test]
    fn undoing_keeps_both() {
        for (same_name, exchanges) in [(true, true), (true, false), (false, true)] {
            for begin in sights() {
                let mut sight = begin;
                if same_name {
                    (sight.new, sight.aside) = (Lies::Nothing, Lies::Nothing);
                }
                let all = |s: Sight| {
                    let mut all = [s.old, s.new, s.backup, s.temporary, s.aside];
                    all.sort_unstable();
                    all
                };
                let (first, mut steps) = (sight, 0);
                loop {
                    let step = undo(same_name, sight);
                    if matches!(step, Step::Done | Step::Stop(_)) {
                        break;
                    }
                    let then = after(step, sight, same_name, exchanges);
                    assert_eq!(all(then), all(sight), "{first:?}: {step:?} loses or doubles a file");
                    sight = then;
                    steps += 1;
                    assert!(steps < 5, "{first:?}");
                }
                if undo(same_name, sight) == Step::Done {
                    assert_eq!(sight.old, Lies::Old, "{first:?}");
                }
            }
        }
    }

    #[test]
    fn names_are_built_around_the_old_one() {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(text(temporary_name(b"a.mp3")), ".a.mp3.slskdn-new");
        assert_eq!(text(backup_name(b"a.mp3", 1)), "a.mp3.bak");
        assert_eq!(text(backup_name(b"a.mp3", 3)), "a.mp3.3.bak");
        assert_eq!(text(new_name(b"01 A. B.mp3", "flac", 1)), "01 A. B.flac");
        assert_eq!(text(new_name(b"a.mp3", "flac", 2)), "a (2).flac");
        assert_eq!(text(new_name(b".hidden", "flac", 1)), ".hidden.flac");
        assert!(keeps_name(b"a.FLAC", "flac") && !keeps_name(b"a.mp3", "flac") && !keeps_name(b"flac", "flac"));
        let long = "\u{e9}".repeat(127) + ".";
        for name in
            [temporary_name(long.as_bytes()), backup_name(long.as_bytes(), 12), new_name(&[b'x'; 255], "flac", 2)]
        {
            assert!(name.len() <= 255 && name.len() > 250);
            text(name);
        }
    }
}
