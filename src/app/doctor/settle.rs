//! Looks at recordings and releases as a whole, once their files are known, and asks the catalogue about what is not.
//!
//! What is to be done is a table; an entry leaves it in the commit that records what was found. What the catalogue
//! could not be asked stays in the table under another name and is taken up again by [`Settler::catch_up`].

use std::collections::BTreeMap;

use super::scan::{Reins, file_issues};
use super::{DoctorError, Fact, Ground};
use crate::engine::library::album;
use crate::engine::library::consensus::consensus;
use crate::engine::library::detect::{self, Copy, Present, Release};
use crate::engine::library::statistics::of_copies;
use crate::engine::library::{COPY_KINDS, RELEASE_FILE_KINDS};
use crate::model::health::{FileOutcome, IssueKind, LocalPath, Variant};
use crate::model::id::ContentHash;
use crate::model::limits;
use crate::store::library::{Carry, Settled, Todo, TodoKind};

/// Entries taken at once.
const AT_ONCE: usize = 64;

/// Works the table off.
pub struct Settler<'g> {
    ground: &'g Ground,
    reins: &'g Reins,
    offline: bool,
}

impl<'g> Settler<'g> {
    /// For this ground. Offline, the catalogue answers from what it keeps.
    pub fn new(ground: &'g Ground, reins: &'g Reins, offline: bool) -> Self {
        Self { ground, reins, offline }
    }

    /// Everything that waited for the catalogue, then all that follows from it.
    pub fn catch_up(&self) -> Result<u64, DoctorError> {
        if self.ground.catalogue.can_identify() {
            self.identify()?;
        }
        for (kind, again) in [
            (TodoKind::AskRecording, Todo::Recording as fn(u128) -> Todo),
            (TodoKind::AskRelease, Todo::Release as fn(u128) -> Todo),
        ] {
            self.each(kind, |todo| {
                let (Todo::AskRecording(id) | Todo::AskRelease(id)) = todo else { return Ok(Settled::default()) };
                Ok(Settled { done: vec![todo], todo: vec![again(id)], ..Settled::default() })
            })?;
        }
        Ok(self.recordings()? + self.releases()?)
    }

    /// Asks the catalogue about copies whose recording is not known.
    pub fn identify(&self) -> Result<(), DoctorError> {
        self.each(TodoKind::Identify, |todo| {
            let Todo::Identify(hash) = todo else { return Ok(Settled::default()) };
            let Some(mut variant) = self.ground.store.read(|txn, tables| tables.library.variant(txn, hash))? else {
                return Ok(Settled { done: vec![todo], ..Settled::default() });
            };
            let identity = self.ground.catalogue.identify(&variant, self.offline);
            if identity == variant.identity {
                return Ok(Settled::default());
            }
            variant.identity = identity;
            self.known(variant)?;
            Ok(Settled::default())
        })
    }

    /// Writes what became known about a copy, and the issues of its files that follow.
    fn known(&self, variant: Variant) -> Result<(), DoctorError> {
        let now = self.ground.clock.now().wall;
        let issues: Vec<_> = variant.paths.iter().flat_map(|path| file_issues(&variant, path, now)).collect();
        let judged = [IssueKind::SuspectedTranscode, IssueKind::MissingMetadata];
        Ok(self
            .ground
            .store
            .write_blocking(move |txn, tables| tables.library.put_known(txn, &variant, &issues, &judged, now))?)
    }

    /// Statistics of changed recordings, and the issues that come of comparing their copies. Answers how many.
    pub fn recordings(&self) -> Result<u64, DoctorError> {
        let mut found = 0;
        // Twice: a merged recording leaves one to be looked at that may come before it.
        for _ in 0..2 {
            self.each(TodoKind::Recording, |todo| {
                let Todo::Recording(id) = todo else { return Ok(Settled::default()) };
                let settled = self.recording(id)?;
                found += settled.issues.len() as u64;
                Ok(settled)
            })?;
        }
        Ok(found)
    }

