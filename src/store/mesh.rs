//! The mesh's tables: files being fetched, and piece lists.
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | `mesh-fetches-1` | content hash | [`Fetch`] |
//! | `fetch-users-1` | content hash | [`FetchUsers`] |
//! | `fetch-recordings-1` | content hash | the recording that it is fetched as, 16 bytes |
//! | `piece-lists-1` | content hash | the list, 32 bytes a piece |
//! | `peer-metrics-1` | source | [`SourceMetrics`] |
//! | `reputation-1` | source | [`Reputation`] |
//!
//! A list proves itself, so nothing else is kept of it; one that is forgotten can be had again. Of lists there are at most
//! `limits::PIECE_LISTS`, and `limits::PIECE_LISTS_BYTES` of long ones: for one more, the one whose hash follows is
//! forgotten, which is as good as any.

use std::ops::Bound;
use std::time::Duration;

use heed::{RoTxn, RwTxn};
use serde::{Deserialize, Serialize};

use super::records::{Record, decode, get, put};
use super::tables::{Env, KEY_LEN, Table, Tables, open_table};
use super::writer::JOB_BYTES;
use super::{Store, StoreError};
use crate::engine::swarm::metrics::SourceMetrics;
use crate::engine::swarm::reputation::Reputation;
use crate::model::id::{ContentHash, Username};
use crate::model::limits;
use crate::model::mesh::{Fetch, FetchState};
use crate::model::music::WireText;
use crate::model::swarm::Source;
use crate::model::time::UnixMs;

impl Record for Fetch {
    const NAME: &'static str = "fetch";
    const VERSION: u8 = 1;
}

/// Soulseek users who share a file that is being fetched, and under which path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct FetchUsers(Vec<(Username, WireText)>);

impl Record for FetchUsers {
    const NAME: &'static str = "users of a fetch";
    const VERSION: u8 = 1;
}

impl Record for SourceMetrics {
    const NAME: &'static str = "metrics of a source";
    const VERSION: u8 = 1;
}

impl Record for Reputation {
    const NAME: &'static str = "reputation of a source";
    const VERSION: u8 = 1;
}

/// `m` and the peer's id, or `s` and the user's name.
fn source_key(source: &Source) -> Vec<u8> {
    let (kind, name) = match source {
        Source::Mesh(peer) => (b'm', peer.0.as_slice()),
        Source::Soulseek(user) => (b's', user.as_str().as_bytes()),
    };
    let mut key = vec![kind];
    key.extend(name.iter().take(KEY_LEN - 1));
    key
}

/// The tables of the mesh.
#[derive(Clone, Copy, Debug)]
pub struct MeshTables {
    fetches: Table,
    users: Table,
    recordings: Table,
    lists: Table,
    metrics: Table,
    reputation: Table,
}

