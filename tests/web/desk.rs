//! A desk that answers from fixed data, full of names that mean harm, and remembers what it was told to do.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use slskdn::model::appliance::{ApplianceAnswer, ApplianceRequest};
use slskdn::model::gossip::{Badge, Offered};
use slskdn::model::health::{
    Evidence, HealthAnswer, HealthRequest, Issue, IssueKind, IssueStatus, LocalPath, ResolvedBy, Severity,
};
use slskdn::model::id::{ContentHash, IssueId, PeerId, SearchId, TransferId, Username};
use slskdn::model::job::{JobId, Proof};
use slskdn::model::mesh::SourceView;
use slskdn::model::music::{Attributes, ShareCounts, WireText};
use slskdn::model::record::{PrivateMessage, Wish};
use slskdn::model::repair::{
    Begun, Manner as RepairManner, NewFile, OldFile, Places, Repair, RepairAnswer, RepairRequest, RepairState, Strategy,
};
use slskdn::model::rescue::{
    Guardrail, Liar, Manner, Origin, Reason, RescueAnswer, RescueJob, RescueRequest, RescueState, RescueView,
};
use slskdn::model::swarm::Source;
use slskdn::model::time::UnixMs;
use slskdn::model::trace::{SourceShare, TraceAnswer, TraceCell, TraceLine, TraceRequest, TraceSummary, TraceView};
use slskdn::model::transfer::{Direction, Ending, Rung, Transfer, TransferState};
use slskdn::model::variant::Codec;
use slskdn::model::view::{
    Browsed, Event, FileView, FlowView, FolderView, LogLine, Refusal, Request, Response, ResponseView, SearchState,
    SearchView, ServerState, SettingView, ShareRootView, Snapshot, TaskView, UserInfoView, UserStatusView,
};
use slskdn::web::{Ask, Desk};
use tokio::sync::{broadcast, mpsc, watch};

/// A name that would run, hide or turn things if a page believed it.
pub(super) const EVIL: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\u{202e}gpj\0\n";
/// A search that is there.
pub(super) const SEARCH: &str = "11111111-1111-4111-8111-111111111111";
/// A download that is there, half done.
pub(super) const DOWNLOAD: &str = "22222222-2222-4222-8222-222222222222";
/// The size of the copy of a recording that 80 peers agree on.
const CANONICAL: u64 = 5_000_000;
/// With a value of this name something is known of found files.
pub(super) const KNOWN: &str = "known";
const AT: UnixMs = UnixMs(1_767_323_045_000);

/// What the desk was told.
#[derive(Clone, Default)]
pub(super) struct Told {
    orders: Arc<Mutex<Vec<Request>>>,
    pub(super) values: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// The configuration names a password.
    pub(super) password_configured: Arc<AtomicBool>,
}

impl Told {
    /// Commands since the last look.
    pub(super) fn orders(&self) -> Vec<Request> {
        std::mem::take(&mut self.orders.lock().unwrap())
    }
}

pub(super) fn file(name: &str) -> FileView {
    FileView {
        name: WireText::from(name),
        size: 31_415_926,
        code: 1,
        extension: String::new(),
        attributes: Attributes {
            bitrate_kbps: Some(320),
            duration_s: Some(187),
            vbr: Some(false),
            sample_rate_hz: Some(44_100),
            bit_depth: None,
        },
    }
}

fn transfer(id: TransferId, direction: Direction, state: TransferState, path: &str) -> Transfer {
    let done = if state == TransferState::Completed(Ending::Succeeded) { 31_415_926 } else { 12_345_678 };
    Transfer {
        id,
        direction,
        user: EVIL.into(),
        path: path.into(),
        size: 31_415_926,
        state,
        requested_at: AT,
        enqueued_at: Some(AT),
        started_at: Some(AT),
        ended_at: state.is_over().then_some(AT),
        start_offset: 0,
        bytes_done: done,
        average_speed: 456_789,
        place_in_queue: Some(7),
        reason: state.is_over().then(|| format!("the user said {EVIL}")),
        attempts: 2,
        next_attempt_at: (state == TransferState::QueuedLocally).then_some(AT),
        removed: false,
        batch: None,
        destination: None,
        local_path: None,
        partial: None,
        rung: (state == TransferState::Completed(Ending::Succeeded)).then_some(Rung::JoinedByOverlap),
        tried: vec![EVIL.into()],
    }
}

