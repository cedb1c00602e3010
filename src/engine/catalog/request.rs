//! What is asked of a service, and how long the answer stands.

use std::fmt::Write as _;
use std::time::Duration;

use crate::model::catalog::Service;
use crate::model::id::{RecordingId, ReleaseId};

/// Something one wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A release with everything on it.
    Release(ReleaseId),
    /// A recording.
    Recording(RecordingId),
    /// The releases that have a recording.
    ReleasesOf(RecordingId),
    /// The recordings that sound like this.
    Sound {
        /// The fingerprint in AcoustID's text form.
        fingerprint: String,
        /// Length of the whole file, seconds.
        duration_s: u32,
    },
    /// A release by its number in Discogs.
    DiscogsRelease(u64),
    /// The release of MusicBrainz that links to this number in Discogs.
    LinkedToDiscogs(u64),
}

/// What of a release is asked for. Tags, ratings and annotations are not: their licence differs from the core data's.
const RELEASE_PARTS: &str = "artist-credits+isrcs+labels+media+recordings+release-groups+url-rels";
/// What of a recording is asked for.
const RECORDING_PARTS: &str = "artist-credits+isrcs";
/// What of a sound is asked for.
const SOUND_PARTS: &str = "recordings releasegroups sources compress";

/// One request, less the service's address and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whom to ask.
    pub service: Service,
    /// Path below the service's address and query: letters that need no escaping.
    pub path: String,
    /// Names and values to be posted; empty: it is a GET.
    pub form: Vec<(&'static str, String)>,
}

impl Wanted {
    /// Whom to ask.
    pub fn service(&self) -> Service {
        match self {
            Self::Release(_) | Self::Recording(_) | Self::ReleasesOf(_) | Self::LinkedToDiscogs(_) => {
                Service::MusicBrainz
            }
            Self::Sound { .. } => Service::AcoustId,
            Self::DiscogsRelease(_) => Service::Discogs,
        }
    }

    /// How to ask.
    pub fn request(&self) -> Request {
        let service = self.service();
        let got = |path: String| Request { service, path, form: Vec::new() };
        match self {
            Self::Release(id) => got(format!("/release/{id}?fmt=json&inc={RELEASE_PARTS}")),
            Self::Recording(id) => got(format!("/recording/{id}?fmt=json&inc={RECORDING_PARTS}")),
            Self::ReleasesOf(id) => got(format!("/release?fmt=json&limit=100&recording={id}")),
            Self::Sound { fingerprint, duration_s } => Request {
                service,
                path: "/lookup".to_owned(),
                form: vec![
                    ("format", "json".to_owned()),
                    ("meta", SOUND_PARTS.to_owned()),
                    ("duration", duration_s.to_string()),
                    ("fingerprint", fingerprint.clone()),
                ],
            },
            Self::DiscogsRelease(number) => got(format!("/releases/{number}")),
            Self::LinkedToDiscogs(number) => got(format!(
                "/url?fmt=json&inc=release-rels&resource=https%3A%2F%2Fwww.discogs.com%2Frelease%2F{number}"
            )),
        }
    }
}

impl Request {
    /// The name under which its answer is kept: at most 200 bytes. What is posted stands as its hash.
    pub fn name(&self) -> String {
        let mut name = format!("{}{}", self.service.name(), self.path);
        if !self.form.is_empty() {
            let mut hasher = blake3::Hasher::new();
            for (field, value) in &self.form {
                hasher.update(field.as_bytes());
                hasher.update(b"=");
                hasher.update(value.as_bytes());
                hasher.update(b"&");
            }
            let _ = write!(name, "?{}", hasher.finalize().to_hex());
        }
        name
    }
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How long an answer stands. Chosen: catalogs change slowly, and what they lack today they may have next week.
pub fn life(found: bool) -> Duration {
    if found { DAY.saturating_mul(30) } else { DAY.saturating_mul(7) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_these() {
        let release = Wanted::Release(ReleaseId(0x6a76_904c_0caf_34e1_8cc2_7d95_e86a_3824)).request();
        assert_eq!(
            release.name(),
            "musicbrainz/release/6a76904c-0caf-34e1-8cc2-7d95e86a3824?fmt=json&inc=\
             artist-credits+isrcs+labels+media+recordings+release-groups+url-rels"
        );
        let sound = |duration_s| Wanted::Sound { fingerprint: "AQAA".repeat(1_000), duration_s }.request();
        assert!(sound(1).name().len() < 200);
        assert_eq!(sound(1).name(), sound(1).name());
        assert_ne!(sound(1).name(), sound(2).name(), "the duration belongs to the question");
        assert_eq!(
            Wanted::ReleasesOf(RecordingId(1)).request().path,
            "/release?fmt=json&limit=100&recording=00000000-0000-0000-0000-000000000001"
        );
        assert_eq!(Wanted::DiscogsRelease(7).request().path, "/releases/7");
    }
}