impl MeshTables {
    /// Opens the tables, and creates those that are not there.
    pub fn open(env: &Env, txn: &mut RwTxn<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            fetches: open_table(env, txn, "mesh-fetches-1")?,
            users: open_table(env, txn, "fetch-users-1")?,
            recordings: open_table(env, txn, "fetch-recordings-1")?,
            lists: open_table(env, txn, "piece-lists-1")?,
            metrics: open_table(env, txn, "peer-metrics-1")?,
            reputation: open_table(env, txn, "reputation-1")?,
        })
    }

    /// The tables by name, for their sizes.
    pub(super) fn tables(&self) -> [(&'static str, Table); 6] {
        [
            ("mesh-fetches", self.fetches),
            ("fetch-users", self.users),
            ("fetch-recordings", self.recordings),
            ("piece-lists", self.lists),
            ("peer-metrics", self.metrics),
            ("reputation", self.reputation),
        ]
    }

    /// All fetches, in the order of their content.
    pub fn fetches(&self, txn: &RoTxn<'_>) -> Result<Vec<Fetch>, StoreError> {
        self.fetches.iter(txn)?.map(|entry| decode(entry?.1)).collect()
    }

    /// One fetch.
    pub fn fetch(&self, txn: &RoTxn<'_>, content: ContentHash) -> Result<Option<Fetch>, StoreError> {
        get(self.fetches, txn, &content.0)
    }

    /// New or replaced. Beyond `limits::MESH_FETCHES_KEPT` the oldest that is over is forgotten.
    pub fn put_fetch(&self, txn: &mut RwTxn<'_>, fetch: &Fetch) -> Result<(), StoreError> {
        let known = self.fetches.get(txn, &fetch.content.0)?.is_some();
        if !known && self.fetches.len(txn)? >= limits::MESH_FETCHES_KEPT as u64 {
            let over = self.fetches(txn)?.into_iter().filter(|fetch| fetch.state != FetchState::Running);
            if let Some(oldest) = over.min_by_key(|fetch| fetch.ended_at) {
                self.fetches.delete(txn, &oldest.content.0)?;
                self.users.delete(txn, &oldest.content.0)?;
                self.recordings.delete(txn, &oldest.content.0)?;
            }
        }
        put(self.fetches, txn, &fetch.content.0, fetch)
    }

    /// Forgets a fetch.
    pub fn remove_fetch(&self, txn: &mut RwTxn<'_>, content: ContentHash) -> Result<(), StoreError> {
        self.fetches.delete(txn, &content.0)?;
        self.users.delete(txn, &content.0)?;
        self.recordings.delete(txn, &content.0)?;
        Ok(())
    }

    /// The piece list of a file, as it was kept.
    pub fn list(&self, txn: &RoTxn<'_>, content: ContentHash) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.lists.get(txn, &content.0)?.map(<[u8]>::to_vec))
    }

    /// Keeps a piece list.
    pub fn put_list(&self, txn: &mut RwTxn<'_>, content: ContentHash, list: &[u8]) -> Result<(), StoreError> {
        self.lists.put(txn, &content.0, list)?;
        self.forget_lists(txn, content, limits::PIECE_LISTS, limits::PIECE_LISTS_BYTES)
    }

    /// Until there are no more than so many, and no more bytes of long ones than so many, or only this one is left.
    fn forget_lists(&self, txn: &mut RwTxn<'_>, content: ContentHash, most: u64, bytes: u64) -> Result<(), StoreError> {
        loop {
            let stat = self.lists.stat(txn)?;
            // Long values have pages of their own.
            let long = stat.overflow_pages as u64 * u64::from(stat.page_size);
            let full = stat.entries as u64 > most || long > bytes;
            if !full || stat.entries <= 1 {
                return Ok(());
            }
            let behind = (Bound::Excluded(content.0.as_slice()), Bound::Unbounded);
            let next = self.lists.range(txn, &behind)?.next().transpose()?.map(|(key, _)| key.to_vec());
            let next = match next {
                Some(next) => Some(next),
                None => self.lists.first(txn)?.map(|(key, _)| key.to_vec()),
            };
            match next {
                Some(next) => self.lists.delete(txn, &next)?,
                None => return Ok(()),
            };
        }
    }

    /// What is known of a source: nothing, if nothing is.
    pub fn source(&self, txn: &RoTxn<'_>, source: &Source) -> Result<(SourceMetrics, Reputation), StoreError> {
        let key = source_key(source);
        let metrics = get(self.metrics, txn, &key)?.unwrap_or_default();
        Ok((metrics, get(self.reputation, txn, &key)?.unwrap_or_default()))
    }

    /// Adds what was newly measured of sources, and what they did, to what is known, faded to this moment: of one source
    /// several files may come at once. Beyond `limits::MESH_SOURCES_KEPT` those longest not met are forgotten.
    pub fn learn(
        &self,
        txn: &mut RwTxn<'_>,
        records: &[(Source, SourceMetrics, Reputation)],
        now: UnixMs,
        half_life: Duration,
    ) -> Result<(), StoreError> {
        for (source, news, deeds) in records {
            let key = source_key(source);
            let (old, known) = self.source(txn, source)?;
            let first_seen = if old.first_seen == UnixMs(0) { now } else { old.first_seen };
            let metrics = SourceMetrics { first_seen, last_updated: now, ..old.with(news) };
            put(self.metrics, txn, &key, &metrics)?;
            let first_at = if known.first_at == UnixMs(0) { now } else { known.first_at };
            let known = Reputation { first_at, ..known.faded(now, half_life).with(deeds) };
            put(self.reputation, txn, &key, &known)?;
        }
        self.forget_sources(txn)
    }

    fn forget_sources(&self, txn: &mut RwTxn<'_>) -> Result<(), StoreError> {
        let count = self.metrics.len(txn)?;
        let Some(more) = count.checked_sub(limits::MESH_SOURCES_KEPT).filter(|more| *more > 0) else { return Ok(()) };
        let mut met = Vec::new();
        for entry in self.metrics.iter(txn)? {
            let (key, value) = entry?;
            met.push((decode::<SourceMetrics>(value)?.last_updated, key.to_vec()));
        }
        met.sort();
        for (_, key) in met.into_iter().take(usize::try_from(more).unwrap_or(usize::MAX)) {
            self.metrics.delete(txn, &key)?;
            self.reputation.delete(txn, &key)?;
        }
        Ok(())
    }
}

