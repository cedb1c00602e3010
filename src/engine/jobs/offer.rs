//! Finds the tracks of a release in what users answer, and says whose files come first.
//!
//! A user's files are looked at album folder by album folder. Everything a user says is a claim: a length that does not
//! fit or a word that names another version excludes a file; the rest only ranks. What a file is, is measured later.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::TOLERANCE_MS;
use super::query::is_various;
use super::work::{Grade, Offer, OfferedFile};
use crate::engine::catalog::matching::normal;
use crate::engine::soulseek::names;
use crate::model::gossip::Badge;
use crate::model::id::Username;
use crate::model::job::{Constraints, JobTrack, MbRelease};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::variant::Codec;
use crate::model::view::{FileView, ResponseView};

/// Words that name another take than the title without them.
const OTHER_TAKES: [&str; 12] = [
    "live",
    "remix",
    "demo",
    "instrumental",
    "acoustic",
    "karaoke",
    "cover",
    "rehearsal",
    "radio",
    "acapella",
    "rmx",
    "bootleg",
];
/// Kilobits per second from which a lossy copy is called good.
const GOOD_KBPS: u32 = 256;
/// A user of less reputation comes last (SPEC-FACTS 14). Sources in the mesh have a threshold of their own to set.
const AVOIDED: u16 = 300;

/// What a file's name says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Named {
    medium: Option<u32>,
    position: Option<u32>,
    /// In the form in which titles are compared.
    title: String,
}

/// Names one file of one user among those that were tried.
pub fn file_key(user: &Username, path: &WireText) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(user.as_str().as_bytes()).update(&[0]).update(&path.to_wire());
    let hash = hasher.finalize();
    let (first, _) = hash.as_bytes().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*first)
}

/// The codec that an extension stands for; `None`: no audio that we can measure.
pub fn codec_of(extension: &str) -> Option<Codec> {
    Some(match extension {
        "flac" => Codec::Flac,
        "wav" | "wave" | "aif" | "aiff" | "aifc" => Codec::Wav,
        "mp3" => Codec::Mp3,
        // It may be ALAC, and what it is will be measured.
        "m4a" | "mp4" | "aac" | "caf" => Codec::Aac,
        "ogg" | "oga" => Codec::Vorbis,
        "opus" => Codec::Opus,
        _ => return None,
    })
}

fn split_folder(path: &str) -> (&str, &str) {
    let separator = if path.contains('\\') { '\\' } else { '/' };
    path.rsplit_once(separator).unwrap_or(("", path))
}

/// The medium that a folder's name stands for: `CD 2`, `Disc2`, `disk-02 (bonus)`.
fn medium_of(folder: &str) -> Option<u32> {
    let lower = folder.trim().to_lowercase();
    let rest = ["cd", "disc", "disk", "vinyl", "side"].iter().find_map(|word| lower.strip_prefix(word))?;
    let rest = rest.trim_start_matches([' ', '-', '_', '.', '#']);
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let number = digits.parse().ok().filter(|number| (1..=99).contains(number))?;
    rest[digits.len()..]
        .starts_with(|c: char| !c.is_alphanumeric())
        .then_some(number)
        .or((rest == digits).then_some(number))
}

/// Takes a number of at most three digits from the beginning.
fn number(text: &str) -> Option<(u32, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=3).contains(&digits) {
        return None;
    }
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

