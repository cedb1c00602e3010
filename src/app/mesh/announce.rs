//! What could be announced in the DHT: the meeting places, and recordings and releases of files that are shared.
//!
//! A recording or release counts when the Doctor knows it and at least one of its files is advertised to other users
//! now. Half of the room is the releases'.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use crate::app::soulseek::Parts;
use crate::engine::mesh::meeting::{RENDEZVOUS, content_key, rendezvous_key};
use crate::model::config;
use crate::model::health::Variant;
use crate::model::limits;
use crate::model::mesh::{Announced, DhtKey};
use crate::store::StoreError;

/// Copies read from the store at once.
const PAGE: usize = 256;

/// The meeting places, by their texts.
pub(super) fn places(dht: &config::MeshDht) -> Vec<(DhtKey, Announced)> {
    let own: Vec<String> = RENDEZVOUS.map(str::to_owned).into();
    let names = if dht.rendezvous_keys.is_empty() { &own } else { &dht.rendezvous_keys };
    let mut places: Vec<(DhtKey, Announced)> = Vec::new();
    for name in names {
        let key = rendezvous_key(name);
        if !places.iter().any(|(known, _)| *known == key) {
            places.push((key, Announced::Place(name.clone())));
        }
    }
    places
}

/// Recordings and releases that are shared, at most `limits::DHT_ANNOUNCED`. Reads the store: not for the runtime's
/// threads.
///
/// # Errors
/// The store cannot be read.
pub(super) fn content(parts: &Parts) -> Result<Vec<(DhtKey, Announced)>, StoreError> {
    let mut releases: BTreeMap<u128, String> = BTreeMap::new();
    let mut recordings: BTreeMap<u128, String> = BTreeMap::new();
    let (mut after, mut seen): (Option<Vec<u8>>, usize) = (None, 0);
    while seen < limits::DHT_COPIES {
        let page = parts.store.read(|txn, tables| tables.library.variants_after(txn, after.as_deref(), PAGE))?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        seen += page.len();
        for (_, variant) in &page {
            let identity = &variant.identity;
            let release = identity.release_id.filter(|id| {
                identity.recording_id.is_some() && !releases.contains_key(id) && releases.len() < limits::DHT_ANNOUNCED
            });
            let recording = identity
                .recording_id
                .filter(|id| !recordings.contains_key(id) && recordings.len() < limits::DHT_ANNOUNCED);
            if (release.is_none() && recording.is_none()) || !is_shared(parts, variant) {
                continue;
            }
            let tags = &variant.measured.tags;
            if let Some(id) = release {
                releases.insert(id, title(tags.album_artist.as_ref().or(tags.artist.as_ref()), tags.album.as_ref()));
            }
            if let Some(id) = recording {
                recordings.insert(id, title(tags.artist.as_ref(), tags.title.as_ref()));
            }
        }
        if releases.len() >= limits::DHT_ANNOUNCED / 2 && recordings.len() >= limits::DHT_ANNOUNCED {
            break;
        }
    }
    // Whoever does not need its half leaves it to the other.
    let half = limits::DHT_ANNOUNCED / 2;
    let of_releases = releases.len().min(limits::DHT_ANNOUNCED - recordings.len().min(half));
    let of_recordings = limits::DHT_ANNOUNCED - of_releases;
    let releases = releases.into_iter().take(of_releases);
    let recordings = recordings.into_iter().take(of_recordings);
    Ok(releases
        .map(|(id, title)| (content_key(id), Announced::Release(id, title)))
        .chain(recordings.map(|(id, title)| (content_key(id), Announced::Recording(id, title))))
        .collect())
}

fn is_shared(parts: &Parts, variant: &Variant) -> bool {
    variant.paths.iter().any(|path| {
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.0.clone()));
        // One that cannot be looked up is not announced.
        parts.sharing.find_local(&path).ok().flatten().is_some()
    })
}

fn title(artist: Option<&String>, title: Option<&String>) -> String {
    match (artist, title) {
        (Some(artist), Some(title)) => format!("{artist} \u{2013} {title}"),
        (None, Some(one)) | (Some(one), None) => one.clone(),
        (None, None) => String::new(),
    }
}
