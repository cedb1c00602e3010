//! The catalogs at work: settings from the configuration, answers kept in the store, and the way to one file's
//! identity walked to its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine as _;
use rusty_chromaprint::{Configuration, FingerprintCompressor};
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use crate::engine::catalog::discogs;
use crate::engine::catalog::pace::Pace;
use crate::engine::catalog::resolve::{Identity, Known, Next, Resolution};
use crate::model::catalog::{KeptAnswer, Release, Service};
use crate::model::config;
use crate::model::id::{RecordingId, ReleaseId};
use crate::net::catalog::{Cache, Catalog, CatalogError, CatalogSettings, Later, PATIENCE, ServiceSettings};
use crate::store::Store;

/// The store as the place where answers are kept. What it cannot keep is asked for again another time.
struct Kept(Store);

impl Cache for Kept {
    fn get(&self, name: &str) -> Option<KeptAnswer> {
        self.0.catalog_answer(name).unwrap_or_else(|error| {
            tracing::warn!(%error, "a kept answer of a catalog cannot be read");
            None
        })
    }

    fn put(&self, name: String, answer: KeptAnswer) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let kept = self.0.keep_catalog_answer(name, answer);
        Box::pin(async move {
            if let Err(error) = kept.await {
                tracing::warn!(%error, "an answer of a catalog cannot be kept");
            }
        })
    }
}

/// The catalogs as configured. Their tasks end with `cancel`; call it inside the runtime.
///
/// # Errors
/// When a service cannot be asked at all; see [`Catalog::start`].
pub fn start(
    config: &config::Catalog,
    store: Store,
    clock: Clock,
    cancel: &CancellationToken,
) -> Result<Catalog, CatalogError> {
    let cache: Arc<dyn Cache> = Arc::new(Kept(store));
    Catalog::start(&settings(config), &(Arc::new(move || clock.now()) as _), &cache, cancel)
}

fn settings(config: &config::Catalog) -> CatalogSettings {
    let of = |service: Service, given: &config::CatalogService| ServiceSettings {
        base_url: given.base_url.clone(),
        key: given.key.clone(),
        pace: Pace::of(service, !given.key.is_empty()),
    };
    CatalogSettings {
        musicbrainz: of(Service::MusicBrainz, &config.musicbrainz),
        acoustid: of(Service::AcoustId, &config.acoustid),
        discogs: of(Service::Discogs, &config.discogs),
        offline: config.offline,
        contact: config.contact.clone(),
        patience: PATIENCE,
    }
}

/// A fingerprint's words in AcoustID's text form.
pub fn fingerprint_text(words: &[u32]) -> String {
    // `preset_test2` is AcoustID's algorithm.
    let packed = FingerprintCompressor::from(&Configuration::preset_test2()).compress(words);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(packed)
}

/// A release; durations that MusicBrainz does not know are those of the Discogs release it links to.
///
/// # Errors
/// MusicBrainz has no answer now. Without one of Discogs the durations stay unknown.
pub async fn release(catalog: &Catalog, id: ReleaseId) -> Result<Option<Release>, Later> {
    let Some(mut release) = catalog.release(id).await? else { return Ok(None) };
    if discogs::lacks_durations(&release)
        && let Some(number) = release.discogs_release_id
        && let Ok(Some(linked)) = catalog.discogs_release(number).await
    {
        discogs::fill_durations(&mut release, &linked);
    }
    Ok(Some(release))
}

/// Finds out which recording a file is, as far as that is possible now. `look` compares the fingerprint with those known
/// here: the best recording and the share of differing bits. The second value says why something was not asked.
pub async fn identify(
    catalog: &Catalog,
    known: Known,
    fingerprint: &[u32],
    look: impl AsyncFnOnce() -> Option<(RecordingId, f32)>,
) -> (Identity, Option<Later>) {
    let duration_s = u32::try_from(known.duration_ms.saturating_add(500) / 1_000).unwrap_or(u32::MAX);
    let mut way = Resolution::new(Known { has_fingerprint: !fingerprint.is_empty(), ..known });
    let mut look = Some(look);
    let mut why = None;
    loop {
        match way.next() {
            Next::Done(identity) => return (*identity, why),
            Next::LookLocally => {
                let best = match look.take() {
                    Some(look) => look().await,
                    None => None,
                };
                way.on_local(best);
            }
            Next::AskAcoustId => match catalog.lookup(&fingerprint_text(fingerprint), duration_s).await {
                Ok(results) => way.on_sounds(&results),
                Err(later @ Later::NoKey(_)) => {
                    way.on_no_lookup();
                    why = Some(later);
                }
                Err(later) => {
                    way.on_later();
                    why = Some(later);
                }
            },
            Next::AskMusicBrainz(id) => match catalog.recording(id).await {
                Ok(found) => way.on_recording(found),
                Err(later) => {
                    way.on_later();
                    why = Some(later);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::catalog::resolve::{Proof, Unresolved};
    use crate::store::StoreOptions;

    fn offline(text: &str) -> config::Catalog {
        let service =
            |name: &str| config::CatalogService { base_url: format!("http://{name}.invalid"), key: text.into() };
        config::Catalog {
            musicbrainz: service("m"),
            acoustid: service("a"),
            discogs: service("d"),
            offline: true,
            contact: String::new(),
        }
    }

    #[test]
    fn fingerprints_read_as_fpcalc_writes_them() {
        // fpcalc 1.5.1 and fpcalc -raw on one file: five seconds of changing tones.
        let words = [
            3_487_672_614,
            3_685_853_478,
            4_220_626_999,
            3_146_234_164,
            3_112_681_012,
            3_113_131_572,
            3_113_126_436,
            3_126_561_380,
            3_123_415_652,
            4_264_251_236,
            4_130_013_409,
            4_129_947_874,
            1_915_621_602,
            1_915_629_794,
            820_916_370,
            816_722_054,
            816_725_902,
            279_853_775,
            279_853_711,
        ];
        let text = "AQAAE8o2KU2SZMFFIeSP5Gx0PDm-oRZ-SUnwBBdzImqS7EiO-8XR5FExHWwSxNJxAM4EMAQ6YDhBDDLhpMUA";
        assert_eq!(fingerprint_text(&words), text);
    }

    #[tokio::test]
    async fn without_a_network_tags_stand_and_the_rest_waits() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let cancel = CancellationToken::new();
        let catalog = start(&offline("key"), store, Clock::start(), &cancel).unwrap();
        let tagged = Known { tagged: Some(RecordingId(7)), duration_ms: 1_000, ..Known::default() };
        let (identity, why) = identify(&catalog, tagged, &[1], async || None).await;
        assert_eq!(identity.recording, Ok((RecordingId(7), Proof::Tags)));
        assert!(identity.is_unfinished);
        assert_eq!(why, Some(Later::Offline(Service::MusicBrainz)));

        let (identity, why) = identify(&catalog, Known::default(), &[1], async || None).await;
        assert_eq!(identity.recording, Err(Unresolved::NothingToGoBy));
        assert_eq!(why, Some(Later::Offline(Service::AcoustId)));
        cancel.cancel();
    }
}