/// A job whose title, source and lines mean harm.
fn trace() -> TraceSummary {
    let line = TraceLine {
        at_us: 5,
        kind: "PeerDisconnected".to_owned(),
        source: Some("soulseek".to_owned()),
        peer_id: Some(EVIL.to_owned()),
        message: format!("the source goes: {EVIL}"),
        is_error: true,
        ..TraceLine::default()
    };
    let source = SourceShare {
        peer_id: EVIL.to_owned(),
        source: "soulseek".to_owned(),
        gone: Some(EVIL.to_owned()),
        bytes: 65_536,
        percent: 100.0,
        ..SourceShare::default()
    };
    TraceSummary {
        job_id: DOWNLOAD.to_owned(),
        title: EVIL.to_owned(),
        status: "failed".to_owned(),
        error: Some(EVIL.to_owned()),
        started_ms: AT.0,
        size_bytes: 131_072,
        bytes: 65_536,
        sources: vec![source],
        cells: vec![TraceCell { percent: 100, source: Some(0), bad: true }, TraceCell::default()],
        events: 1,
        key_events: vec![line],
        ..TraceSummary::default()
    }
}

fn transfers(direction: Direction) -> Vec<Transfer> {
    let album = "Music\\Artists\\Nils Holgersson\\1998 - Quiet Rooms";
    let rows = [
        (TransferState::InProgress, format!("{album}\\01 - First Light.flac")),
        (TransferState::QueuedRemotely, format!("{album}\\02 - Stairwell.flac")),
        (TransferState::QueuedLocally, format!("{album}\\03 - {EVIL}.flac")),
        (TransferState::Completed(Ending::Succeeded), format!("{album}\\04 - Rain on Tin.flac")),
        (TransferState::Completed(Ending::Rejected), format!("Other\\{EVIL}\\05.mp3")),
    ];
    let id = |n: u128| if n == 0 { DOWNLOAD.parse().unwrap() } else { TransferId(n) };
    (0..).zip(rows).map(|(n, (state, path))| transfer(id(n), direction, state, &path)).collect()
}

/// One that goes on, one that brought another copy, one that failed: whatever strangers chose in them is hostile.
fn rescues() -> Vec<RescueView> {
    let rows = transfers(Direction::Download);
    let rescue = |at: usize, state, manner| {
        let Transfer { id, size, ref path, .. } = rows[at];
        let peer = PeerId([7; 32]);
        let job = RescueJob {
            transfer: id,
            user: EVIL.into(),
            path: path.clone(),
            recording: Some(5),
            reason: Reason::Stalled,
            activated_at: AT,
            ended_at: (state != RescueState::Active).then_some(AT),
            state,
            content: ContentHash([9; 32]),
            size,
            manner,
            name: EVIL.to_owned(),
            vouched_by: Some(EVIL.to_owned()),
            overlay_bytes: 1_000,
            soulseek_bytes: 2_000,
            hits: vec![Guardrail::Ratio],
            told: format!("told {EVIL}"),
            local_path: (state == RescueState::Completed).then(|| format!("/music/{EVIL}")),
            unwanted: false,
            liars: vec![Liar { peer, content: ContentHash([9; 32]), why: format!("why {EVIL}") }],
        };
        let source = |source| SourceView {
            source,
            bytes: 1_000,
            bad_pieces: 1,
            failed: 0,
            dropped: true,
            cost_milli: None,
            rate: Some(5_000),
            rtt_us: 0,
            reputation_milli: 0,
            requests: 1,
            state: "Requesting",
        };
        RescueView {
            job,
            origin: Some(Origin::OtherSize(999)),
            bytes: 1_000,
            overlay_speed: 5_000,
            soulseek_speed: 0,
            throttled_to: Some(2_500),
            yields: false,
            waits: format!("waits {EVIL}"),
            missing: vec![(0, 9)],
            sources: vec![source(Source::Mesh(peer)), source(Source::Soulseek(EVIL.into()))],
        }
    };
    vec![
        rescue(0, RescueState::Active, Manner::Splice),
        rescue(1, RescueState::Completed, Manner::WholeVariant),
        rescue(4, RescueState::Failed, Manner::Splice),
    ]
}

