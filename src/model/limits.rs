//! Every capacity in one table, with its origin, and the proof that the sum fits the memory of the board.
//!
//! A collection that a stranger can grow is bounded by a constant of this file; the comment says what happens when it
//! is full.

use super::units::{KIB, MIB};

// ---- Frames (RELIABILITY-FACTS 9). A longer one is a violation: the connection is closed and struck. ----

/// Init and distributed messages.
pub const FRAME_INIT: u32 = 16 * 1024;
/// Peer messages without a limit of their own.
pub const FRAME_PEER: u32 = 1024 * 1024;
/// Compressed search replies and folder replies, on the way in.
pub const FRAME_RESULTS: u32 = 16 * 1024 * 1024;
/// Compressed share list, on the way in: streamed to the disk, never whole in memory.
pub const FRAME_SHARES: u32 = 64 * 1024 * 1024;
/// Our own compressed share list: Nicotine+ refuses a longer one, so a longer one is not sent.
pub const FRAME_SHARES_OUT: u32 = 448 * 1024 * 1024;
/// Messages of the server.
pub const FRAME_SERVER: u32 = 16 * 1024 * 1024;

/// A search reply, inflated.
pub const INFLATED_RESULTS: usize = 4 * 1024 * 1024;
/// A folder reply, inflated.
pub const INFLATED_FOLDER: usize = 4 * 1024 * 1024;
/// A share list, inflated, on its way to the disk (DECISIONS 24).
pub const INFLATED_SHARES: u64 = 64 * 1024 * 1024;

// ---- Texts. A longer one is a violation in a message, a refusal from a person. ----

/// User name, bytes (Nicotine+ 3.3.11).
pub const USERNAME_LEN: usize = 256;
/// Path or file name, bytes.
pub const PATH_LEN: usize = 4096;
/// Search query of others, bytes; longer ones are not answered.
pub const QUERY_LEN: usize = 256;
/// Private message, bytes; longer ones are cut.
pub const MESSAGE_LEN: usize = 8 * 1024;
/// Attributes of one file; further ones are a violation.
pub const FILE_ATTRIBUTES: usize = 16;
/// A user's picture, bytes; a larger one is dropped, the rest of the info is kept.
pub const PICTURE_LEN: usize = 512 * 1024;
/// A user's description, bytes; cut.
pub const DESCRIPTION_LEN: usize = 16 * 1024;

// ---- Connections. When full: the newest caller is closed at once; our own dials wait. ----

/// Connections with users, all kinds, both ways.
pub const USER_CONNECTIONS: usize = 256;
/// Of these, peer-message connections kept when idle; the longest idle one is closed for a new one.
pub const PEER_CONNECTIONS: usize = 64;
/// From one address, of IPv6 one /64 (on the local network each address). Loopback is exempt: tests and a proxy of the owner's come from there.
pub const CONNECTIONS_PER_ADDRESS: usize = 8;
/// Accepted, first message not yet there.
pub const UNFINISHED_CONNECTIONS: usize = 32;
/// Seconds for the first message.
pub const HANDSHAKE_S: u64 = 10;
/// Seconds without traffic on a peer connection.
pub const PEER_IDLE_S: u64 = 60;
/// Dials begun per second, all users together (RELIABILITY-FACTS 4, row 6).
pub const DIALS_PER_SECOND: u32 = 10;
/// Seconds one dial may take.
pub const DIAL_S: u64 = 10;
/// Seconds a ConnectToPeer of ours waits for its PierceFireWall (Nicotine+).
pub const INDIRECT_S: u64 = 20;
/// Messages waiting for one connection; when full the sender's task waits, then the connection is closed after 10 s.
pub const CONN_MAILBOX: usize = 64;
/// Messages waiting for one connection beyond which it is closed at once: a burst for a user just connected fits.
pub const CONN_BACKLOG: usize = CONN_MAILBOX + WAITING_PER_USER;
/// Their bytes, roughly; a larger backlog closes the connection. One message alone may be larger.
pub const CONN_BACKLOG_BYTES: usize = 2 * 1024 * 1024;
/// The same for all connections together: past it, a message of more than a few KiB closes its connection.
pub const BACKLOG_BYTES: usize = 8 * 1024 * 1024;
/// Seconds in which a connection must take 16 KiB of what we send, or have room in its mailbox again.
pub const WRITE_STALL_S: u64 = 10;
/// Seconds from a frame's first byte to its last; for share lists, between two pieces of it.
pub const FRAME_S: u64 = 60;
/// Bytes of large frames (above 64 KiB) being received, all users together; further ones wait in their sockets.
pub const FRAMES_AT_ONCE_BYTES: usize = 20 * 1024 * 1024;
/// Messages waiting for the server; with more the connection to it is given up.
pub const SERVER_BACKLOG: usize = 4_096;
/// Seconds the connection to the server may take to come about, name lookup included.
pub const SERVER_CONNECT_S: u64 = 20;
/// Messages waiting for a user whose connection is being made; the oldest is dropped with a failure.
pub const WAITING_PER_USER: usize = 256;
/// Users with messages waiting; a message for one more fails at once.
pub const WAITING_USERS: usize = 512;
/// Messages waiting for connections, all users together; one more fails at once.
pub const WAITING_MESSAGES: usize = 2_048;
/// Of these, search replies (the only large ones, about 50 KiB); one more is dropped.
pub const WAITING_REPLIES: usize = 128;
/// Messages sent on silent connections and kept until it is clear that they arrived; one more is not kept, and lost with
/// its connection.
pub const UNHEARD_MESSAGES: usize = 2_048;
/// Attempts to reach somebody, with their tokens; one more fails at once.
pub const ATTEMPTS: usize = 1_024;
/// Dials that others asked of us through the server and that wait for their turn; one more is refused.
pub const ASKED_DIALS: usize = 128;
/// Addresses of users as the server gave them; the oldest is forgotten.
pub const ADDRESSES: usize = 1_024;
/// Addresses with strikes against them; the one longest quiet is forgotten.
pub const STRUCK_ADDRESSES: usize = 256;
/// Peer connections with one user at a time; the oldest is closed.
pub const PEER_CONNECTIONS_PER_USER: usize = 3;