/// Reads `03 - Title`, `1-03 Title`, `103 Title`, `03. Artist - Title`, `Title`.
fn read_name(stem: &str, many_media: bool) -> Named {
    let stem = stem.trim();
    let mut named = Named::default();
    let mut rest = stem.trim_start_matches(['[', '(']);
    if let Some((first, after)) = number(rest) {
        let parted = after.strip_prefix(['-', '.', '_']).map(str::trim_start);
        match parted.and_then(number) {
            // `1-03`; but not `03 - 1999`, where a title begins with a number.
            Some((second, after))
                if first < 30
                    && second < 100
                    && !after.starts_with(|c: char| c.is_alphanumeric())
                    && after.len() < parted.map_or(0, str::len)
                    && parted.is_some_and(|text| text.starts_with('0') || many_media) =>
            {
                named.medium = Some(first);
                named.position = Some(second);
                rest = after;
            }
            _ if after.starts_with(|c: char| c.is_alphanumeric()) => {}
            _ if first >= 100 && many_media => {
                named.medium = Some(first / 100);
                named.position = Some(first % 100);
                rest = after;
            }
            _ => {
                named.position = Some(first);
                rest = after;
            }
        }
    }
    let rest = rest.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '(' && c != '!' && c != '?');
    named.title = if rest.is_empty() { normal(stem) } else { normal(rest) };
    named
}

fn is_run(of: &[&str], in_: &[&str]) -> bool {
    !of.is_empty() && in_.windows(of.len()).any(|window| window == of)
}

/// How well a name fits a title: 3 it is the title, 2 it ends with it, 1 it has it somewhere, 0 not at all.
fn likeness(named: &str, title: &str) -> u32 {
    if named == title {
        return 3;
    }
    let (have, want): (Vec<&str>, Vec<&str>) = (named.split(' ').collect(), title.split(' ').collect());
    if want.len() < have.len() && have.ends_with(&want) {
        return 2;
    }
    u32::from(is_run(&want, &have))
}

/// Whether a text names another take than the words of the release do.
fn is_other_take(named: &str, allowed: &BTreeSet<&str>) -> bool {
    named.split(' ').any(|word| OTHER_TAKES.contains(&word) && !allowed.contains(word))
}

/// How well a file fits a track; `None`: it is another.
fn points(
    spec: &MbRelease,
    track: &JobTrack,
    title: &str,
    (named, medium): (&Named, Option<u32>),
    file: &FileView,
    path: &str,
) -> Option<u32> {
    let length = match (file.attributes.duration_s, track.duration_ms) {
        // Whole seconds: what was cut off is no difference.
        (Some(claimed), Some(wanted)) => {
            let claimed_ms = u64::from(claimed).saturating_mul(1_000);
            if claimed_ms.abs_diff(wanted) > TOLERANCE_MS + 999 {
                return None;
            }
            true
        }
        _ => false,
    };
    let likeness = likeness(&named.title, title);
    let medium = medium.or(named.medium);
    let place = named.position == Some(track.position) && medium.is_none_or(|medium| medium == track.medium);
    let elsewhere = named.position.is_some_and(|position| position != track.position)
        || medium.is_some_and(|medium| medium != track.medium);
    let artist = if track.artist.is_empty() { &spec.artist } else { &track.artist };
    let by_artist = is_various(artist) || path.contains(&normal(artist));
    let of_album = path.contains(&normal(&spec.title));
    let fits = match likeness {
        // Not even its words: place, length and album must agree.
        0 => place && length && of_album,
        1 => length && (by_artist || of_album) && !elsewhere,
        _ => length || by_artist || of_album,
    };
    fits.then(|| {
        let bonus = |fits: bool| u32::from(fits);
        10 * likeness + 8 * bonus(length) + 6 * bonus(place) + 2 * bonus(by_artist) + bonus(of_album)
            - 5 * bonus(elsewhere && likeness >= 2)
    })
}

/// What a file claims to be. `None`: it is not wanted at all.
fn grade(codec: Codec, file: &FileView, badge: Option<Badge>, constraints: &Constraints) -> Option<Grade> {
    let preferred = constraints.preferred_codecs.contains(&codec);
    let claimed = match badge {
        Some(Badge::Canonical { .. }) if constraints.prefer_canonical && (codec.is_lossless() || preferred) => {
            Grade::Canonical
        }
        Some(Badge::LikelyTranscode) => Grade::Suspect,
        _ if preferred => Grade::Preferred,
        _ if codec.is_lossless() => Grade::Lossless,
        _ if file.attributes.bitrate_kbps.is_some_and(|kbps| kbps >= GOOD_KBPS) => Grade::GoodLossy,
        _ => Grade::Lossy,
    };
    let lossy = !codec.is_lossless() || claimed.is_lossy();
    (constraints.allow_lossy || !lossy).then_some(claimed)
}