/// Issues 1 to 5: one to fix, one that is being fixed, one that could not be, one that was, one that nobody can fix.
pub(super) fn issues() -> Vec<Issue> {
    let issue = |id: u128, kind, status| Issue {
        id: IssueId(id),
        kind,
        severity: Severity::High,
        path: LocalPath::from(format!("/music/{EVIL}/{id} {EVIL}.flac").as_str()),
        recording_id: Some(7),
        release_id: None,
        artist: EVIL.to_owned(),
        album: EVIL.to_owned(),
        title: EVIL.to_owned(),
        reason: format!("reason {EVIL}"),
        evidence: Evidence::Corrupted { bad_frames: 1, first_bad: None, md5_differs: false, samples_missing: 0 },
        job: None,
        status,
        detected_at: AT,
        resolved_at: None,
        resolved_by: (status == IssueStatus::Resolved).then_some(ResolvedBy::AutoFixed),
    };
    let mut rows = vec![
        issue(1, IssueKind::SuspectedTranscode, IssueStatus::Detected),
        issue(2, IssueKind::CorruptedFile, IssueStatus::Fixing),
        issue(3, IssueKind::NonCanonicalVariant, IssueStatus::Failed),
        issue(4, IssueKind::CorruptedFile, IssueStatus::Resolved),
        issue(5, IssueKind::MissingMetadata, IssueStatus::Detected),
    ];
    for row in &mut rows[1..4] {
        row.job = Some(1);
    }
    rows
}

fn repair(id: IssueId) -> Option<Repair> {
    let state = match id.0 {
        2 => RepairState::Fetching,
        3 => RepairState::Failed(format!("nobody had it {EVIL}")),
        4 => RepairState::Done,
        _ => return None,
    };
    let done = state == RepairState::Done;
    let path = |end: &str| LocalPath::from(format!("/music/{EVIL}/{EVIL}.{end}").as_str());
    let content = ContentHash([8; 32]);
    Some(Repair {
        issue: id,
        job: JobId::from_random(1),
        track: Some(0),
        strategy: Strategy::RedownloadTracks,
        manner: RepairManner::Backup,
        old: Some(OldFile { path: path("mp3"), content, size: 1_000, score: Some(0.25) }),
        new: done.then_some(NewFile { content, size: 2_000, score: 0.95, proof: Proof::AcoustId }),
        places: done.then(|| Places { new: path("flac"), backup: Some(path("mp3.bak")), aside: None }),
        state,
        by_itself: false,
        keep_tags: false,
        tags_kept: false,
        told: true,
        began_at: AT,
        updated_at: AT,
        ended_at: done.then_some(AT),
    })
}

fn repairs(told: &Told, request: RepairRequest) -> Response {
    told.orders.lock().unwrap().push(Request::Repair(request.clone()));
    let rows = match request {
        RepairRequest::Fix { issues, .. } => {
            let mut begun = Begun::default();
            for id in issues {
                if id.0 == 1 {
                    begun.jobs = vec![JobId::from_random(1)];
                    begun.begun.push((id, JobId::from_random(1)));
                } else {
                    begun.refused.push((id, format!("it is refused {EVIL}")));
                }
            }
            return Response::Repair(RepairAnswer::Begun(begun));
        }
        RepairRequest::Of(ids) => ids.into_iter().filter_map(repair).collect(),
        RepairRequest::One(id) | RepairRequest::Undo(id) => match repair(id) {
            Some(repair) => vec![repair],
            None => return Response::Refused(Refusal::NotFound),
        },
        RepairRequest::OfJob(_) => vec![repair(IssueId(2)).unwrap()],
    };
    Response::Repair(RepairAnswer::Repairs(rows))
}