// ---- Searches ----

/// Kept searches of ours; the oldest finished one is forgotten. With none finished a new one is refused.
pub const SEARCHES: usize = 20;
/// Result rows (files) kept per search; further responses are counted, not kept.
pub const SEARCH_ROWS: usize = 2_000;
/// Searches of ours waiting or running at once on the network (slskd).
pub const SEARCHES_AT_ONCE: usize = 2;
/// Searches per window (sldl's ceiling): one bucket for everything, wishes and fail-over included.
pub const SEARCHES_PER_WINDOW: u32 = 34;
/// Length of that window in seconds.
pub const SEARCH_WINDOW_S: u64 = 220;
/// Wishes; one more is refused.
pub const WISHES: usize = 100;
/// Files in our answer to one search.
pub const SEARCH_REPLY_FILES: usize = 250;
/// Searches of others being looked up; further ones are dropped and counted.
pub const PENDING_LOOKUPS: usize = 64;
/// Searches of others answered per second and user; further ones are dropped.
pub const ANSWERS_PER_USER_PER_10S: u32 = 20;
/// Users with privileges, as the server lists them; further ones are ignored.
pub const PRIVILEGED_USERS: usize = 20_000;
/// Parents the server offers at once (it names up to 10); further ones are ignored.
pub const POSSIBLE_PARENTS: usize = 32;
/// Folders and files, counted together, of one folder reply; further ones are left out.
pub const FOLDER_ENTRIES: usize = 10_000;
/// Excluded phrases of the server; further ones are ignored.
pub const EXCLUDED_PHRASES: usize = 1_000;

// ---- Transfers ----

/// Downloads not yet over; one more is refused.
pub const DOWNLOADS: usize = 10_000;
/// Files of one enqueue request or batch.
pub const BATCH_FILES: usize = 1_000;
/// Uploads waiting or running; further ones get `Too many files`.
pub const UPLOADS: usize = 5_000;
/// Users one download is tried with.
pub const FAILOVER_USERS: usize = 8;
/// Users who banned us, remembered for a while; the one longest ago is forgotten.
pub const REFUSING_USERS: usize = 256;
/// Bytes a new source must repeat before its own are kept (RELIABILITY-FACTS 3, rung D).
pub const OVERLAP_BYTES: u64 = 64 * KIB;
/// Bytes per second that a user must take of an upload, over `UPLOAD_FLOOR_S`; one who takes less loses the slot. Chosen:
/// the slowest modem takes three times as much.
pub const UPLOAD_FLOOR: u64 = KIB;
/// Seconds over which that is measured.
pub const UPLOAD_FLOOR_S: u64 = 600;
/// Finished transfers kept in each direction; the oldest is forgotten.
pub const FINISHED_TRANSFERS: usize = 10_000;
/// Batches kept; the oldest is forgotten.
pub const BATCHES: usize = 1_000;

// ---- People ----