impl Store {
    /// What is known of a source: nothing, if nothing is.
    pub fn source(&self, source: &Source) -> Result<(SourceMetrics, Reputation), StoreError> {
        self.read(|txn, tables| tables.mesh.source(txn, source))
    }

    /// Keeps what was measured of sources, and what they did, since it was last kept.
    pub async fn learn(
        &self,
        records: Vec<(Source, SourceMetrics, Reputation)>,
        now: UnixMs,
        half_life: Duration,
    ) -> Result<(), StoreError> {
        self.write(move |txn, tables| tables.mesh.learn(txn, &records, now, half_life)).await
    }

    /// All fetches, in the order of their content.
    pub fn fetches(&self) -> Result<Vec<Fetch>, StoreError> {
        self.read(|txn, tables| tables.mesh.fetches(txn))
    }

    /// Writes a fetch and waits until it is durable.
    pub async fn put_fetch(&self, fetch: Fetch) -> Result<(), StoreError> {
        self.write(move |txn, tables| tables.mesh.put_fetch(txn, &fetch)).await
    }

    /// Forgets a fetch.
    pub async fn remove_fetch(&self, content: ContentHash) -> Result<(), StoreError> {
        self.write(move |txn, tables| tables.mesh.remove_fetch(txn, content)).await
    }

    /// Soulseek users who share a file that is being fetched, and under which path.
    pub fn fetch_users(&self, content: ContentHash) -> Result<Vec<(Username, WireText)>, StoreError> {
        self.read(|txn, tables| Ok(get::<FetchUsers>(tables.mesh.users, txn, &content.0)?.unwrap_or_default().0))
    }

    /// The recording that a file is fetched as.
    pub fn fetch_recording(&self, content: ContentHash) -> Result<Option<u128>, StoreError> {
        self.read(|txn, tables| {
            let kept = tables.mesh.recordings.get(txn, &content.0)?;
            Ok(kept.and_then(|bytes| bytes.try_into().ok()).map(u128::from_be_bytes))
        })
    }

