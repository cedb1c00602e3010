//! Issues: one row each, in the order of the page; and what they sum up to.

use std::collections::BTreeMap;

use heed::{RoTxn, RwTxn};

use super::{LibraryTables, owned};
use crate::engine::library::merge::{carry_over, merge};
use crate::engine::library::score::health;
use crate::engine::library::{About, all_file_kinds, issue_id};
use crate::model::health::{
    HealthSummary, Issue, IssueFilter, IssueGroup, IssueKind, IssueStatus, LocalPath, Severity,
};
use crate::model::id::IssueId;
use crate::model::limits;
use crate::model::time::UnixMs;
use crate::store::StoreError;
use crate::store::records::{decode, get, put};

/// Length of [`issue_key`].
const ISSUE_KEY_LEN: usize = 27;
/// Groups of one list at most; the largest are told.
const GROUPS: usize = 1_000;

/// Status, severity (worst first), kind, 8 bytes of the path's hash, id.
fn issue_key(issue: &Issue) -> [u8; ISSUE_KEY_LEN] {
    let mut key = [0; ISSUE_KEY_LEN];
    key[0] = issue.status as u8;
    key[1] = severity_byte(issue.severity);
    key[2] = issue.kind.number();
    key[3..11].copy_from_slice(&blake3::hash(&issue.path.0).as_bytes()[..8]);
    key[11..].copy_from_slice(&issue.id.0.to_be_bytes());
    key
}

fn severity_byte(severity: Severity) -> u8 {
    u8::MAX - severity as u8
}

fn id_key(id: IssueId) -> [u8; 16] {
    id.0.to_be_bytes()
}

impl LibraryTables {
    /// One issue.
    pub fn issue(&self, txn: &RoTxn<'_>, id: IssueId) -> Result<Option<Issue>, StoreError> {
        let Some(key) = self.issue_keys.get(txn, &id_key(id))? else { return Ok(None) };
        get(self.issues, txn, key)
    }

    /// Issues that pass a filter, worst first within each status, and how many there are in all.
    pub fn issues(&self, txn: &RoTxn<'_>, filter: &IssueFilter) -> Result<(Vec<Issue>, usize), StoreError> {
        let limit = filter.limit.min(limits::PAGE_ROWS);
        let (mut rows, mut total) = (Vec::new(), 0_usize);
        for prefix in ranges(filter) {
            for entry in self.issues.prefix_iter(txn, &prefix)? {
                let (key, value) = entry?;
                if !filter.kinds.is_empty() && !filter.kinds.iter().any(|kind| key.get(2) == Some(&kind.number())) {
                    continue;
                }
                let wanted = total >= filter.offset && rows.len() < limit;
                // Only wanted rows are decoded, unless something in them has to be looked at.
                let by_content = filter.release_id.is_some() || filter.artist.is_some() || filter.path.is_some();
                if wanted || by_content {
                    let issue: Issue = decode(value)?;
                    if !passes(&issue, filter) {
                        continue;
                    }
                    if wanted {
                        rows.push(issue);
                    }
                }
                total += 1;
            }
        }
        Ok((rows, total))
    }

    /// Counts and score of the whole collection or of a folder.
    pub fn summary(&self, txn: &RoTxn<'_>, folder: Option<&LocalPath>) -> Result<HealthSummary, StoreError> {
        let mut summary = HealthSummary { files: self.file_count(txn, folder)?, ..HealthSummary::default() };
        for status in IssueStatus::ALL.into_iter().filter(|status| status.is_open()) {
            for entry in self.issues.prefix_iter(txn, &[status as u8])? {
                let (key, value) = entry?;
                if let Some(folder) = folder
                    && !decode::<Issue>(value)?.path.is_within(&folder.0)
                {
                    continue;
                }
                let severity = Severity::ALL.iter().position(|s| key.get(1) == Some(&severity_byte(*s)));
                if let Some(n) = severity.and_then(|at| summary.by_severity.get_mut(at)) {
                    *n += 1;
                }
                if let Some(n) = key.get(2).and_then(|kind| summary.by_kind.get_mut(usize::from(*kind))) {
                    *n += 1;
                }
            }
        }
        summary.health_score = health(&summary.by_severity, summary.files);
        summary.last_scan = self.last_scan(txn, folder)?;
        Ok(summary)
    }