fn search(state: SearchState) -> SearchView {
    SearchView {
        id: SEARCH.parse().unwrap(),
        token: 7,
        text: format!("quiet rooms {EVIL}"),
        state,
        started_at: AT,
        ended_at: None,
        responses: 3,
        files: 25,
        locked_files: 1,
    }
}

fn responses() -> Vec<ResponseView> {
    let response = |user: &str, free_slot, upload_speed, files| ResponseView {
        user: user.into(),
        token: 7,
        free_slot,
        upload_speed,
        queue_length: 12,
        files,
        locked_files: vec![file("locked\\x.mp3")],
    };
    let album = |n: u32| file(&format!("Music\\Quiet Rooms (1998) [FLAC]\\{n:02} - A Name of Usual Length.flac"));
    vec![
        response("slowpoke", false, 20_000, vec![FileView { size: CANONICAL, ..file("a\\b\\slow.mp3") }]),
        response("quick one/with slash", true, 2_000_000, (1..=12).map(album).collect()),
        response(EVIL, true, 1_000_000, vec![file(&format!("{EVIL}\\{EVIL}.mp3"))]),
    ]
}

fn folder(n: u32) -> FolderView {
    FolderView { name: format!("Share\\Folder {n}").as_str().into(), files: vec![file("one.flac"), file(EVIL)] }
}

/// The state of things the pages show.
pub(super) fn snapshot() -> Snapshot {
    let mut s = Snapshot { version: "0.1.0", started_at: AT, ..Snapshot::default() };
    s.server.address = "server.slsknet.org:2242".into();
    s.server.username = EVIL.into();
    s.server.state = ServerState::LoggedIn;
    s.server.reason = Some(EVIL.to_owned());
    s.shares.counts = ShareCounts { folders: 812, files: 10_234 };
    s.shares.bytes = 345_678_901_234;
    s.shares.ready = true;
    s.shares.scanned_at = Some(AT);
    s.shares.problems = vec![format!("cannot read {EVIL}")];
    s.shares.roots = vec![ShareRootView {
        id: "r1".to_owned(),
        alias: format!("Music {EVIL}"),
        local_path: format!("/data/{EVIL}"),
        counts: ShareCounts { folders: 812, files: 10_234 },
    }];
    s.tree.level = 3;
    s.tree.parent = Some(EVIL.into());
    s.downloads = FlowView { active: 2, queued: 14, speed: 2_345_678, succeeded: 120, failed: 3, bytes: 9_876_543_210 };
    s.uploads = FlowView { active: 1, queued: 0, speed: 345_678, succeeded: 45, failed: 0, bytes: 1_234_567_890 };
    s.disk.backend = "blocking";
    s.disk.backend_reason = Some("io_uring_setup: operation not permitted".to_owned());
    s.disk.free = 12_345_678_901;
    s.disk.total = 64_000_000_000;
    s.port.listen = 50_300;
    s.port.mapping = "UPnP".into();
    s.tasks = vec![
        TaskView { name: "soulseek", state: "running", restarts: 0, last_error: None },
        TaskView { name: "scanner", state: "restarting", restarts: 2, last_error: Some(EVIL.to_owned()) },
    ];
    s.warnings = vec![format!("the port seems closed {EVIL}")];
    s.unread_messages = 2;
    s.searches_answered = 1_234;
    s.searches_seen = 456_789;
    s
}