    /// Keeps both, before the fetch itself.
    pub async fn put_fetch_ways(
        &self,
        content: ContentHash,
        users: Vec<(Username, WireText)>,
        recording: Option<u128>,
    ) -> Result<(), StoreError> {
        let users = FetchUsers(users);
        let put = move |txn: &mut RwTxn<'_>, tables: &Tables| {
            match recording {
                Some(id) => tables.mesh.recordings.put(txn, &content.0, &id.to_be_bytes())?,
                None => _ = tables.mesh.recordings.delete(txn, &content.0)?,
            }
            put(tables.mesh.users, txn, &content.0, &users)
        };
        self.write(put).await
    }

    /// The piece list of a file, as it was kept.
    pub fn piece_list(&self, content: ContentHash) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|txn, tables| tables.mesh.list(txn, content))
    }

    /// Keeps a piece list.
    pub async fn put_piece_list(&self, content: ContentHash, list: Vec<u8>) -> Result<(), StoreError> {
        let bytes = JOB_BYTES.max(list.len() as u64);
        self.write_sized(bytes, move |txn, tables| tables.mesh.put_list(txn, content, &list)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::UnixMs;
    use crate::store::StoreOptions;
    use crate::store::records::encode;

    fn fetch(n: u8, state: FetchState) -> Fetch {
        let ended_at = (state != FetchState::Running).then_some(UnixMs(u64::from(n)));
        Fetch {
            content: ContentHash([n; 32]),
            size: 300,
            name: "n".into(),
            folder: "f".into(),
            asked_at: UnixMs(2),
            ended_at,
            state,
            meant: Some("m".into()),
        }
    }

    #[tokio::test]
    async fn fetches_and_lists_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
        for n in [3, 1] {
            store.put_fetch(fetch(n, FetchState::Running)).await.unwrap();
        }
        store.put_fetch(fetch(1, FetchState::Done("/x".into()))).await.unwrap();
        assert_eq!(store.fetches().unwrap(), [fetch(1, FetchState::Done("/x".into())), fetch(3, FetchState::Running)]);
        let ways = |recording| store.put_fetch_ways(ContentHash([1; 32]), vec![("ann".into(), "x".into())], recording);
        for recording in [Some(7), None, Some(u128::MAX)] {
            ways(recording).await.unwrap();
            assert_eq!(store.fetch_recording(ContentHash([1; 32])).unwrap(), recording);
        }
        store.remove_fetch(ContentHash([1; 32])).await.unwrap();
        assert_eq!(store.fetch_recording(ContentHash([1; 32])).unwrap(), None);
        assert_eq!(store.fetch_users(ContentHash([1; 32])).unwrap(), []);
        assert_eq!(store.fetches().unwrap().len(), 1);
        store.put_piece_list(ContentHash([1; 32]), vec![5; 64]).await.unwrap();
        assert_eq!(store.piece_list(ContentHash([1; 32])).unwrap(), Some(vec![5; 64]));
        assert_eq!(store.piece_list(ContentHash([2; 32])).unwrap(), None);
    }

    #[tokio::test]
    async fn both_tables_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
        let hash = |n: u64| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            ContentHash(hash)
        };
        let lists = store.write(move |txn, tables| {
            for n in 0..limits::PIECE_LISTS + 10 {
                tables.mesh.put_list(txn, hash(n), &[0])?;
            }
            let last = tables.mesh.list(txn, hash(limits::PIECE_LISTS + 9))?.is_some();
            Ok((tables.mesh.lists.len(txn)?, last))
        });
        assert_eq!(lists.await.unwrap(), (limits::PIECE_LISTS, true));
        let long = store.write(move |txn, tables| {
            tables.mesh.lists.clear(txn)?;
            let mut counts = Vec::new();
            for n in 0..8 {
                tables.mesh.put_list(txn, hash(n), &vec![0; 60_000])?;
                tables.mesh.forget_lists(txn, hash(n), 100, 200_000)?;
                assert!(tables.mesh.list(txn, hash(n))?.is_some(), "the newest is kept");
                counts.push(tables.mesh.lists.len(txn)?);
            }
            tables.mesh.forget_lists(txn, hash(7), 100, 0)?;
            counts.push(tables.mesh.lists.len(txn)?);
            Ok(counts)
        });
        assert_eq!(long.await.unwrap(), [1, 2, 3, 3, 3, 3, 3, 3, 1]);
        let kept = store.write(move |txn, tables| {
            for n in 0..limits::MESH_FETCHES_KEPT as u64 + 5 {
                let over = if n == 0 { FetchState::Running } else { FetchState::Done("x".into()) };
                tables.mesh.put_fetch(txn, &Fetch { content: hash(n), ended_at: Some(UnixMs(n)), ..fetch(0, over) })?;
            }
            Ok((
                tables.mesh.fetches.len(txn)?,
                tables.mesh.fetch(txn, hash(0))?.is_some(),
                tables.mesh.fetch(txn, hash(1))?,
            ))
        });
        assert_eq!(kept.await.unwrap(), (limits::MESH_FETCHES_KEPT as u64, true, None));
    }

    #[tokio::test]
    #[allow(clippy::float_cmp, reason = "halves of small numbers are exact")]
    async fn what_sources_did_outlives_a_restart_and_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let half_life = Duration::from_secs(7 * 24 * 3_600);
        let week = u64::try_from(half_life.as_millis()).unwrap();
        let source = |n: u64| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            Source::Mesh(crate::model::id::PeerId(id))
        };
        let deeds = Reputation { corrupt: 4.0, ..Reputation::default() };
        let metrics = SourceMetrics { requested: 7, ..SourceMetrics::default() };
        let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
        let user = Source::Soulseek("a user".into());
        let both = vec![(source(1), metrics.clone(), deeds), (user.clone(), metrics, Reputation::default())];
        store.learn(both, UnixMs(week), half_life).await.unwrap();
        drop(store);
        let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
        let (found, known) = store.source(&source(1)).unwrap();
        assert_eq!((found.requested, found.first_seen, known.corrupt), (7, UnixMs(week), 4.0));
        assert_eq!(store.source(&user).unwrap().0.requested, 7);
        assert_eq!(store.source(&source(2)).unwrap(), Default::default());
        // Two files at once, each of which knows nothing of what the other measures.
        for requested in [2, 5] {
            let mut news = SourceMetrics { requested, ..SourceMetrics::default() };
            news.throughput_sample(1_000.0);
            let deeds = Reputation { corrupt: 2.0, ..Reputation::default() };
            store.learn(vec![(source(1), news, deeds)], UnixMs(2 * week), half_life).await.unwrap();
        }
        let (found, known) = store.source(&source(1)).unwrap();
        assert_eq!((known.corrupt, known.first_at, found.first_seen), (6.0, UnixMs(week), UnixMs(week)));
        assert_eq!((found.requested, found.sample_count, found.throughput.samples()), (14, 2, 2));
        // A clock that went back fades nothing; a source met then is the one longest not met.
        let many = (2..limits::MESH_SOURCES_KEPT + 5).map(|n| (source(n), SourceMetrics::default(), deeds)).collect();
        let nothing = (source(1), SourceMetrics::default(), Reputation::default());
        store.learn(vec![nothing], UnixMs(5), half_life).await.unwrap();
        assert_eq!(store.source(&source(1)).unwrap().1.corrupt, 6.0);
        store.learn(many, UnixMs(3 * week), half_life).await.unwrap();
        assert_eq!(store.source(&source(1)).unwrap(), Default::default());
        let sizes = store.read(|txn, tables| Ok((tables.mesh.metrics.len(txn)?, tables.mesh.reputation.len(txn)?)));
        assert_eq!(sizes.unwrap(), (limits::MESH_SOURCES_KEPT, limits::MESH_SOURCES_KEPT));
    }

    #[test]
    fn the_stored_form_is_this() {
        let mut golden = vec![1];
        golden.extend([7; 32]);
        golden.extend([0xac, 2, 1, b'n', 1, b'f', 2, 1, 7, 1, 2, b'/', b'x', 1, 1, b'm']);
        assert_eq!(encode(&fetch(7, FetchState::Done("/x".into()))).unwrap(), golden);
    }
}
