//! Updates that are cut at every step, and updates that are none.

use std::collections::BTreeMap;
use std::io::Cursor;

use super::super::signify::tests::Signer;
use super::*;
use crate::engine::appliance::slots::TRIES;

fn sha(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&SHA256, bytes);
    hash.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A bundle as `image/bundle` makes it.
struct Made {
    manifest: String,
    files: Vec<(String, Vec<u8>)>,
}

impl Made {
    fn new(version: &str, signer: &Signer) -> Self {
        let root: Vec<u8> = (0..700_000_u32).map(|at| (at % 251) as u8 ^ version.as_bytes()[2]).collect();
        let slot = format!("version={version}\nroot_bytes={}\nroot_sha256={}\n", root.len(), sha(&root)).into_bytes();
        let files = vec![
            ("root".to_owned(), root),
            ("Image".to_owned(), vec![7; 300_000]),
            ("initrd".to_owned(), vec![8; 10]),
            ("dtbs/board.dtb".to_owned(), vec![9; 1000]),
            ("slot".to_owned(), slot.clone()),
            ("slot.sig".to_owned(), signer.sign(&slot)),
        ];
        let mut made = Self { manifest: String::new(), files };
        made.manifest = made.list(version);
        made
    }

    fn list(&self, version: &str) -> String {
        let mut out = format!("product=slskdn\nversion={version}\nboards=test\n");
        for (name, bytes) in &self.files {
            out.push_str(&format!("file={name} {} {}\n", bytes.len(), sha(bytes)));
        }
        out
    }

    fn bytes(&self, signer: &Signer) -> Vec<u8> {
        let signature = signer.sign(self.manifest.as_bytes());
        let mut out = format!("slskdn-update 1 {:08} {:08}\n", self.manifest.len(), signature.len()).into_bytes();
        out.extend_from_slice(self.manifest.as_bytes());
        out.extend_from_slice(&signature);
        for (_, bytes) in &self.files {
            out.extend_from_slice(bytes);
        }
        out
    }
}

/// A card whose power is cut after so many writes. What was written and not settled may be there, in part, or not.
#[derive(Clone, Default)]
struct Card {
    copies: [Vec<u8>; 2],
    parts: BTreeMap<(Slot, String), Vec<u8>>,
    unsettled: Vec<(Slot, String, u64, Vec<u8>)>,
    noted: Option<String>,
    writes: usize,
    cut_at: Option<usize>,
    seed: u32,
}

impl Card {
    /// Slot A holds a system.
    fn with(made: &Made) -> Self {
        let mut card = Self::default();
        for (name, bytes) in &made.files {
            card.parts.insert((Slot::A, name.clone()), bytes.clone());
        }
        let slots = Slots::default().alone(Slot::A).encode().to_vec();
        card.copies = [slots.clone(), slots];
        card
    }