/// Private messages kept per user; the oldest is forgotten.
pub const MESSAGES_PER_USER: usize = 1_000;
/// Users with kept messages; the one longest silent is forgotten.
pub const CONVERSATIONS: usize = 500;
/// Spooled share lists of others; the oldest is removed.
pub const BROWSE_SPOOLS: usize = 8;
/// Users asked about at once (browse, info, folder); one more is refused.
pub const INQUIRIES: usize = 64;
/// People and tools waiting for one and the same answer; one more is refused.
pub const INQUIRY_ASKERS: usize = 32;
/// Users who asked for our share list within the last seconds; one more gets none.
pub const SHARE_LIST_ASKERS: usize = 256;

// ---- Distributed network ----

/// Possible parents tried at once (the server offers up to 10); further ones are ignored.
pub const PARENT_CALLS: usize = 10;
/// Children, whatever the settings say (Nicotine+ 3.3.11); one more is closed.
pub const CHILDREN: usize = 10;

// ---- Pages ----

/// Rows of one page or API list.
pub const PAGE_ROWS: usize = 10_000;
/// Web connections; further ones wait in the kernel's backlog.
pub const WEB_CONNECTIONS: usize = 32;
/// Web connections of one address that is not loopback (a browser takes six); one more is closed.
pub const WEB_CONNECTIONS_PER_ADDRESS: usize = 12;
/// Event streams; one more is refused with 503.
pub const EVENT_STREAMS: usize = 16;
/// Bytes of a request body; a longer one is refused with 413.
pub const BODY_LEN: usize = 1024 * 1024;
/// Request bodies above 16 KiB at once; further ones wait in their sockets.
pub const LARGE_BODIES: usize = 2;
/// Bytes of an update that is uploaded, streamed to the disk; a longer one is refused with 413.
pub const UPDATE_LEN: u64 = 600 * MIB;
/// Log lines kept for the page; the oldest is dropped.
pub const LOG_LINES: usize = 1_000;
/// Sessions signed in; the oldest is forgotten.
pub const SESSIONS: usize = 64;

// ---- Disk ----

/// Size of a buffer between network and disk.
pub const BLOCK_LEN: usize = 64 * 1024;
/// Buffers of the pool by default: 16 MiB.
pub const BLOCKS: usize = 256;
/// Dirty bytes of one store commit.
pub const COMMIT_BYTES: u64 = 4 * MIB;
/// Shared files in the index; further ones are left out and the page says so.
pub const SHARED_FILES: usize = 2_000_000;

// ---- Collection Doctor (DECISIONS 12). Workers are processes of their own, beside `memory.budget`. ----

/// Anonymous memory of a worker in normal work, bytes.
pub const WORKER_ANONYMOUS: u64 = 20 * MIB;
/// Address space of a worker, bytes; a file that wants more is given up.
pub const WORKER_ADDRESS_SPACE: u64 = 256 * MIB;
/// CPU seconds of a worker for any file, and one more for each 2 MB of it; a file that takes longer is given up.
pub const WORKER_CPU_S: u64 = 30;
/// Bytes that buy a worker one more CPU second.
pub const WORKER_BYTES_PER_CPU_S: u64 = 2_000_000;
/// Seconds without progress after which a worker is ended and its file given up. A disk that was asleep takes ten and more.
pub const WORKER_STALL_S: u64 = 30;
/// Bytes of a worker's answer about one file; a longer one counts as none. The largest is a spectrogram.
pub const WORKER_ANSWER_LEN: usize = 512 * 1024;
/// The same when it was asked for measurements.
pub const WORKER_MEASURED_LEN: usize = 32 * 1024;
/// Columns of a spectrogram; a longer file has more time in each.
pub const SPECTROGRAM_COLUMNS: usize = 960;
/// Bands of a spectrogram.
pub const SPECTROGRAM_ROWS: usize = 512;
/// Requests for spectrograms that wait for their turn: one file is decoded at a time. One more is refused.
pub const SPECTROGRAMS_WAITING: usize = 4;
/// A text from a tag or a header, bytes; cut at a character.
pub const TAG_TEXT_LEN: usize = 512;
/// Words of a fingerprint: 120 s and some; further ones are left out.
pub const FINGERPRINT_WORDS: usize = 1_024;