    fn recording(&self, id: u128) -> Result<Settled, DoctorError> {
        let now = self.ground.clock.now().wall;
        let (variants, told) = self
            .ground
            .store
            .read(|txn, tables| Ok((tables.library.variants_of(txn, id)?, tables.gossip.words_on(txn, id)?)))?;
        let mut settled = Settled { done: vec![Todo::Recording(id)], ..Settled::default() };
        let all: Vec<&Variant> = variants.iter().collect();
        let mut profiles: BTreeMap<String, Vec<&Variant>> = BTreeMap::new();
        for variant in &all {
            profiles.entry(variant.profile()).or_default().push(variant);
        }
        for claim in told.iter().flat_map(|(_, told)| &told.claims) {
            profiles.entry(claim.profile()).or_default();
        }
        let statistics = profiles.iter().filter_map(|(profile, copies)| of_copies(id, profile, copies, &told, now));
        settled.canonical = Some((id, statistics.collect()));
        settled.consensus = Some((id, consensus(id, &all, &told, now)));
        let fact = if all.is_empty() { Fact::Unknown } else { self.ground.catalogue.recording(id, self.offline) };
        let duration_ms = match fact {
            Fact::Known(facts) if facts.id != id => {
                // Merged: its copies are copies of the one that stands, and are looked at under its id.
                for mut variant in variants {
                    variant.identity.recording_id = Some(facts.id);
                    self.known(variant)?;
                }
                // Said again here: the one that stands may be in this very page, settled as it was before.
                settled.todo.push(Todo::Recording(facts.id));
                return Ok(Settled { canonical: Some((id, Vec::new())), consensus: Some((id, None)), ..settled });
            }
            Fact::Known(facts) => facts.duration_ms,
            Fact::Unknown => None,
            Fact::Later => {
                settled.todo.push(Todo::AskRecording(id));
                None
            }
        };
        let copies: Vec<Copy<'_>> = variants
            .iter()
            .flat_map(|variant| variant.paths.iter().map(move |path| Copy { path, variant, now }))
            .collect();
        let thresholds = &self.ground.thresholds;
        if let Some(best) = detect::best_of(&all) {
            settled.issues.extend(copies.iter().filter_map(|c| detect::non_canonical_variant(c, best, thresholds)));
        }
        settled.issues.extend(copies.iter().filter_map(|c| detect::wrong_duration(c, duration_ms, thresholds)));
        settled.issues.extend(detect::multiple_variants(id, &copies));
        for copy in &copies {
            settled.judged.extend(COPY_KINDS.map(|kind| (kind, Carry::File(copy.path.clone()))));
        }
        settled.judged.push((IssueKind::MultipleVariants, Carry::Recording(id)));
        Ok(settled)
    }

    /// Completeness of changed releases, and tracks that are none of theirs. Answers how many issues.
    pub fn releases(&self) -> Result<u64, DoctorError> {
        let mut found = 0;
        self.each(TodoKind::Release, |todo| {
            let Todo::Release(id) = todo else { return Ok(Settled::default()) };
            let settled = match self.ground.catalogue.release(id, self.offline) {
                Fact::Known(release) => self.release(id, &release)?,
                Fact::Unknown => Settled { done: vec![todo], ..Settled::default() },
                Fact::Later => Settled { done: vec![todo], todo: vec![Todo::AskRelease(id)], ..Settled::default() },
            };
            found += settled.issues.len() as u64;
            Ok(settled)
        })?;
        Ok(found)
    }

    fn release(&self, id: u128, release: &Release) -> Result<Settled, DoctorError> {
        let now = self.ground.clock.now().wall;
        let mut settled = Settled { done: vec![Todo::Release(id)], ..Settled::default() };
        let (variants, present) = self.ground.store.read(|txn, tables| {
            let library = &tables.library;
            let read = |hash: ContentHash| library.bare_variant(txn, hash);
            let hashes = library.release_variants(txn, id, limits::RELEASE_FILES)?;
            let variants: Vec<Variant> =
                hashes.into_iter().map(read).filter_map(Result::transpose).collect::<Result<_, _>>()?;
            let mut folders: Vec<Vec<u8>> =
                variants.iter().flat_map(|v| &v.paths).map(|path| album::folder(path).to_vec()).collect();
            folders.sort();
            folders.dedup();
            let mut present: Vec<Present> = Vec::new();
            for folder in folders {
                for row in library.files_in(txn, &folder, None, limits::RELEASE_FILES)? {
                    // Files of other albums below this one are not of this one.
                    if album::folder(&row.path) != folder.as_slice() {
                        continue;
                    }
                    let FileOutcome::Measured(hash) = row.outcome else { continue };
                    let Some(variant) = read(hash)? else { continue };
                    present.push(present_of(&variant, row.path));
                }
            }
            Ok((variants, present))
        })?;
        // Asked for by an id that was merged: the release stands for the tagged one.
        let release = Release { id, ..release.clone() };
        for variant in &variants {
            for path in &variant.paths {
                let copy = Copy { path, variant, now };
                settled.issues.extend(detect::track_not_in_tagged_release(&copy, &release));
                settled.judged.extend(RELEASE_FILE_KINDS.map(|kind| (kind, Carry::File(path.clone()))));
            }
        }
        if !release.tracks.is_empty() {
            settled.issues.extend(detect::missing_track_in_release(&release, &present, now));
        }
        settled.judged.push((IssueKind::MissingTrackInRelease, Carry::Release(id)));
        Ok(settled)
    }