    fn dice(&mut self, sides: usize) -> usize {
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.seed >> 8) as usize % sides
    }

    fn put(&mut self, slot: Slot, part: &str, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap();
        let held = self.parts.entry((slot, part.to_owned())).or_default();
        held.resize(held.len().max(at + bytes.len()), 0);
        held[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Whether the power is cut in this write; what waits is then kept or lost by chance.
    fn power(&mut self) -> io::Result<()> {
        self.writes += 1;
        if self.cut_at != Some(self.writes) {
            return Ok(());
        }
        for (slot, part, at, bytes) in std::mem::take(&mut self.unsettled) {
            let length = self.dice(bytes.len() + 1);
            if self.dice(3) > 0 {
                self.put(slot, &part, at, &bytes[..length]);
            }
        }
        Err(io::Error::other("the power is cut"))
    }

    /// What the start program finds in a slot.
    fn starts(&self, slot: Slot, key: &PublicKey) -> Option<String> {
        let part = |name: &str| self.parts.get(&(slot, name.to_owned()));
        let about = part("slot")?;
        key.check(about, part("slot.sig")?).ok()?;
        let about = SlotFile::parse(about)?;
        let root = part("root")?.get(..usize::try_from(about.root_bytes).ok()?)?;
        let kernel = part("Image")?;
        let whole = bundle::hex(&sha(root)) == Some(about.root_sha256) && *kernel == vec![7; 300_000];
        whole.then(|| about.version.text().to_owned())
    }

    /// Starts the box until a system runs; says which, and how many starts it took.
    fn boot(&mut self, key: &PublicKey) -> (String, usize) {
        for start in 1..=8 {
            let (slot, after) = read_slots(self).map(|slots| slots.start()).unwrap();
            self.copies = [after.encode().to_vec(), after.encode().to_vec()];
            if let Some(version) = self.starts(slot, key) {
                return (version, start);
            }
        }
        panic!("no slot starts");
    }
}

impl Media for Card {
    fn slots(&mut self) -> io::Result<[Vec<u8>; 2]> {
        Ok(self.copies.clone())
    }

    fn write_slots(&mut self, copy: usize, bytes: &[u8; COPY_LEN]) -> io::Result<()> {
        if let Err(cut) = self.power() {
            // Torn anywhere, though a card writes a sector at a time.
            let length = self.dice(COPY_LEN + 1);
            self.copies[copy].resize(COPY_LEN, 0);
            self.copies[copy][..length].copy_from_slice(&bytes[..length]);
            return Err(cut);
        }
        self.copies[copy] = bytes.to_vec();
        Ok(())
    }

    fn clear(&mut self, slot: Slot) -> io::Result<()> {
        let mut names: Vec<String> = self.parts.keys().filter(|key| key.0 == slot).map(|key| key.1.clone()).collect();
        names.retain(|name| name != ROOT);
        names.sort_by_key(|name| name != "slot");
        for name in names {
            self.power()?;
            self.parts.remove(&(slot, name));
        }
        Ok(())
    }

    fn room(&mut self, _: Slot) -> io::Result<(u64, u64)> {
        Ok((1_000_000, 10_000_000))
    }

    fn write(&mut self, slot: Slot, part: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.unsettled.push((slot, part.to_owned(), at, bytes.to_vec()));
        self.power()
    }

    fn settle(&mut self, _: Slot, _: &str) -> io::Result<()> {
        self.power()?;
        for (slot, part, at, bytes) in std::mem::take(&mut self.unsettled) {
            self.put(slot, &part, at, &bytes);
        }
        Ok(())
    }

    fn read(&mut self, slot: Slot, part: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let held = self.parts.get(&(slot, part.to_owned())).ok_or(io::ErrorKind::NotFound)?;
        let rest = held.get(usize::try_from(at).unwrap()..).unwrap_or_default();
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn note(&mut self, _: Slot, version: &str) -> io::Result<()> {
        self.power()?;
        self.noted = Some(version.to_owned());
        Ok(())
    }
}

struct World {
    signer: Signer,
    key: PublicKey,
    card: Card,
    bundle: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let signer = Signer::new(1);
        let key = PublicKey::parse(&signer.public()).unwrap();
        let card = Card::with(&Made::new("0.1.0", &signer));
        let bundle = Made::new("0.2.0", &signer).bytes(&signer);
        Self { signer, key, card, bundle }
    }

    fn install(&self, card: &mut Card, running: Slot) -> Result<Manifest, InstallError> {
        unlooked(card, running, &self.bundle, &self.key)
    }
}

/// Installs what is there, whatever it is.
fn unlooked(card: &mut impl Media, running: Slot, bundle: &[u8], key: &PublicKey) -> Result<Manifest, InstallError> {
    let mut bundle = Cursor::new(bundle);
    let manifest = open(&mut bundle, key)?;
    install(card, running, &mut bundle, key, &manifest, &mut |_, _, _| {})?;
    Ok(manifest)
}

#[test]
fn an_update_is_started_once_and_stays_when_it_is_found_good() {
    let world = World::new();
    assert!(verify(&mut Cursor::new(&world.bundle), &world.key, &mut |_, _, _| {}).is_ok());
    let mut card = world.card.clone();
    assert_eq!(world.install(&mut card, Slot::A).unwrap().version.text(), "0.2.0");
    assert_eq!(card.noted.as_deref(), Some("0.2.0"));
    assert_eq!(card.boot(&world.key), ("0.2.0".to_owned(), 1));
    // Not found good: the old one at the very next start, and from then on.
    let mut unhealthy = card.clone();
    for _ in 0..5 {
        assert_eq!(unhealthy.boot(&world.key), ("0.1.0".to_owned(), 1));
        let slots = read_slots(&mut unhealthy).unwrap().good(Slot::A);
        write_slots(&mut unhealthy, slots).unwrap();
    }
    let slots = read_slots(&mut card).unwrap().good(Slot::B);
    write_slots(&mut card, slots).unwrap();
    assert_eq!(read_slots(&mut card).unwrap().left(Slot::B), TRIES);
    assert_eq!(card.boot(&world.key), ("0.2.0".to_owned(), 1));
    // And back the other way.
    assert!(world.install(&mut card, Slot::B).is_ok());
    assert_eq!(read_slots(&mut card).unwrap().first, Slot::A);
}

#[test]
fn the_power_may_be_cut_at_every_step() {
    let world = World::new();
    let mut whole = world.card.clone();
    world.install(&mut whole, Slot::A).unwrap();
    let steps = whole.writes;
    assert!(steps >= 20, "{steps}");
    let (mut old, mut new) = (0, 0);
    for seed in 0..40 {
        for cut_at in 1..=steps {
            let mut card = Card { cut_at: Some(cut_at), seed, ..world.card.clone() };
            assert!(world.install(&mut card, Slot::A).is_err());
            // The slot that is named first is whole: no start is lost.
            match card.boot(&world.key) {
                (version, 1) if version == "0.1.0" => old += 1,
                (version, 1) if version == "0.2.0" => {
                    new += 1;
                    assert_eq!(card.noted.as_deref(), Some("0.2.0"), "what is tried was noted before");
                    assert_eq!(card.boot(&world.key).0, "0.1.0", "tried once");
                }
                other => panic!("cut at {cut_at} of {steps}, seed {seed}: {other:?}"),
            }
            // And the update can be asked for again.
            let mut again = Card { cut_at: None, unsettled: Vec::new(), ..card };
            assert!(world.install(&mut again, Slot::A).is_ok());
            assert_eq!(again.boot(&world.key), ("0.2.0".to_owned(), 1));
        }
    }
    assert!(old > 100 && new > 0, "{old} {new}");
}

#[test]
fn the_second_cut_of_an_update_that_follows_a_first_one() {
    // Slot B holds a system of its own: it must not be started while half of it is overwritten.
    let world = World::new();
    let mut card = world.card.clone();
    world.install(&mut card, Slot::A).unwrap();
    let slots = read_slots(&mut card).unwrap().good(Slot::B);
    write_slots(&mut card, slots).unwrap();
    card.writes = 0;
    let mut whole = card.clone();
    world.install(&mut whole, Slot::B).unwrap();
    for cut_at in 1..=whole.writes {
        let mut cut = Card { cut_at: Some(cut_at), seed: 3, ..card.clone() };
        assert!(world.install(&mut cut, Slot::B).is_err());
        assert_eq!(cut.boot(&world.key).1, 1, "cut at {cut_at}");
    }
}

#[test]
fn a_card_that_forgets_is_noticed() {
    struct Worn(Card);
    impl Media for Worn {
        fn slots(&mut self) -> io::Result<[Vec<u8>; 2]> {
            self.0.slots()
        }
        fn write_slots(&mut self, copy: usize, bytes: &[u8; COPY_LEN]) -> io::Result<()> {
            self.0.write_slots(copy, bytes)
        }
        fn clear(&mut self, slot: Slot) -> io::Result<()> {
            self.0.clear(slot)
        }
        fn room(&mut self, slot: Slot) -> io::Result<(u64, u64)> {
            self.0.room(slot)
        }
        fn write(&mut self, slot: Slot, part: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
            self.0.write(slot, part, at, bytes)
        }
        fn settle(&mut self, slot: Slot, part: &str) -> io::Result<()> {
            self.0.settle(slot, part)?;
            if part == "Image" {
                self.0.put(slot, part, 1234, b"x");
            }
            Ok(())
        }
        fn read(&mut self, slot: Slot, part: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
            self.0.read(slot, part, at, into)
        }
        fn note(&mut self, slot: Slot, version: &str) -> io::Result<()> {
            self.0.note(slot, version)
        }
    }
    let world = World::new();
    let mut worn = Worn(world.card.clone());
    let outcome = unlooked(&mut worn, Slot::A, &world.bundle, &world.key);
    assert!(matches!(outcome, Err(InstallError::ReadBack(name)) if name == "Image"));
    assert_eq!(worn.0.boot(&world.key), ("0.1.0".to_owned(), 1));
}

#[test]
fn malformed_bundles_are_refused_and_touch_nothing() {
    let world = World::new();
    let mut refused = 0;
    let mut check = |what: &str, bytes: &[u8]| {
        let outcome = verify(&mut Cursor::new(bytes), &world.key, &mut |_, _, _| {});
        assert!(outcome.is_err(), "{what}");
        // The same one without that look: nothing of it is ever started.
        let mut card = world.card.clone();
        let outcome = unlooked(&mut card, Slot::A, bytes, &world.key);
        assert!(outcome.is_err() || what.starts_with("slot"), "{what}");
        assert_eq!(card.boot(&world.key).0, "0.1.0", "{what}");
        refused += 1;
    };
    let good = &world.bundle;
    let head = HEAD_LEN;
    let before = good.len() - Made::new("0.2.0", &world.signer).files.iter().map(|file| file.1.len()).sum::<usize>();
    // Cut short, at every place of the head and here and there behind it; or longer.
    for at in (0..head).chain((head..good.len()).step_by(good.len() / 60)) {
        check("cut", &good[..at]);
    }
    check("longer", &[good.as_slice(), b"x"].concat());
    // A changed byte: in head, manifest, signature, and files.
    let signature_comment = before - 104 - 40..before;
    for at in (0..before).step_by(9).chain((before..good.len()).step_by(good.len() / 40)) {
        let mut wrong = good.clone();
        wrong[at] ^= 4;
        // The comment line of a signature is not signed, and says nothing.
        if !signature_comment.contains(&at) {
            check("changed", &wrong);
        }
    }
    // Signed by somebody else; signed by nobody.
    let stranger = Signer::new(9);
    check("stranger", &Made::new("0.2.0", &stranger).bytes(&stranger));
    check("manifest by a stranger", &Made::new("0.2.0", &world.signer).bytes(&stranger));
    check("slot by a stranger", &Made::new("0.2.0", &stranger).bytes(&world.signer));
    // Signed rightly, and wrong all the same.
    let mut lies = Made::new("0.2.0", &world.signer);
    for (from, to) in [
        ("product=slskdn", "product=other"),
        ("file=Image", "file=../../Image"),
        ("file=Image", "file=/dev/sda"),
        ("file=root", "file=Image"),
        ("version=0.2.0", "version=../"),
        ("file=initrd 10 ", "file=initrd 11 "),
        ("file=initrd 10 ", "file=initrd 99999999999999 "),
        ("boards=test\n", ""),
    ] {
        let honest = lies.manifest.clone();
        lies.manifest = honest.replacen(from, to, 1);
        assert_ne!(lies.manifest, honest);
        check(to, &lies.bytes(&world.signer));
        lies.manifest = honest;
    }
    // `slot` of another version, and of another root.
    for (from, to) in [("version=0.2.0", "version=0.2.1"), ("root_bytes=7", "root_bytes=6")] {
        let mut other = Made::new("0.2.0", &world.signer);
        let slot = String::from_utf8(other.files[4].1.clone()).unwrap().replacen(from, to, 1).into_bytes();
        other.files[5].1 = world.signer.sign(&slot);
        other.files[4].1 = slot;
        other.manifest = other.list("0.2.0");
        let outcome = verify(&mut Cursor::new(other.bytes(&world.signer)), &world.key, &mut |_, _, _| {});
        assert!(matches!(outcome, Err(InstallError::Slot)), "{to}");
        refused += 1;
    }
    assert!(refused >= 200, "{refused}");
}

#[test]
fn another_update_in_its_place_is_not_installed() {
    let world = World::new();
    let seen = verify(&mut Cursor::new(&world.bundle), &world.key, &mut |_, _, _| {}).unwrap();
    let older = Made::new("0.0.9", &world.signer).bytes(&world.signer);
    let mut card = world.card.clone();
    let outcome = install(&mut card, Slot::A, &mut Cursor::new(older), &world.key, &seen, &mut |_, _, _| {});
    assert!(matches!(outcome, Err(InstallError::Changed)));
    assert_eq!(card.writes, 0);
}

#[test]
fn a_slot_that_is_too_small_is_not_touched() {
    let world = World::new();
    let mut made = Made::new("0.2.0", &world.signer);
    made.files[0].1.resize(1_000_001, 1);
    made.manifest = made.list("0.2.0");
    let mut card = world.card.clone();
    let bytes = made.bytes(&world.signer);
    let outcome = unlooked(&mut card, Slot::A, &bytes, &world.key);
    assert!(matches!(outcome, Err(InstallError::Room { .. })));
    assert_eq!(card.writes, 0);
}
