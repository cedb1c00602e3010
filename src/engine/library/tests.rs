use super::detect::{self, Copy, Present, Release, Track};
use super::fixtures::variant;
use super::merge::{Mended, carry_over, fixing, mended, merge, set_status};
use super::scan::{Seen, Step, is_wanted, may_forget, step, time_left_ms};
use super::{About, Thresholds, issue_id, score};
use crate::model::health::{
    Evidence, FileOutcome, FileRow, Issue, IssueKind, IssueStatus, LocalPath, MatchedBy, Progress, ResolvedBy,
    ScanRequest, Severity, Variant,
};
use crate::model::id::{ContentHash, ScanId};
use crate::model::time::UnixMs;
use crate::model::variant::{BadFrame, Codec, Md5Check};
use crate::model::verdict::{Reason, Rule, Verdict};

const NOW: UnixMs = UnixMs(1_000);

fn found(variant: &Variant, detector: impl Fn(&Copy<'_>) -> Option<Issue>) -> Option<(IssueKind, Severity)> {
    let issue = detector(&Copy { path: &variant.paths[0], variant, now: NOW })?;
    assert_eq!(issue.id, issue_id(issue.kind, About::File(&variant.paths[0])));
    assert!(!issue.reason.is_empty() && issue.status == IssueStatus::Detected && issue.detected_at == NOW);
    Some((issue.kind, issue.severity))
}

#[test]
fn only_the_verdict_transcode_is_an_issue() {
    let mut copy = variant("/a.flac", 0.4);
    for (verdict, expect) in [
        (Verdict::Clean, None),
        (Verdict::Uncertain, None),
        (Verdict::Transcode, Some((IssueKind::SuspectedTranscode, Severity::High))),
    ] {
        copy.judged.judgement.verdict = verdict;
        let values = [("edge_hz".to_owned(), 16_000.0)].into();
        copy.judged.judgement.reasons = vec![Reason { rule: Rule::BrickWall, values }];
        assert_eq!(found(&copy, detect::suspected_transcode), expect, "{verdict:?}");
    }
    let issue = detect::suspected_transcode(&Copy { path: &copy.paths[0], variant: &copy, now: NOW }).unwrap();
    let Evidence::Transcode { quality_score, bitrate_kbps, reasons, .. } = issue.evidence else { panic!() };
    assert_eq!((quality_score, bitrate_kbps, reasons.len()), (0.4, 900, 1));
    assert!(issue.reason.contains("a lossy copy") && issue.reason.contains("brick_wall"), "{}", issue.reason);
}

#[test]
fn a_much_better_copy_is_an_issue_of_the_poorer_one() {
    let best = variant("/best.flac", 0.9);
    for (score, expect) in [
        (0.9, None),
        (0.71, None),
        (0.69, Some(Severity::Medium)),
        (0.51, Some(Severity::Medium)),
        (0.49, Some(Severity::High)),
    ] {
        let copy = variant("/poor.mp3", score);
        let detector = |c: &Copy<'_>| detect::non_canonical_variant(c, &best, &Thresholds::default());
        assert_eq!(found(&copy, detector).map(|(_, severity)| severity), expect, "{score}");
    }
    let same = Variant { judged: variant("", 0.1).judged, ..best.clone() };
    assert_eq!(found(&same, |c| detect::non_canonical_variant(c, &best, &Thresholds::default())), None);
}

#[test]
fn a_suspect_is_never_the_best() {
    let (mut suspect, clean) = (variant("/a", 0.95), variant("/b", 0.5));
    suspect.judged.judgement.verdict = Verdict::Transcode;
    assert_eq!(detect::best_of(&[&suspect, &clean]), Some(&clean));
    assert_eq!(detect::best_of(&[&suspect]), Some(&suspect));
    assert_eq!(detect::best_of(&[]), None);
}

#[test]
fn broken_audio_is_critical_and_says_where() {
    let mut copy = variant("/a.flac", 0.9);
    assert_eq!(found(&copy, detect::corrupted_file), None);
    let expect = Some((IssueKind::CorruptedFile, Severity::Critical));
    copy.measured.integrity.md5 = Md5Check::Different;
    assert_eq!(found(&copy, detect::corrupted_file), expect);
    copy.measured.integrity.md5 = Md5Check::Equal;
    copy.measured.integrity.samples_missing = 44_100 * 3;
    assert_eq!(found(&copy, detect::corrupted_file), expect);
    copy.measured.integrity.bad_frames = 2;
    copy.measured.integrity.first_bad = Some(BadFrame { at_byte: 77, at_ms: 61_500, what: "checksum".into() });
    let issue = detect::corrupted_file(&Copy { path: &copy.paths[0], variant: &copy, now: NOW }).unwrap();
    assert_eq!(
        issue.reason,
        "2 damaged frames, the first at 1:01.5 (byte 77): checksum; the end is missing: 0:03.0 of audio"
    );
    // The same row whether it could be decoded in part or not at all.
    assert_eq!(detect::broken_file(&copy.paths[0], "no header", NOW).id, issue.id);
}

#[test]
fn an_unknown_recording_is_an_issue_once_everybody_was_asked() {
    let mut copy = variant("/a.flac", 0.9);
    assert_eq!(found(&copy, detect::missing_metadata), None);
    copy.identity.recording_id = None;
    for (matched_by, severity) in [(MatchedBy::Nobody, Severity::Low), (MatchedBy::Pending, Severity::Info)] {
        copy.identity.matched_by = matched_by;
        assert_eq!(found(&copy, detect::missing_metadata), Some((IssueKind::MissingMetadata, severity)));
    }
}

#[test]
fn a_duration_may_differ_by_three_seconds() {
    let copy = variant("/a.flac", 0.9);
    for (recording_ms, expect) in [
        (None, None),
        (Some(180_000), None),
        (Some(183_000), None),
        (Some(177_000), None),
        (Some(183_001), Some((IssueKind::WrongDuration, Severity::Low))),
        (Some(170_000), Some((IssueKind::WrongDuration, Severity::Low))),
    ] {
        let detector = |c: &Copy<'_>| detect::wrong_duration(c, recording_ms, &Thresholds::default());
        assert_eq!(found(&copy, detector), expect, "{recording_ms:?}");
    }
}

fn release(tracks: &[(u32, u32, u128)]) -> Release {
    let track = |&(disc, position, recording_id): &(u32, u32, u128)| Track {
        disc,
        position,
        recording_id,
        title: format!("Track {disc}.{position}"),
        duration_ms: Some(100_000 + 10_000 * u64::from(position)),
    };
    Release { id: 9, title: "Album".into(), artist: "Artist".into(), tracks: tracks.iter().map(track).collect() }
}

#[test]
fn a_recording_must_be_on_the_release_its_tags_name() {
    let mut copy = variant("/a.flac", 0.9);
    let detector = |copy: &Variant, release: &Release| found(copy, |c| detect::track_not_in_tagged_release(c, release));
    let other = release(&[(1, 1, 2), (1, 2, 3)]);
    assert_eq!(detector(&copy, &other), None, "no release is tagged");
    copy.measured.tags.release_id = Some(9);
    assert_eq!(detector(&copy, &other), Some((IssueKind::TrackNotInTaggedRelease, Severity::Medium)));
    assert_eq!(detector(&copy, &release(&[(1, 1, 1)])), None);
    assert_eq!(detector(&copy, &release(&[])), None, "its tracks are not known");
    copy.identity.recording_id = None;
    assert_eq!(detector(&copy, &other), None);
}

fn present(path: &str, recording_id: Option<u128>, place: Option<(u32, u32)>, duration_ms: u64) -> Present {
    let (disc, position) = place.unzip();
    Present { path: LocalPath::from(path), recording_id, disc, position, duration_ms }
}

/// Severity, path, and the disc and position of each missing track.
type Missing = (Severity, String, Vec<(u32, u32)>);

fn missing(release: &Release, files: &[Present]) -> Option<Missing> {
    let issue = detect::missing_track_in_release(release, files, NOW)?;
    assert_eq!(issue.id, issue_id(IssueKind::MissingTrackInRelease, About::Release(9)));
    let Evidence::Missing { missing, missing_count, .. } = issue.evidence else { panic!() };
    assert_eq!(missing.len(), usize::try_from(missing_count).unwrap());
    let places = missing.iter().map(|track| (track.disc, track.position)).collect();
    Some((issue.severity, issue.path.to_string(), places))
}

#[test]
fn an_album_is_its_folder_with_the_folders_of_its_discs() {
    let two_discs = release(&[(1, 1, 11), (1, 2, 12), (2, 1, 21), (2, 2, 22)]);
    let all = [
        present("/m/Album/CD 1/01.flac", Some(11), None, 0),
        present("/m/Album/CD 1/02.flac", None, None, 120_500),
        present("/m/Album/CD 2/x.flac", None, Some((2, 1)), 108_000),
        present("/m/Album/CD 2/02.flac", Some(22), None, 0),
    ];
    assert_eq!(missing(&two_discs, &all), None);
    // Without the second disc, half is absent: that is not more than half.
    assert_eq!(missing(&two_discs, &all[..2]), Some((Severity::Medium, "/m/Album".into(), vec![(2, 1), (2, 2)])));
    assert_eq!(missing(&two_discs, &all[..1]).unwrap().0, Severity::High);
    // The right place with another duration is another track, and so is one whose recording is another's.
    let wrong = [all[0].clone(), present("/m/Album/CD 1/02.flac", None, None, 123_001)];
    assert_eq!(missing(&two_discs, &wrong).unwrap().2, [(1, 2), (2, 1), (2, 2)]);
    let other = [all[0].clone(), present("/m/Album/CD 1/02.flac", Some(21), None, 120_000)];
    assert_eq!(missing(&two_discs, &other).unwrap().2, [(1, 2), (2, 2)]);
}

#[test]
fn of_two_folders_the_fuller_counts() {
    let one = release(&[(1, 1, 11), (1, 2, 12), (1, 3, 13)]);
    let mut files = vec![
        present("/flac/Album/1.flac", Some(11), None, 0),
        present("/mp3/Album/1.mp3", Some(11), None, 0),
        present("/mp3/Album/2.mp3", Some(12), None, 0),
    ];
    assert_eq!(missing(&one, &files), Some((Severity::Medium, "/mp3/Album".into(), vec![(1, 3)])));
    files.push(present("/mp3/Album/3.mp3", Some(13), None, 0));
    assert_eq!(missing(&one, &files), None);
    // A file stands for one track.
    let doubled = release(&[(1, 1, 11), (1, 2, 11)]);
    let single = [present("/a/x.flac", Some(11), None, 0)];
    assert_eq!(missing(&doubled, &single).unwrap().2, [(1, 2)]);
}

#[test]
fn copies_of_different_releases_are_no_duplicates() {
    let copies = |variants: &[Variant]| {
        let copies: Vec<Copy<'_>> =
            variants.iter().map(|variant| Copy { path: &variant.paths[0], variant, now: NOW }).collect();
        detect::multiple_variants(1, &copies)
    };
    let (a, mut b) = (variant("/a.flac", 0.9), variant("/b.mp3", 0.7));
    b.measured.codec = Codec::Mp3;
    assert_eq!(copies(std::slice::from_ref(&a)), None);
    let issue = copies(&[b.clone(), a.clone()]).unwrap();
    assert_eq!(issue.id, issue_id(IssueKind::MultipleVariants, About::Recording(1)));
    assert_eq!((issue.severity, issue.path.to_string().as_str()), (Severity::Low, "/a.flac"));
    let Evidence::Copies { copies: listed } = issue.evidence else { panic!() };
    assert_eq!(listed.iter().map(|copy| copy.codec).collect::<Vec<_>>(), [Codec::Flac, Codec::Mp3]);
    let on = |variant: &Variant, release| {
        let mut variant = variant.clone();
        variant.identity.release_id = Some(release);
        variant
    };
    assert_eq!(copies(&[on(&a, 1), on(&b, 2)]), None);
    assert!(copies(&[on(&a, 1), on(&b, 1)]).is_some());
    assert!(copies(&[on(&a, 1), b]).is_some());
    // The same bytes twice are not several qualities.
    assert_eq!(copies(&[a.clone(), a]), None);
}

#[test]
fn ids_are_for_one_problem_and_do_not_change() {
    let path = LocalPath::from("/a");
    let ids: std::collections::BTreeSet<_> = IssueKind::ALL
        .into_iter()
        .flat_map(|kind| {
            [About::File(&path), About::Recording(1), About::Release(1)].map(|about| issue_id(kind, about))
        })
        .collect();
    assert_eq!(ids.len(), 24);
    let golden = issue_id(IssueKind::CorruptedFile, About::File(&path)).to_string();
    assert_eq!(golden, "5104f57e-419c-c042-33f0-5072e6fdc644", "stored issues would be found no more");
}

fn issue(status: IssueStatus) -> Issue {
    let stored = detect::broken_file(&LocalPath::from("/a.flac"), "no header", UnixMs(5));
    let ended = matches!(status, IssueStatus::Resolved | IssueStatus::Ignored);
    let resolved_by = ended.then_some(ResolvedBy::UserDismissed);
    Issue { status, resolved_at: ended.then_some(UnixMs(6)), resolved_by, ..stored }
}

#[test]
fn a_rescan_meets_what_is_stored() {
    use IssueStatus::{Acknowledged, Detected, Failed, Fixing, Ignored, Resolved};
    let again = || detect::broken_file(&LocalPath::from("/a.flac"), "cut short", NOW);
    assert_eq!(merge(None, Some(again()), NOW), Some(again()));
    assert_eq!(merge(None, None, NOW), None);
    for status in [Detected, Acknowledged, Fixing, Failed, Ignored] {
        let merged = merge(Some(&issue(status)), Some(again()), NOW).unwrap();
        assert_eq!(merged, Issue { reason: "cut short".into(), ..issue(status) }, "{status:?}");
        // Nothing new is nothing to write.
        assert_eq!(merge(Some(&merged), Some(again()), UnixMs(2_000)), None);
    }
    assert_eq!(merge(Some(&issue(Resolved)), Some(again()), NOW), Some(again()));
    for (status, by) in [
        (Detected, ResolvedBy::ManualFix),
        (Acknowledged, ResolvedBy::ManualFix),
        (Failed, ResolvedBy::ManualFix),
        (Fixing, ResolvedBy::AutoFixed),
    ] {
        let merged = merge(Some(&issue(status)), None, NOW).unwrap();
        assert_eq!((merged.status, merged.resolved_at, merged.resolved_by), (Resolved, Some(NOW), Some(by)));
    }
    assert_eq!(merge(Some(&issue(Ignored)), None, NOW), None);
    assert_eq!(merge(Some(&issue(Resolved)), None, NOW), None);
}

#[test]
fn what_the_owner_said_goes_with_a_moved_file() {
    let new = || detect::broken_file(&LocalPath::from("/b.flac"), "no header", NOW);
    let carried = carry_over(&issue(IssueStatus::Ignored), new());
    assert_eq!((carried.status, carried.detected_at, carried.id), (IssueStatus::Ignored, UnixMs(5), new().id));
    assert_eq!(carry_over(&issue(IssueStatus::Resolved), new()), new());
}

#[test]
fn the_owner_may_dismiss_and_take_it_back() {
    let dismissed = set_status(&issue(IssueStatus::Detected), IssueStatus::Ignored, NOW).unwrap();
    assert_eq!((dismissed.resolved_at, dismissed.resolved_by), (Some(NOW), Some(ResolvedBy::UserDismissed)));
    let back = set_status(&dismissed, IssueStatus::Detected, NOW).unwrap();
    assert_eq!((back.status, back.resolved_at, back.resolved_by), (IssueStatus::Detected, None, None));
    assert!(set_status(&back, IssueStatus::Fixing, NOW).is_err());
}

#[test]
fn a_job_ends_what_it_mends_and_nothing_else() {
    let with = |status, job| Issue { job, ..issue(status) };
    let begun = fixing(&with(IssueStatus::Failed, Some(1)), 7);
    assert_eq!((begun.status, begun.job), (IssueStatus::Fixing, Some(7)));
    let (yes, beside, no, undone) = (Mended::Yes, Mended::Beside, Mended::No, Mended::Undone);
    for (status, what, expect) in [
        (IssueStatus::Fixing, yes, Some(IssueStatus::Resolved)),
        (IssueStatus::Fixing, beside, Some(IssueStatus::Acknowledged)),
        (IssueStatus::Fixing, no, Some(IssueStatus::Failed)),
        // The owner opened it again meanwhile.
        (IssueStatus::Detected, yes, Some(IssueStatus::Resolved)),
        (IssueStatus::Detected, no, None),
        // A scan was quicker.
        (IssueStatus::Resolved, yes, None),
        (IssueStatus::Resolved, no, None),
        (IssueStatus::Resolved, undone, Some(IssueStatus::Acknowledged)),
        (IssueStatus::Ignored, yes, None),
        (IssueStatus::Ignored, undone, None),
    ] {
        let after = mended(&with(status, Some(7)), 7, what, NOW);
        assert_eq!(after.as_ref().map(|issue| issue.status), expect, "{status:?} {what:?}");
        if let Some(after) = after {
            let is_resolved = after.status == IssueStatus::Resolved;
            assert_eq!(after.resolved_by, is_resolved.then_some(ResolvedBy::AutoFixed));
        }
        assert_eq!(mended(&with(status, Some(8)), 7, what, NOW), None, "another job's");
    }
    let found = with(IssueStatus::Detected, None);
    let renewed = merge(Some(&Issue { reason: "old".into(), ..begun.clone() }), Some(found), NOW).unwrap();
    assert_eq!((renewed.status, renewed.job), (IssueStatus::Fixing, Some(7)), "a rescan loses nothing of it");
}

#[test]
fn a_scan_passes_over_what_has_not_changed() {
    let row = |path: &str, outcome: FileOutcome| FileRow {
        path: LocalPath::from(path),
        size: 10,
        mtime_ns: 20,
        inode: (1, 2),
        outcome,
        scan: ScanId(1),
    };
    let known = row("/a", FileOutcome::Measured(ContentHash([0; 32])));
    let broken = row("/a", FileOutcome::Broken("x".into()));
    let same = Seen { size: 10, mtime_ns: 20, inode: (1, 2) };
    let check = |seen: Seen, known, twin, scan, remeasure| step(&seen, known, twin, ScanId(scan), remeasure);
    assert_eq!(check(same, Some(&known), None, 2, false), Step::Pass);
    assert_eq!(check(same, Some(&broken), None, 2, false), Step::Pass);
    assert_eq!(check(Seen { inode: (1, 9), ..same }, Some(&known), None, 2, false), Step::Pass);
    assert_eq!(check(Seen { size: 11, ..same }, Some(&known), None, 2, false), Step::Measure);
    assert_eq!(check(Seen { mtime_ns: 21, ..same }, Some(&known), None, 2, false), Step::Measure);
    assert_eq!(check(same, None, None, 2, false), Step::Measure);
    // Measuring anew: what this very scan measured before a restart is not measured again.
    assert_eq!(check(same, Some(&known), None, 2, true), Step::Measure);
    assert_eq!(check(same, Some(&known), None, 1, true), Step::Pass);
    // Renamed.
    assert_eq!(check(same, None, Some(&known), 2, false), Step::Rename);
    assert_eq!(check(same, None, Some(&broken), 2, false), Step::Measure);
    assert_eq!(check(Seen { mtime_ns: 21, ..same }, None, Some(&known), 2, false), Step::Measure);
    assert_eq!(check(same, None, Some(&known), 2, true), Step::Measure);
}

#[test]
fn an_empty_mount_point_forgets_nothing() {
    assert!(may_forget(1, 100) && may_forget(0, 0) && !may_forget(0, 1));
}

#[test]
fn endings_choose_the_files() {
    let request = ScanRequest::of(Vec::new());
    for (name, wanted) in [("a.flac", true), ("a.FLAC", true), (".flac", false), ("a.jpg", false), ("flac", false)] {
        assert_eq!(is_wanted(&request, name.as_bytes()), wanted, "{name}");
    }
}

#[test]
fn the_time_left_follows_the_bytes() {
    let mut progress = Progress { bytes_total: 400, bytes_done: 100, elapsed_ms: 1_000, ..Progress::default() };
    assert_eq!(time_left_ms(&progress), None);
    progress.walked = true;
    assert_eq!(time_left_ms(&progress), Some(3_000));
    progress.bytes_done = 0;
    assert_eq!(time_left_ms(&progress), None);
}

#[test]
fn the_score_is_the_formula() {
    let close = |open, files, expect: f64| assert!((score::health(&open, files) - expect).abs() < 1e-9, "{open:?}");
    close([0; 5], 0, 1.0);
    close([0; 5], 10, 1.0);
    close([1, 1, 1, 1, 5], 10, 0.8);
    close([20, 0, 0, 0, 0], 10, 0.0);
}