    /// Open issues by artist or by release, the largest groups first.
    pub fn groups(&self, txn: &RoTxn<'_>, by_release: bool) -> Result<Vec<IssueGroup>, StoreError> {
        let mut groups: BTreeMap<(String, Option<u128>), IssueGroup> = BTreeMap::new();
        for status in IssueStatus::ALL.into_iter().filter(|status| status.is_open()) {
            for entry in self.issues.prefix_iter(txn, &[status as u8])? {
                let issue: Issue = decode(entry?.1)?;
                let (key, name) = match (by_release, issue.release_id) {
                    (true, None) => continue,
                    (true, release) => ((String::new(), release), issue.album),
                    (false, _) => ((issue.artist.clone(), None), issue.artist),
                };
                let release_id = key.1;
                let new = || IssueGroup { name, release_id, count: 0, severity: Severity::Info };
                let group = groups.entry(key).or_insert_with(new);
                group.count += 1;
                group.severity = group.severity.max(issue.severity);
            }
        }
        let mut rows: Vec<IssueGroup> = groups.into_values().collect();
        rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
        rows.truncate(GROUPS);
        Ok(rows)
    }

    /// Lets a finding, or that nothing was found, meet the stored row.
    pub(super) fn merge_issue(
        &self,
        txn: &mut RwTxn<'_>,
        id: IssueId,
        found: Option<Issue>,
        now: UnixMs,
    ) -> Result<(), StoreError> {
        let stored = self.issue(txn, id)?;
        match merge(stored.as_ref(), found, now) {
            Some(issue) => self.put_issue(txn, &issue),
            None => Ok(()),
        }
    }

    /// Writes a row. When all rows are taken, a new one takes the place of a resolved one, or is not kept.
    pub fn put_issue(&self, txn: &mut RwTxn<'_>, issue: &Issue) -> Result<(), StoreError> {
        let (id, key) = (id_key(issue.id), issue_key(issue));
        match owned(self.issue_keys.get(txn, &id)?) {
            Some(old) if old != key => {
                self.issues.delete(txn, &old)?;
            }
            None if self.issues.len(txn)? >= limits::ISSUES as u64 && !self.forget_resolved(txn)? => return Ok(()),
            _ => {}
        }
        self.issue_keys.put(txn, &id, &key)?;
        put(self.issues, txn, &key, issue)
    }

    fn forget_resolved(&self, txn: &mut RwTxn<'_>) -> Result<bool, StoreError> {
        let last = self.issues.rev_prefix_iter(txn, &[IssueStatus::Resolved as u8])?.next().transpose()?;
        let Some(key) = last.map(|(key, _)| key.to_vec()) else { return Ok(false) };
        self.issue_keys.delete(txn, key.get(11..).unwrap_or_default())?;
        self.issues.delete(txn, &key)?;
        Ok(true)
    }

    /// A file was renamed: its issues go with it, with what the owner said about them.
    pub(super) fn move_issues(&self, txn: &mut RwTxn<'_>, from: &LocalPath, to: &LocalPath) -> Result<(), StoreError> {
        for kind in all_file_kinds() {
            let Some(old) = self.issue(txn, issue_id(kind, About::File(from)))? else { continue };
            let renamed = Issue { id: issue_id(kind, About::File(to)), path: to.clone(), ..old.clone() };
            self.issue_keys.delete(txn, &id_key(old.id))?;
            self.issues.delete(txn, &issue_key(&old))?;
            self.put_issue(txn, &carry_over(&old, renamed))?;
        }
        Ok(())
    }
}

fn passes(issue: &Issue, filter: &IssueFilter) -> bool {
    filter.release_id.is_none_or(|release| issue.release_id == Some(release))
        && filter.artist.as_ref().is_none_or(|artist| issue.artist.eq_ignore_ascii_case(artist))
        && filter.path.as_ref().is_none_or(|folder| issue.path.is_within(&folder.0))
}

/// Beginnings of the keys a filter lets through.
fn ranges(filter: &IssueFilter) -> Vec<Vec<u8>> {
    let wanted = |status: &IssueStatus| match filter.statuses.as_slice() {
        [] => status.is_open(),
        statuses => statuses.contains(status),
    };
    let mut ranges = Vec::new();
    for status in IssueStatus::ALL.into_iter().filter(wanted) {
        if filter.severities.is_empty() {
            ranges.push(vec![status as u8]);
            continue;
        }
        for severity in Severity::ALL.into_iter().filter(|severity| filter.severities.contains(severity)) {
            ranges.push(vec![status as u8, severity_byte(severity)]);
        }
    }
    ranges
}

/// Kept so that the keys of stored issues never change their meaning.
const _: () = {
    assert!(IssueStatus::Detected as u8 == 0 && IssueStatus::Resolved as u8 == 5);
    assert!(Severity::Critical as u8 == 4 && IssueKind::WrongDuration as u8 == 7);
};