fn respond(told: &Told, request: Request) -> Response {
    let page = |rows: Vec<Transfer>| {
        let all = rows.len();
        Response::Transfers(rows, all)
    };
    match request {
        Request::Transfers(filter) => page(transfers(filter.direction)),
        Request::Transfer(direction, id) => {
            let found = transfers(direction).into_iter().find(|row| row.id == id);
            found.map_or(Response::Refused(Refusal::NotFound), |row| Response::Transfer(Box::new(row)))
        }
        Request::Batches => Response::Batches(Vec::new()),
        Request::Searches => Response::Searches(vec![search(SearchState::InProgress), search(SearchState::TimedOut)]),
        Request::Search(id) if id == SEARCH.parse::<SearchId>().unwrap() => {
            Response::Search(search(SearchState::InProgress), responses())
        }
        Request::Health(HealthRequest::Badges(offered)) => {
            let known = told.values.lock().unwrap().contains_key(KNOWN);
            let badge = |file: Offered| match file.size {
                _ if !known => None,
                CANONICAL => Some(Badge::Canonical { score: 0.938, peers: 80 }),
                _ if file.codecs == [Codec::Flac] => Some(Badge::LikelyTranscode),
                _ => None,
            };
            Response::Health(HealthAnswer::Badges(offered.into_iter().map(badge).collect(), true))
        }
        Request::Health(HealthRequest::Issues(_)) => Response::Health(HealthAnswer::Issues(issues(), issues().len())),
        Request::Health(HealthRequest::Issue(id)) => {
            let found = issues().into_iter().find(|issue| issue.id == id);
            found.map_or(Response::Refused(Refusal::NotFound), |issue| {
                Response::Health(HealthAnswer::Issue(Box::new(issue)))
            })
        }
        Request::Health(HealthRequest::CopyAt(_)) => Response::Health(HealthAnswer::Variants(Vec::new())),
        Request::Repair(request) => repairs(told, request),
        Request::Wishes => Response::Wishes(vec![Wish {
            id: 5,
            text: format!("rare thing {EVIL}"),
            added_at: AT,
            searched_at: Some(AT),
            found: 3,
        }]),
        Request::Conversations => Response::Conversations(vec![(message(true, EVIL), 2)]),
        Request::Messages(_) => Response::Messages(vec![
            message(true, "Hello! Do you have the second half of that album?"),
            message(false, "Yes, give me a minute."),
            message(true, EVIL),
        ]),
        Request::Settings => {
            let password = if told.password_configured.load(Ordering::Relaxed) { "(set)" } else { "" };
            Response::Settings(
                [
                    ("soulseek.username", "someone", "file slskdn.yml:1:1"),
                    ("soulseek.password", "(set)", "environment variable SLSKDN_SOULSEEK_PASSWORD"),
                    ("soulseek.listen_port", "50300", "built-in"),
                    ("web.port", "5030", "file slskdn.yml:2:1"),
                    ("soulseek.description", EVIL, "file slskdn.yml:3:1"),
                    (
                        "web.authentication.password",
                        password,
                        "environment variable SLSKDN_WEB_AUTHENTICATION_PASSWORD",
                    ),
                ]
                .map(|(key, value, source)| SettingView {
                    key: key.into(),
                    value: value.into(),
                    source: source.into(),
                    fixed: source.starts_with("environment"),
                })
                .to_vec(),
            )
        }
        Request::SettingsYaml | Request::Metrics => Response::Text("slskdn_up 1\n".to_owned()),
        Request::Log(_) => Response::Log(
            (0..)
                .zip([("INFO", "listening address=127.0.0.1:5030"), ("WARN", EVIL), ("ERROR", "store: no space left")])
                .map(|(sequence, (level, text))| LogLine {
                    sequence,
                    at: AT,
                    level,
                    target: "slskdn::net".to_owned(),
                    text: text.to_owned(),
                })
                .collect(),
        ),
        Request::SharedFolders { .. } => Response::SharedFolders((0..20).map(folder).collect(), 812),
        Request::Value(name) => Response::Value(told.values.lock().unwrap().get(&name).cloned()),
        Request::KeepValue(name, value) => {
            let mut values = told.values.lock().unwrap();
            match value {
                Some(value) => values.insert(name, value),
                None => values.remove(&name),
            };
            Response::Done
        }
        Request::Place(_) => Response::Place(7),
        Request::Browse(_) => Response::Browsed(Browsed {
            folders: 250,
            files: 500,
            open: Arc::new(|| Ok(Box::new((0..250).map(|n| Ok(folder(n)))))),
        }),
        Request::Folder(_, name) => {
            Response::Folders(vec![FolderView { name: name.into(), files: vec![file("one.flac"), file(EVIL)] }])
        }
        Request::UserInfo(_) => Response::UserInfo(UserInfoView {
            description: format!("I like\nquiet music {EVIL}"),
            picture: Some(b"<svg onload=alert(1)>".to_vec()),
            slots: 3,
            queue_length: 12,
            free_slot: true,
        }),
        Request::UserStatus(_) => {
            let stats = Some((1_000_000, 120, 10_234, 812));
            Response::UserStatus(UserStatusView { presence: "Online", privileged: true, stats })
        }
        Request::Appliance(ApplianceRequest::Install { .. }) => {
            Response::Appliance(ApplianceAnswer::Taken("9".to_owned()))
        }
        Request::Appliance(ApplianceRequest::View) => Response::Appliance(ApplianceAnswer::View(Box::default())),
        Request::Rescue(RescueRequest::Jobs | RescueRequest::Of(_)) => Response::Rescue(RescueAnswer::Jobs(rescues())),
        Request::Rescue(RescueRequest::Traffic) => Response::Rescue(RescueAnswer::Traffic(Box::default())),
        Request::Trace(TraceRequest::Names) => Response::Trace(TraceAnswer::Names([DOWNLOAD.to_owned()].into())),
        Request::Trace(TraceRequest::Jobs) => Response::Trace(TraceAnswer::Jobs(vec![trace()])),
        Request::Trace(TraceRequest::Job { .. }) => {
            let events = trace().key_events;
            Response::Trace(TraceAnswer::Job(Box::new(TraceView { summary: trace(), events })))
        }
        Request::Search(_) | Request::UserEndpoint(_) | Request::Batch(_) => Response::Refused(Refusal::NotFound),
        order => {
            let answer = match &order {
                Request::AddWish(_) => Response::WishAdded(6),
                Request::Enqueue(wanted) => Response::Enqueued {
                    accepted: wanted.files.iter().map(|_| transfers(Direction::Download)[0].clone()).collect(),
                    failed: Vec::new(),
                    batch: None,
                },
                Request::StartSearch(wanted) if wanted.text == "full" => {
                    Response::Refused(Refusal::Full("20 searches are kept already".to_owned()))
                }
                _ => Response::Done,
            };
            told.orders.lock().unwrap().push(order);
            answer
        }
    }
}

fn message(incoming: bool, text: &str) -> PrivateMessage {
    PrivateMessage { user: Username::from(EVIL), at: AT, id: 1, incoming, text: text.to_owned(), read: !incoming }
}

/// Starts a desk; the sender tells events, the watch changes the snapshot.
pub(super) fn open() -> (Desk, Told, broadcast::Sender<Event>, watch::Sender<Arc<Snapshot>>) {
    let (asks, mut asked) = mpsc::channel::<Ask>(16);
    let (events, _) = broadcast::channel(64);
    let (publish, snapshots) = watch::channel(Arc::new(snapshot()));
    let told = Told::default();
    let desk = Desk::new(snapshots, asks, events.clone());
    let answering = told.clone();
    tokio::spawn(async move {
        while let Some(ask) = asked.recv().await {
            let _ = ask.answer.send(respond(&answering, ask.request));
        }
    });
    (desk, told, events, publish)
}