    /// Takes every entry of a kind once; each is settled in a commit of its own with what is left of it.
    fn each(
        &self,
        kind: TodoKind,
        mut one: impl FnMut(Todo) -> Result<Settled, DoctorError>,
    ) -> Result<(), DoctorError> {
        let mut after = None;
        loop {
            let todo = self.ground.store.read(|txn, tables| tables.library.todo(txn, kind, after, AT_ONCE))?;
            let Some(last) = todo.last() else { return Ok(()) };
            after = Some(*last);
            let mut settled = Vec::with_capacity(todo.len());
            for entry in todo {
                if self.reins.must_stop() {
                    return Err(DoctorError::Stopped);
                }
                let one = one(entry)?;
                if one != Settled::default() {
                    settled.push(one);
                }
            }
            let now = self.ground.clock.now().wall;
            self.ground.store.write_blocking(move |txn, tables| {
                settled.iter().try_for_each(|settled| {
                    tables.library.settle(txn, settled, now)?;
                    let Some((id, consensus)) = &settled.consensus else { return Ok(()) };
                    tables.gossip.put_consensus(txn, *id, consensus.as_ref())
                })
            })?;
        }
    }
}

fn present_of(variant: &Variant, path: LocalPath) -> Present {
    let tags = &variant.measured.tags;
    Present {
        path,
        recording_id: variant.identity.recording_id,
        disc: tags.disc,
        position: tags.track,
        duration_ms: variant.measured.duration_ms,
    }
}

/// Judges every copy anew by the rules of now, from what was measured. With `force` also those judged by them already.
/// Answers how many changed. Statistics and issues follow.
pub fn rejudge(ground: &Ground, reins: &Reins, force: bool) -> Result<u64, DoctorError> {
    let mut after: Option<Vec<u8>> = None;
    let mut changed = 0;
    let settler = Settler::new(ground, reins, true);
    loop {
        if reins.must_stop() {
            return Err(DoctorError::Stopped);
        }
        let from = after.clone();
        let page = ground.store.read(|txn, tables| tables.library.variants_after(txn, from.as_deref(), AT_ONCE))?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (_, mut variant) in page {
            if !force && variant.judged.analyzer == ground.judge.version() {
                continue;
            }
            let judged = ground.judge.judge(&variant.measured);
            if judged != variant.judged {
                variant.judged = judged;
                changed += 1;
                settler.known(variant)?;
            }
        }
    }
    settler.recordings()?;
    settler.releases()?;
    Ok(changed)
}

/// Computes the statistics of every recording anew.
pub fn recount(ground: &Ground, reins: &Reins) -> Result<(), DoctorError> {
    let mut after = None;
    loop {
        if reins.must_stop() {
            return Err(DoctorError::Stopped);
        }
        let from = after;
        let page = ground.store.read(|txn, tables| tables.library.recordings_after(txn, from, limits::PAGE_ROWS))?;
        let Some(last) = page.last() else { break };
        after = Some(*last);
        ground.store.write_blocking(move |txn, tables| {
            page.iter().try_for_each(|id| tables.library.put_todo(txn, Todo::Recording(*id)))
        })?;
    }
    Settler::new(ground, reins, true).recordings()?;
    Ok(())
}