/// Files whose state the Doctor keeps; further ones are left out and the scan says so.
pub const DOCTOR_FILES: usize = SHARED_FILES;
/// Issues kept, all statuses together: for a new one a resolved one is forgotten, without one it is only counted.
pub const ISSUES: usize = 200_000;
/// Scans kept; the oldest is forgotten.
pub const SCANS: usize = 100;
/// Files with the same bytes that a variant names; further ones are not named.
pub const VARIANT_PATHS: usize = 16;
/// Missing tracks an issue names; further ones are counted.
pub const MISSING_TRACKS: usize = 200;
/// Copies of one recording that are compared; further ones are left out.
pub const VARIANTS_PER_RECORDING: usize = 64;
/// Paths of one scan request; one more is refused.
pub const SCAN_PATHS: usize = 64;
/// Files that were walked past and wait for a worker; when full the walk waits.
pub const SCAN_AHEAD: usize = 64;
/// Measured files that wait to be judged; when full the workers wait.
pub const SCAN_ANSWERS: usize = 8;
/// Files of one commit at most. Chosen: half a minute of a Pi's work lost to a power cut is little, and sixteen files
/// share the pages of one commit, which an SD card thanks for.
pub const SCAN_BATCH: usize = 16;
/// Files measured at once, however many cores there are.
pub const SCAN_WORKERS: usize = 32;
/// New names of files with several names, of one scan; a file beyond them is measured instead of recognised.
pub const SCAN_LINKS: usize = 16_384;
/// Files of one release, or of one album folder, that are looked at; further ones are left out. The longest release that a
/// catalog's answer can hold has some 1,200 tracks.
pub const RELEASE_FILES: usize = 1_600;

// ---- Tags that are written, in a process of its own with the memory of a worker; one file at a time ----

/// Bytes of one item of a tag, a picture say; a file with a longer one is left as it is.
pub const TAG_ITEM_LEN: usize = 16 * 1024 * 1024;
/// Bytes that a file may grow by its tags; one that would grow more is left as it is.
pub const TAG_GROWTH: u64 = 32 * MIB;
/// Bytes of a file of a format that is read whole to be changed: MP4, Ogg, MP3 with an APE tag. A longer one is left as it
/// is. Chosen: it and what it becomes fit between the service's two limits.
pub const TAG_WHOLE_LEN: u64 = 40 * MIB;
/// Bytes of an order to change tags, and of its answer; a longer one is not sent.
pub const TAG_ORDER_LEN: usize = 32 * 1024;

// ---- Catalogs (MusicBrainz, AcoustID, Discogs) ----

/// Bytes of one answer of MusicBrainz, inflated: a release of some 1,200 tracks. A longer one counts as none.
pub const CATALOG_ANSWER_LEN: usize = 1536 * 1024;
/// The same for AcoustID and Discogs, which tell less.
pub const CATALOG_SHORT_ANSWER_LEN: usize = 256 * 1024;
/// Values (objects, arrays, members) in one answer: what it costs to read is bounded by them. With more it counts as
/// none.
pub const CATALOG_ANSWER_VALUES: usize = 80_000;
/// Questions waiting for one service; who asks one more waits for room.
pub const CATALOG_WAITING: usize = 64;
/// Hops from a merged id to the one that stands; with more the answer counts as wrong.
pub const CATALOG_HOPS: usize = 3;
/// Answers kept; the oldest is forgotten.
pub const CATALOG_ANSWERS: u64 = 250_000;
/// Their bytes, deflated; the oldest are forgotten.
pub const CATALOG_BYTES: u64 = 192 * MIB;

// ---- Mesh (DECISIONS 7, 8; SPEC-FACTS 8; RELIABILITY-FACTS 9) ----

