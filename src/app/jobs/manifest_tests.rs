//! Manifests there and back, and those that are refused.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::manifests::{self, Manifests};
use super::{JobSettings, place, yaml};
use crate::app::apply::Folders;
use crate::engine::jobs::plan::Rules;
use crate::engine::manifest;
use crate::engine::swarm::reputation::ReputationSettings;
use crate::model::id::{RecordingId, ReleaseId};
use crate::model::job::{Child, Constraints, Job, JobId, JobState, JobTrack, MbRelease, Proof, TrackState};
use crate::model::limits;
use crate::model::time::UnixMs;
use crate::model::variant::Codec;

const NOW: UnixMs = UnixMs(1_795_268_412_007);

fn settings(dir: &std::path::Path) -> JobSettings {
    let folders = Folders { data: dir.into(), downloads: dir.join("downloads"), incomplete: dir.join("incomplete") };
    let manifests = Manifests::new(Some(dir.join("jobs")));
    let (rules, reputation) = (Rules::default(), ReputationSettings::default());
    JobSettings { rules, folders, roots: Vec::new(), manifests, write_tags: true, reputation }
}

/// Any text that a job can hold, the nasty ones included.
fn text() -> impl Strategy<Value = String> {
    let nasty = prop::sample::select(vec![
        "",
        " ",
        "~",
        "null",
        "true",
        "0x1f",
        "1e3",
        "- a",
        "a: b",
        "#",
        "*a",
        "&a",
        "!!str",
        "'",
        "\"",
        "\\",
        "\n",
        "\r\n",
        "\t",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{1f3b5}",
        "{",
        "]",
        "%YAML",
        "---",
        "...",
        "\u{7f}",
        "\0",
        "\u{ffff}",
    ]);
    let any = any::<String>().prop_map(|text| text.chars().take(60).collect::<String>());
    vec(prop_oneof![nasty.prop_map(str::to_owned), any], 0..3).prop_map(|parts| parts.concat())
}

fn time() -> impl Strategy<Value = UnixMs> {
    (0_u64..253_402_300_800_000).prop_map(UnixMs)
}

fn track() -> impl Strategy<Value = JobTrack> {
    (1_u32..10, 0_u32..10_000, text(), text(), any::<u128>(), option::of(0_u64..600_000_000)).prop_map(
        |(medium, position, title, artist, recording, duration_ms)| JobTrack {
            medium,
            position,
            title,
            artist,
            recording: RecordingId(recording),
            duration_ms,
        },
    )
}

fn constraints() -> impl Strategy<Value = Constraints> {
    let codecs = prop::sample::subsequence(Codec::ALL.to_vec(), 0..=Codec::ALL.len());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let kbps = prop_oneof![Just(0), limits::JOB_OVERLAY_KBPS_MIN..];
    (codecs, flags, option::of(any::<u32>()), option::of(kbps)).prop_map(|(preferred_codecs, flags, most, kbps)| {
        Constraints {
            preferred_codecs,
            allow_lossy: flags.0,
            max_lossy_tracks: most,
            prefer_canonical: flags.1,
            use_overlay: flags.2,
            overlay_bandwidth_kbps: kbps,
        }
    })
}

fn child() -> impl Strategy<Value = Child> {
    let state = prop::sample::select(TrackState::ALL.to_vec());
    let proof = option::of(prop::sample::select(Proof::ALL.to_vec()));
    let file = option::of(
        "[a-zA-Z0-9 '\"#:&*!\u{e9}\u{65e5}][^/\\\\\0]{0,40}".prop_filter("no dots", |f| f != "." && f != ".."),
    );
    (state, option::of(any::<u64>()), any::<u64>(), file, proof, option::of(text()))
        .prop_map(|(state, size, done, file, proof, note)| Child { state, size, done, file, proof, note })
}