/// What one user offers, album folder by album folder. `badges`: what is known of each file, in the order of
/// `response.files`.
pub fn offers_of(spec: &MbRelease, response: &ResponseView, badges: &[Option<Badge>], reputation: u16) -> Vec<Offer> {
    let titles: Vec<String> = spec.tracks.iter().map(|track| normal(&track.title)).collect();
    let album = normal(&spec.title);
    let words: BTreeSet<&str> = album.split(' ').chain(titles.iter().flat_map(|title| title.split(' '))).collect();
    let many_media = spec.tracks.iter().any(|track| track.medium > 1);
    let mut folders: BTreeMap<String, Vec<(u32, usize, usize)>> = BTreeMap::new();
    for (at, file) in response.files.iter().enumerate() {
        if codec_of(&names::extension(&file.name)).is_none() || file.size == 0 {
            continue;
        }
        let (folder, name) = split_folder(file.name.as_str());
        let (parent, last) = split_folder(folder);
        let medium = medium_of(last);
        let group = if medium.is_some() { parent } else { folder };
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let named = read_name(stem, many_media);
        let path = normal(file.name.as_str());
        if is_other_take(&named.title, &words) {
            continue;
        }
        let found = folders.entry(group.to_owned()).or_default();
        for (track, title) in spec.tracks.iter().zip(&titles).enumerate() {
            let (index, (track, title)) = (track, title);
            if let Some(points) = points(spec, track, title, (&named, medium), file, &path) {
                // A folder of a concert has the same titles.
                let concert = is_other_take(&normal(group), &words);
                found.push((points.saturating_sub(10 * u32::from(concert)), index, at));
            }
        }
    }
    let mut offers = Vec::new();
    for (folder, mut found) in folders {
        found.sort_by_key(|(points, track, file)| (Reverse(*points), *track, *file));
        let (mut tracks, mut files) = (BTreeSet::new(), BTreeSet::new());
        let mut chosen = Vec::new();
        for (_, track, at) in found {
            if tracks.contains(&track) || files.contains(&at) {
                continue;
            }
            let Some(file) = response.files.get(at) else { continue };
            let Some(codec) = codec_of(&names::extension(&file.name)) else { continue };
            let badge = badges.get(at).copied().flatten();
            let (Some(grade), Ok(index)) = (grade(codec, file, badge, &spec.constraints), u16::try_from(track)) else {
                continue;
            };
            tracks.insert(track);
            files.insert(at);
            chosen.push(OfferedFile { track: index, path: file.name.clone(), size: file.size, grade });
        }
        if !chosen.is_empty() {
            chosen.sort_by_key(|file| file.track);
            offers.push(Offer {
                user: response.user.clone(),
                folder,
                free_slot: response.free_slot,
                speed: response.upload_speed,
                queue: response.queue_length,
                reputation,
                in_doubt: false,
                files: chosen,
            });
        }
    }
    offers
}

/// Adds offers to those that are known. A folder that is known already is renewed; what is most is `limits::JOB_OFFERS`
/// folders and `limits::JOB_OFFERED_FILES` files, the worst go.
pub fn merge(known: &mut Vec<Offer>, more: Vec<Offer>) {
    for offer in more {
        let same = |old: &&mut Offer| old.user == offer.user && old.folder == offer.folder;
        match known.iter_mut().find(same) {
            Some(old) => {
                let in_doubt = old.in_doubt;
                let mut files = offer.files.clone();
                // Another query may have found other files of the folder.
                files.extend(
                    old.files.iter().filter(|file| !offer.files.iter().any(|new| new.track == file.track)).cloned(),
                );
                files.sort_by_key(|file| file.track);
                *old = Offer { in_doubt, files, ..offer };
            }
            None => known.push(offer),
        }
    }
    known.sort_by_cached_key(|offer| order(offer, offer.files.len(), middle_grade(offer, |_| true)));
    known.truncate(limits::JOB_OFFERS);
    let mut room = limits::JOB_OFFERED_FILES;
    known.retain(|offer| match room.checked_sub(offer.files.len()) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    });
}