/// A frame with its header, bytes. A longer one is a violation: the connection is closed and struck.
pub const MESH_FRAME: usize = 64 * 1024;
/// Body of a piece list, bytes: files of at most 4 GiB (DECISIONS 5).
pub const PIECE_LIST_LEN: usize = 2 * 1024 * 1024;
/// Connections with peers, both ways, unless the owner allows fewer; one more is refused. Peers that are named, and
/// strangers that we call, have seats that others cannot take.
pub const MESH_CONNECTIONS: usize = 50;
/// From one address. Loopback is exempt: tests and a laboratory come from there.
pub const MESH_CONNECTIONS_PER_ADDRESS: usize = 3;
/// Attempts from one address within a minute that are answered. Loopback is exempt.
pub const MESH_ATTEMPTS_PER_MINUTE: usize = 10;
/// Connections whose handshake is not over; one more is refused.
pub const MESH_HANDSHAKES: usize = 16;
/// Bytes of packets kept for connections that were not looked at yet.
pub const MESH_INCOMING_BYTES: u64 = 256 * KIB;
/// Addresses and keys remembered for their attempts or violations; the one longest quiet is forgotten.
pub const MESH_STRUCK: usize = 256;
/// Violations after which a peer is banned for a while.
pub const MESH_VIOLATIONS: u32 = 3;
/// Seconds of such a ban.
pub const MESH_BAN_S: u64 = 300;
/// Control messages of one peer answered per second; more in a row than ten times this is a violation.
pub const MESH_MESSAGES_PER_SECOND: u32 = 10;
/// Questions to one peer waiting for their answer; one more fails at once.
pub const MESH_QUESTIONS: usize = 64;
/// Streams one peer may have open with us besides its control stream.
pub const MESH_STREAMS: u32 = 16;
/// Requests of peers that are served or refused, all together; one more is refused.
pub const MESH_REQUESTS: usize = 64;
/// Of these, of peers whom the owner did not name.
pub const MESH_REQUESTS_STRANGERS: usize = MESH_REQUESTS - MESH_STREAMS as usize;
/// Peers named in the configuration; one more is a mistake.
pub const MESH_NAMED: usize = 64;
/// Fetches that are not over; one more is refused.
pub const MESH_FETCHES: usize = 1_000;
/// Fetches kept, those that are over included; for a new one the oldest that is over is forgotten.
pub const MESH_FETCHES_KEPT: usize = 2_000;
/// Fetches in progress at once; the others wait.
pub const MESH_FETCHES_AT_ONCE: usize = 4;
/// Fetches that are over and of which the page still knows who did what; the oldest is forgotten.
pub const MESH_FETCHES_SHOWN: usize = 64;
/// Soulseek users one fetch names; one more is refused.
pub const FETCH_USERS: usize = 8;
/// Peers one file is fetched from at once; further ones wait until one leaves.
pub const MESH_SOURCES: usize = 16;
/// Transfers to peers that are known, those offered and those over included; for one more, one that is not being served
/// is forgotten.
pub const MESH_UPLOADS: usize = 256;
/// Candidates found by the DHT or on the own network; for one more whoever failed most is forgotten, or it is not taken.
pub const MESH_CANDIDATES: usize = 128;
/// Of these, from one network (/24, /48) of the DHT's; one more is not taken.
pub const MESH_CANDIDATES_PER_NETWORK: usize = 2;
/// Addresses of one candidate; further ones are left out.
pub const MESH_ADDRESSES: usize = 4;
/// Addresses that were found to be our own; the oldest is forgotten.
pub const MESH_OWN_ADDRESSES: usize = 16;
/// Calls to candidates begun per second.
pub const MESH_CALLS_PER_SECOND: u64 = 2;
/// Calls to candidates under way at once; further ones wait.
pub const MESH_CALLS_AT_ONCE: usize = 4;
/// Addresses of one look-up in the DHT that are looked at (RELIABILITY-FACTS 4, row 10); further ones are left out.
pub const DHT_ADDRESSES: usize = 500;
/// Nodes named to enter the DHT by; one more is a mistake.
pub const DHT_BOOTSTRAP_NODES: usize = 16;
/// Meeting places named; one more is a mistake.
pub const DHT_RENDEZVOUS_KEYS: usize = 8;
/// Copies in the library that are looked at for what could be announced; further ones are not.
pub const DHT_COPIES: usize = 20_000;
/// Peers seen on the own network that wait to be looked at; one more is dropped, and seen again.
pub const MDNS_SIGHTINGS: usize = 16;
/// Records of multicast DNS that are kept, some 300 bytes each; with more all are forgotten, and nothing is heard for half a
/// minute.
pub const MDNS_RECORDS: i64 = 2_048;
/// Look-ups in the DHT that the page shows; the oldest is forgotten.
pub const DHT_LOOKS_SHOWN: usize = 12;
/// Recordings and releases announced in the DHT (SPEC-FACTS 8); further ones are not.
pub const DHT_ANNOUNCED: usize = 100;
/// Sources whose metrics and reputation are kept in the store; for one more the one longest not met is forgotten.
pub const MESH_SOURCES_KEPT: u64 = 2_000;
/// Files known to be no copy of the recording they were told to be, in the store; for one more the oldest is forgotten.
pub const DISPROVED: u64 = 1_024;
/// Recordings that nobody connected has and that are looked up in the DHT; for one more the one asked for longest ago is
/// left out.
pub const DHT_SOUGHT: usize = 32;
/// Piece lists of our files kept in the store; for one more another is forgotten.
pub const PIECE_LISTS: u64 = 4_096;
/// Bytes of those longer than about 2 KiB, on the disk; for one more others are forgotten. Chosen: 256 GiB of music.
pub const PIECE_LISTS_BYTES: u64 = 128 * MIB;

// ---- Traces (SPEC-FACTS 15) ----