fn job() -> impl Strategy<Value = Job> {
    let id = "[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}".prop_map(|id| id.parse::<JobId>().unwrap());
    let tracks = prop::collection::btree_map((1_u32..10, 0_u32..10_000), track(), 1..6).prop_map(|tracks| {
        let placed = tracks.into_iter().map(|((medium, position), track)| JobTrack { medium, position, ..track });
        placed.collect::<Vec<_>>()
    });
    let spec = (any::<u128>(), text(), text(), "[a-zA-Z0-9 ]{1,8}(/[a-z]{1,8}){0,3}", tracks, constraints())
        .prop_filter_map("a folder", |(release, title, artist, target_dir, tracks, constraints)| {
            let target_dir = (!target_dir.split('/').next()?.trim().is_empty()).then_some(target_dir)?;
            Some(MbRelease { release: ReleaseId(release), title, artist, target_dir, tracks, constraints })
        });
    let state = prop::sample::select(JobState::ALL.to_vec());
    let times = (time(), time(), option::of(time()), option::of(time()));
    (id.clone(), option::of(id), times, spec, state, option::of(text()), vec(child(), 6)).prop_map(
        |(id, origin, times, spec, state, error, mut children)| {
            children.truncate(spec.tracks.len());
            let (created_at, updated_at, started_at, completed_at) = times;
            Job { id, origin, created_at, updated_at, started_at, completed_at, spec, state, error, children }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn any_job_survives_its_manifest(job in job()) {
        let text = manifest::write(&job);
        let settings = settings(std::path::Path::new("/nowhere"));
        prop_assert_eq!(manifests::read(&text, &settings, NOW).map_err(|error| format!("{error}\n{text}")), Ok(job));
    }
}

fn example() -> Job {
    let track = |medium, position| JobTrack {
        medium,
        position,
        title: format!("Title {position}"),
        artist: "Guest".to_owned(),
        recording: RecordingId(u128::from(position)),
        duration_ms: Some(180_000),
    };
    let child = Child {
        state: TrackState::Completed,
        size: Some(7),
        done: 7,
        file: Some("01 Title 1.flac".to_owned()),
        proof: Some(Proof::AcoustId),
        note: Some("n".to_owned()),
    };
    let full = Constraints { max_lossy_tracks: Some(2), overlay_bandwidth_kbps: Some(500), ..Constraints::default() };
    Job {
        id: "job-1".parse().unwrap(),
        origin: Some("job-0".parse().unwrap()),
        created_at: NOW,
        updated_at: NOW,
        started_at: Some(NOW),
        completed_at: Some(NOW),
        spec: MbRelease {
            release: ReleaseId(1),
            title: "Title".to_owned(),
            artist: "Artist".to_owned(),
            target_dir: "Artist/Title".to_owned(),
            tracks: vec![track(1, 1), track(2, 2)],
            constraints: full,
        },
        state: JobState::Failed,
        error: Some("why".to_owned()),
        children: vec![child.clone(), Child { note: None, ..child }],
    }
}

/// Every line of the example, broken in every way that fits it.
fn broken(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut all = Vec::new();
    let mut with = |at: usize, line: String| {
        let mut lines: Vec<&str> = lines.clone();
        lines[at] = &line;
        all.push(lines.join("\n"));
    };
    for (at, line) in lines.iter().enumerate() {
        let Some((key, value)) = line.split_once(": ") else { continue };
        if line.starts_with('#') {
            continue;
        }
        for bad in ["*a", "&a 1", "!!python/object:os.system x", "{a: {b: c}}", "[[1], 2]", "\"unclosed"] {
            with(at, format!("{key}: {bad}"));
        }
        let indent = line.len() - line.trim_start().len();
        let bare = key.trim_start().trim_start_matches("- ");
        let below = " ".repeat(if line.trim_start().starts_with("- ") { indent + 2 } else { indent });
        with(at, format!("{line}\n{below}{bare}: {value}"));
        with(at, format!("{line}\n{below}unknown_key: 1"));
    }
    all
}

#[test]
fn malformed_and_malicious_manifests_are_refused_with_line_and_reason() {
    let settings = settings(std::path::Path::new("/nowhere"));
    let good = manifest::write(&example());
    assert_eq!(manifests::read(&good, &settings, NOW), Ok(example()));
    let all = broken(&good);
    assert!(all.len() >= 200, "{}", all.len());
    for text in &all {
        let refused = manifests::read(text, &settings, NOW).expect_err(text);
        assert!(refused.line > 0 && !refused.reason.is_empty(), "{refused:?}");
    }
    let line_of = |part: &str, text: &str| 1 + text.lines().position(|line| line.contains(part)).unwrap();
    for (from, to, reason) in [
        ("manifest_version: \"1.0\"", "manifest_version: \"2.0\"", "not known; 1.0 is"),
        ("job_id: \"job-1\"", "job_id: \"../../x\"", "not a job id"),
        ("job_id: \"job-1\"", "job_id: \".hidden\"", "not a job id"),
        ("job_type: mb_release", "job_type: discography", "discography jobs cannot be done"),
        ("job_type: mb_release", "job_type: label_crate", "label_crate jobs cannot be done"),
        ("job_type: mb_release", "job_type: reformat", "no kind of job"),
        ("target_dir: \"Artist/Title\"", "target_dir: \"../../etc\"", "outside"),
        ("target_dir: \"Artist/Title\"", "target_dir: \"/etc/cron.d\"", "outside"),
        ("target_dir: \"Artist/Title\"", "target_dir: \"a/../../../b\"", "outside"),
        ("target_dir: \"Artist/Title\"", "target_dir: \"a\\0b\"", "outside"),
        ("target_dir: \"Artist/Title\"", "target_dir: \"\"", "no folder"),
        ("position: 2", "position: -2", "not a number"),
        ("position: 2", "position: 2.5", "not a number"),
        ("position: 2", "position: \"2\"", "not a number"),
        ("position: 2", "position: 99999999999999999999999", "too large"),
        ("duration_ms: 180000", "duration_ms: 999999999999", "not a number from 0"),
        ("file: \"01 Title 1.flac\"", "file: \"../../.ssh/authorized_keys\"", "no bare file name"),
        ("state: failed", "state: exploded", "no state of a job"),
        ("allow_lossy: true", "allow_lossy: \"true\"", "neither true nor false"),
        ("allow_lossy: true", "allow_lossy: yes", "neither true nor false"),
        ("preferred_codecs: [FLAC]", "preferred_codecs: [FLAC, EXE]", "no codec"),
        ("preferred_codecs: [FLAC]", "preferred_codecs: [FLAC,FLAC,FLAC,FLAC,FLAC,FLAC,FLAC,FLAC]", "at most 7"),
        ("overlay_bandwidth_kbps: 500", "overlay_bandwidth_kbps: 1", "too little"),
        ("overlay_bandwidth_kbps: 500", "overlay_bandwidth_kbps: 15", "16 is the least"),
        ("overlay_bandwidth_kbps: 500", "overlay_bandwidth_kbps: 4294967296", "not a number from 0"),
        ("verified_by: acoustid", "verified_by: trust_me", "no proof"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        let refused = manifests::read(&text, &settings, NOW).expect_err(&text);
        assert!(refused.reason.contains(reason), "{to}: {refused}");
        assert_eq!(refused.line, line_of(to, &text), "{to}: {refused}");
    }
    let twice = good.replace("medium: 2", "medium: 1").replace("position: 2", "position: 1");
    assert!(manifests::read(&twice, &settings, NOW).unwrap_err().reason.contains("given twice"));
}

#[test]
fn what_makes_yaml_dangerous_is_refused() {
    let bombs = [
        ("a: &a [x]\nb: *a\n".to_owned(), "anchors"),
        ("a: 1\n---\nb: 2\n".to_owned(), "second document"),
        ("[".repeat(5_000), "deep"),
        (format!("a: {}{}", "[".repeat(9), "]".repeat(9)), "nested too deeply"),
        (format!("[{}]", "1,".repeat(30_000)), "more values"),
        ("x".repeat(800_000), "longer than"),
        ("? [a]\n: b\n".to_owned(), "plain word"),
        ("<<: {a: b}\n".to_owned(), ""),
        (String::new(), "empty"),
        ("\u{0}\u{1}".to_owned(), ""),
        ("a: !!binary aGk=\n".to_owned(), "tags"),
        ("just words".to_owned(), "not a section"),
    ];
    let settings = settings(std::path::Path::new("/nowhere"));
    for (text, reason) in bombs {
        let refused = manifests::read(&text, &settings, NOW).expect_err(&text.chars().take(40).collect::<String>());
        assert!(refused.to_string().contains(reason) || reason == "deep", "{refused}");
    }
    assert!(yaml::read("a: [1, {b: ~}]").is_ok());
}

#[test]
fn the_flat_layout_is_read_too() {
    let flat = "job_id: 0f4c1c5e-0000-4000-8000-000000000001\ntype: mb_release\n\
        mb_release_id: 6a76904c-0caf-34e1-8cc2-7d95e86a3824\ntitle: Album\nartist: Artist\n\
        tracks:\n- {position: 1, title: One, mb_recording_id: 6a76904c0caf34e18cc27d95e86a3824, duration_ms: 1000}\n\
        constraints: {allow_lossy: false, prefer_canonical_variants: false}\nstatus: running\n";
    let settings = settings(std::path::Path::new("/nowhere"));
    let job = manifests::read(flat, &settings, NOW).unwrap();
    assert_eq!((job.state, job.created_at), (JobState::Running, NOW));
    assert_eq!(job.spec.target_dir, "Artist/Album");
    assert_eq!((job.spec.constraints.allow_lossy, job.spec.constraints.prefer_canonical), (false, false));
    assert_eq!((job.spec.tracks[0].medium, job.children.len()), (1, 1));
    assert_eq!(manifests::taken_up(job, &settings).state, JobState::Pending);
}

#[test]
fn files_are_whole_and_in_one_place() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let mut job = Job { state: JobState::Running, ..example() };
    settings.manifests.keep(&job).unwrap();
    let files = settings.manifests.active();
    assert_eq!(files.len(), 1);
    let text = manifests::text_of(&files[0]).unwrap();
    assert_eq!(manifests::read(&text, &settings, NOW).unwrap(), job);
    job.state = JobState::Cancelled;
    settings.manifests.keep(&job).unwrap();
    assert_eq!(settings.manifests.active().len(), 0);
    assert_eq!(manifests::files(&dir.path().join("jobs/completed")).len(), 1);
    // What is hidden, a link, or something else is no manifest.
    let active = dir.path().join("jobs/active");
    std::fs::write(active.join(".x.yaml"), "x").unwrap();
    std::fs::write(active.join("x.txt"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", active.join("y.yaml")).unwrap();
    assert_eq!(settings.manifests.active().len(), 0);
}

#[test]
fn what_does_not_lie_in_its_place_is_wanted_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let job = Job { state: JobState::Running, ..example() };
    let folder = place::target(&job.spec.target_dir, &settings.folders.downloads, &[]);
    // Nothing exists yet: even the downloads folder is made later.
    let folder = folder.unwrap_or_else(|error| panic!("{error}"));
    let states = |job: &Job| job.children.iter().map(|child| child.state).collect::<Vec<_>>();
    assert_eq!(states(&manifests::taken_up(job.clone(), &settings)), [TrackState::Pending; 2]);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("01 Title 1.flac"), b"seven!!").unwrap();
    assert_eq!(states(&manifests::taken_up(job, &settings)), [TrackState::Completed; 2]);
}