/// The grade that most of the wanted files have, or better.
fn middle_grade(offer: &Offer, wanted: impl Fn(&OfferedFile) -> bool) -> Grade {
    let mut grades: Vec<Grade> = offer.files.iter().filter(|file| wanted(file)).map(|file| file.grade).collect();
    grades.sort_unstable();
    grades.get(grades.len() / 2).copied().unwrap_or(Grade::Suspect)
}

/// Sorts the best first: users that are not avoided, folders that kept their word, the better copies, the more complete
/// folder, a free slot, the better known user, the shorter queue, the quicker user. Ties break on names.
type Order = (bool, bool, Grade, Reverse<usize>, bool, Reverse<u16>, u32, Reverse<u32>, String, String);

fn order(offer: &Offer, covered: usize, grade: Grade) -> Order {
    (
        offer.reputation < AVOIDED,
        offer.in_doubt,
        grade,
        Reverse(covered),
        !offer.free_slot,
        Reverse(offer.reputation / 50),
        offer.queue,
        Reverse(offer.speed),
        offer.user.as_str().to_owned(),
        offer.folder.clone(),
    )
}

/// A file that is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Index of the offer.
    pub offer: usize,
    /// Index of the file in it.
    pub file: usize,
}

/// Whom to ask for which of the wanted tracks: as few folders as will do, the best first. `open` says whether a file
/// may be asked for.
pub fn choose(offers: &[Offer], wanted: &BTreeSet<u16>, open: impl Fn(&Offer, &OfferedFile) -> bool) -> Vec<Chosen> {
    let mut left = wanted.clone();
    let mut chosen = Vec::new();
    while !left.is_empty() {
        let candidates = offers.iter().enumerate().filter_map(|(at, offer)| {
            let fits = |file: &OfferedFile| left.contains(&file.track) && open(offer, file);
            let covered = offer.files.iter().filter(|file| fits(file)).count();
            (covered > 0).then(|| (order(offer, covered, middle_grade(offer, fits)), at))
        });
        let Some((_, at)) = candidates.min() else { break };
        let Some(offer) = offers.get(at) else { break };
        for (index, file) in offer.files.iter().enumerate() {
            if left.contains(&file.track) && open(offer, file) {
                left.remove(&file.track);
                chosen.push(Chosen { offer: at, file: index });
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let check = |stem: &str, many: bool, medium: Option<u32>, position: Option<u32>, title: &str| {
            let expected = Named { medium, position, title: title.to_owned() };
            assert_eq!(read_name(stem, many), expected, "{stem}");
        };
        check("03 - Some Title", false, None, Some(3), "some title");
        check("03. Some Title", false, None, Some(3), "some title");
        check("1-03 Some Title", true, Some(1), Some(3), "some title");
        check("1-03 Some Title", false, Some(1), Some(3), "some title");
        check("2.11 - Some Title", true, Some(2), Some(11), "some title");
        check("203 Some Title", true, Some(2), Some(3), "some title");
        check("(03) Some Title", false, None, Some(3), "some title");
        check("Some Title", false, None, None, "some title");
        check("1999", false, None, None, "1999");
        check("99 Luftballons", false, None, Some(99), "luftballons");
        check("07", false, None, Some(7), "07");
        check("4th of July", false, None, None, "4th of july");
        check("03 - 1979", false, None, Some(3), "1979");
    }

    #[test]
    fn media_are_folders() {
        for (folder, medium) in [
            ("CD1", Some(1)),
            ("cd 02", Some(2)),
            ("Disc 3", Some(3)),
            ("disc-1 (bonus)", Some(1)),
            ("CDs", None),
            ("Discography", None),
            ("CD", None),
            ("2001", None),
        ] {
            assert_eq!(medium_of(folder), medium, "{folder}");
        }
    }
}