/// Bytes of a job's name; a longer one is cut.
pub const TRACE_NAME_LEN: usize = 96;
/// Bytes of a job's title, and of a text in a line; cut.
pub const TRACE_TEXT_LEN: usize = 256;
/// Bytes of one job's lines; further lines are counted, not kept.
pub const TRACE_BYTES: u64 = 10_000_000;
/// Sources of one job with sums of their own; further ones are summed together.
pub const TRACE_SOURCES: usize = 32;
/// Parts of a file in the picture of who delivered what.
pub const TRACE_CELLS: usize = 256;
/// Lines waiting to be written; one more is counted, not kept.
pub const TRACE_WAITING: usize = 256;
/// Jobs whose sums are in memory; the one longest quiet is written and let go.
pub const TRACE_JOBS: usize = 8;
/// Lines of one page.
pub const TRACE_PAGE: usize = 1_000;
/// Lines that tell the story of a job, in its summary; the last are left out.
pub const TRACE_KEY_LINES: usize = 200;

// ---- Jobs (SPEC-FACTS 15) ----

/// Jobs kept; for a new one the oldest that is over is forgotten.
pub const JOBS: u64 = 1_000;
/// Jobs that are not over; one more is refused.
pub const JOBS_LIVE: usize = 100;
/// Jobs of one page.
pub const JOBS_PAGE: usize = 50;
/// Jobs being worked on at once; further ones wait.
pub const JOBS_AT_ONCE: usize = 4;
/// Tracks of a job; a longer release is refused, and can be had in parts.
pub const JOB_TRACKS: usize = 300;
/// Album folders of users that a job remembers; the worst are forgotten.
pub const JOB_OFFERS: usize = 32;
/// Files in them; the worst folders are forgotten.
pub const JOB_OFFERED_FILES: usize = 400;
/// Files of users that were tried for one track and are remembered; the oldest is forgotten.
pub const JOB_TRIED: usize = 32;
/// Finished files being measured at once for jobs; further ones wait.
pub const JOB_CHECKS: usize = 2;
/// Least kilobits per second that a job may give its fetches from the mesh, but for 0, which is none. Chosen: with less, two
/// fetches from several peers at once may prove no piece within the time after which one that does not move is left.
pub const JOB_OVERLAY_KBPS_MIN: u32 = 16;
/// Orders waiting for the one who does the jobs; who has one more waits.
pub const JOB_ORDERS: usize = 16;
/// Bytes of one text of a job: a title, a note; a longer one is cut, in a manifest refused.
pub const JOB_TEXT: usize = 512;
/// Bytes of a manifest; a longer one is refused.
pub const MANIFEST_LEN: usize = 768 * 1024;
/// Nesting of a manifest; deeper is refused.
pub const MANIFEST_DEPTH: usize = 8;
/// Values in a manifest; with more it is refused.
pub const MANIFEST_VALUES: usize = 20_000;
/// Manifests of one import; further files are not looked at, and it says so.
pub const MANIFESTS: usize = 1_000;

// ---- Repairs ----

/// Repairs kept in the store; for one more the one that ended longest ago is forgotten, and while none has ended it is
/// refused.
pub const REPAIRS: u64 = 2_000;
/// Issues of one wish to have them mended; more are refused. Each may cost the catalog a question of a second.
pub const FIX_AT_ONCE: usize = 50;
/// Repairs that the program begins by itself and that are under way; the next one waits for the end of one.
pub const AUTO_FIXES: usize = 2;

// ---- What peers tell one another (SPEC-FACTS 4, 8, 9). The memory for it is paid with `GOSSIP_BLOCKS` of the pool. ----

/// Recordings of one frame; a longer list is malformed.
pub const GOSSIP_RECORDINGS: usize = 128;
/// Copies of one recording that one peer tells; a longer list is malformed, and of our own only the best are told.
pub const GOSSIP_VARIANTS: usize = 4;
/// Text of a title, an artist, a label, bytes; a longer one is a violation.
pub const GOSSIP_TEXT: usize = 256;
/// Name of an encoder, bytes; a longer one is a violation.
pub const GOSSIP_ENCODER: usize = 64;
/// Tracks of a release in one frame; a longer list is malformed, and of our own the first are told.
pub const GOSSIP_TRACKS: usize = 256;
/// Recordings that we tell; those that changed longest ago are left out.
pub const GOSSIP_TOLD: u64 = 20_000;
/// Frames that wait to be looked at; the connection of one more waits two seconds, then it is passed over.
pub const GOSSIP_WAITING: usize = 2;
/// Frames of ours that wait to be written, one a peer; who has one more to tell tries again later, unless one waits for long:
/// that takes a block of the pool then, and its place is free.
pub const GOSSIP_TELLING: usize = 4;
/// Blocks of the pool for all that: frames waiting both ways, one being read, one being made.
pub const GOSSIP_BLOCKS: u32 = 10;
/// Bundles told to one peer within an hour: what 20,000 recordings take; further ones wait for the next.
pub const GOSSIP_TELLS_PER_HOUR: u32 = 180;
/// Recordings that a peer is told of whom the owner did not name, about; which ones is the same for all of them.
pub const GOSSIP_TOLD_STRANGERS: u64 = 1_000;
/// Peers that are gone and whose messages of the last hour are still counted; for one more, the oldest count is forgotten.
pub const GOSSIP_METERS: usize = 256;
/// Seconds after which a peer that is heard again is no newcomer: a week. Chosen.
pub const GOSSIP_OLD_S: u64 = 7 * 24 * 3_600;
/// Seconds of silence after which what a peer said of hashes is void, and a newcomer may take its place. Chosen.
pub const GOSSIP_SILENT_S: u64 = 30 * 24 * 3_600;
/// Bundles of one peer within an hour: twice what 20,000 recordings take; one more is a violation.
pub const GOSSIP_ADVERTS_PER_HOUR: u32 = 360;
/// Requests of one peer for hashes within an hour (SPEC-FACTS 8); one more is a violation.
pub const GOSSIP_DELTAS_PER_HOUR: u32 = 60;
/// Answers about recordings that one peer is owed while it cannot be told any; further ones are lost.
pub const GOSSIP_OWED: usize = 8;
/// Every other message of one peer about releases within an hour; one more is a violation.
pub const GOSSIP_OTHERS_PER_HOUR: u32 = 240;
/// Hashes of one request (SPEC-FACTS 12).
pub const GOSSIP_DELTA: u16 = 1_000;
/// Recordings that one peer's word is kept of; for one more the one it told longest ago is forgotten.
pub const OBSERVATIONS_PER_PEER: u64 = 20_000;
/// Peers whose word on one recording is kept; for one more that of the peer least long known is forgotten.
pub const OBSERVERS_PER_RECORDING: usize = 128;
/// Words kept, all peers and recordings together; for one more whoever said most loses one, newcomers first.
pub const OBSERVATIONS: u64 = 250_000;
/// Peers of whose lists it is kept how far they were heard; for one more a newcomer is forgotten with all its words, the one
/// silent longest, or somebody silent for a month; else it is not taken.
pub const OBSERVERS: u64 = 1_024;
/// Hashes kept of one peer; further ones are passed over until it sends a new list.
pub const HASHES_PER_PEER: u64 = 50_000;
/// Hashes kept of all peers; for one more whoever has most loses one, newcomers first.
pub const HASHES: u64 = 500_000;
/// Copies of a recording that are listed; further ones are counted.
pub const CONSENSUS_VARIANTS: usize = 16;

// ---- Rescue ----

/// Downloads watched for a rescue, those that move first; further ones are not until others are over.
pub const RESCUE_WATCHED: usize = 1_000;
/// Rescues kept in the store; for one more the oldest that is over is forgotten.
pub const RESCUES_KEPT: usize = 500;
/// Copies of one recording that a hanging download is compared with; further ones are not.
pub const RESCUE_COPIES: usize = 8;
/// Copies of which a piece list is asked for to that end: what nobody has a list of does not count.
pub const RESCUE_COPIES_ASKED: usize = 32;
/// Downloads that failed and are watched all the same, where they may be rescued; further ones are not.
pub const RESCUES_FAILED: usize = 256;
/// Peers named in one rescue for what they sent; further ones stand in the log alone.
pub const RESCUE_LIARS: usize = 16;
/// Copies that proved to be others, of one download; further ones are looked at again.
pub const RESCUE_REFUTED: usize = 32;
/// Users at once whose file is compared with one that mesh peers brought; who offers one more hears that it is complete.
pub const ORIGINS_ASKED: usize = 4;
/// Bytes of the file's end that such a user is asked for: one block of the pool; another one holds as much of its beginning.
pub const ORIGIN_SAMPLE: u64 = 64 * KIB;

// ---- The sum ----

/// What each holder may take at its worst, in bytes. Per-item sizes are the structs' own plus typical text, rounded up.
pub fn worst_case() -> [(&'static str, u64); 18] {
    let n = |count: usize, each: u64| (count as u64).saturating_mul(each);
    // While files are measured: what waits for workers, the workers' answers with the bytes they came in, and what is
    // written down, which the store holds a second time.
    let measuring = n(SCAN_AHEAD, 2 * KIB)
        + n(SCAN_WORKERS, 2 * WORKER_MEASURED_LEN as u64)
        + n(SCAN_ANSWERS + 2 * SCAN_BATCH, 16 * KIB)
        + n(SCAN_LINKS, 32);
    // Afterwards: copies of one recording with their fingerprints, or those of one release without.
    // What peers say of a recording besides.
    let settling = n(VARIANTS_PER_RECORDING, 8 * KIB)
        + n(RELEASE_FILES, 2 * KIB)
        + n(OBSERVERS_PER_RECORDING * GOSSIP_VARIANTS, 256);
    [
        ("program, runtimes and thread stacks", 12 * MIB),
        ("buffers between network and disk", n(BLOCKS, BLOCK_LEN as u64)),
        ("large frames being received", FRAMES_AT_ONCE_BYTES as u64),
        ("messages waiting in connections", BACKLOG_BYTES as u64),
        ("search replies waiting for connections", n(WAITING_REPLIES, 50 * KIB)),
        ("connections with users and their small frames", n(USER_CONNECTIONS, 64 * KIB)),
        ("search results", n(SEARCHES * SEARCH_ROWS, 400)),
        ("downloads that are not over", n(DOWNLOADS, 1_024)),
        ("uploads that are not over", n(UPLOADS, 768)),
        ("web connections and request bodies", n(WEB_CONNECTIONS, 64 * KIB) + n(LARGE_BODIES, BODY_LEN as u64)),
        ("one password being hashed", 19 * MIB),
        ("store commits and reads", 3 * COMMIT_BYTES),
        ("answers of catalogs being read", n(2, (CATALOG_ANSWER_LEN + 2 * CATALOG_SHORT_ANSWER_LEN) as u64)),
        // A download watched for a rescue takes 64 bytes: the smallest of these tables.
        ("log lines, messages, tables of users and of downloads that may hang", 8 * MIB),
        // Lines in the queue, gathered, and on their way to the disk.
        ("traces, transfers to peers", n(3 * TRACE_WAITING, 320) + n(TRACE_JOBS, 12 * KIB) + n(MESH_UPLOADS, 160)),
        ("the scan of the library", measuring.max(settling)),
        // One at a time is looked at; the rest lies in the store.
        ("a job being led", n(JOB_OFFERED_FILES, 160)),
        // Levels, the worker's answer or the points they become, the PNG.
        ("one spectrogram being drawn", n(4, SPECTROGRAM_COLUMNS as u64 * SPECTROGRAM_ROWS as u64)),
    ]
}

/// Workers that measure at once on the boards we know, one of four cores left free: what the service's limits count with.
const UNIT_WORKERS: u64 = 3;
/// Between the service's two limits: one worker that outgrows its normal work before its own limits end it, and pages of
/// the store that can be dropped only once they are written. Chosen.
const UNIT_ROOM: u64 = 96 * MIB;

/// `MemoryHigh` of the service, bytes: `budget` (`memory.budget`) plus the workers, in steps of 32 MiB (DECISIONS 17).
/// Above it the kernel takes pages back.
pub fn unit_memory_high(budget: u64) -> u64 {
    budget.saturating_add(UNIT_WORKERS * WORKER_ANONYMOUS).next_multiple_of(32 * MIB)
}

/// `MemoryMax` of the service, bytes. Above it the kernel ends a process.
pub fn unit_memory_max(budget: u64) -> u64 {
    unit_memory_high(budget).saturating_add(UNIT_ROOM)
}

/// Whether everything at its worst fits `memory.budget`.
///
/// # Errors
/// One sentence with both figures.
pub fn fits(config: &super::config::Config) -> Result<(), String> {
    let need: u64 = worst_case().iter().map(|(_, bytes)| bytes).sum();
    let budget = config.memory_budget_mib.saturating_mul(MIB);
    if need <= budget {
        return Ok(());
    }
    let (need, have) = (need.div_ceil(MIB), config.memory_budget_mib);
    Err(format!("memory.budget: {have} MiB are too few, the program may need {need} MiB at its worst"))
}

// The relations the table rests on.
const _: () = {
    assert!(FRAME_RESULTS as usize <= FRAMES_AT_ONCE_BYTES, "one large frame must fit, or none ever arrives");
    assert!(WEB_CONNECTIONS_PER_ADDRESS < WEB_CONNECTIONS, "one host leaves some to others");
    assert!(PEER_CONNECTIONS < USER_CONNECTIONS && UNFINISHED_CONNECTIONS < USER_CONNECTIONS);
    assert!(OVERLAP_BYTES <= BLOCK_LEN as u64, "an overlap is compared in one block");
    assert!(SPECTROGRAM_COLUMNS * SPECTROGRAM_ROWS + 1_024 <= WORKER_ANSWER_LEN, "a spectrogram fits its answer");
    // Five bytes a word; ten texts with their lengths; spectrum and numbers.
    assert!(5 * FINGERPRINT_WORDS + 10 * (TAG_TEXT_LEN + 2) + 4_096 <= WORKER_MEASURED_LEN, "measurements fit theirs");
    assert!(SEARCHES_AT_ONCE <= SEARCHES && BROWSE_SPOOLS <= INQUIRIES);
};

#[cfg(test)]
mod tests;
