//! What the tags of a job's track are to say.

use crate::model::catalog::{PartialDate, Release};
use crate::model::job::{JobTrack, MbRelease};
use crate::model::sheet::Sheet;

/// Artists of a release whose ids are named; further ones are not. Chosen: compilations name one, splits two or three.
const ARTISTS: usize = 8;

/// The tags of a track: what the job knows, and what the catalog says besides, if it could be asked.
pub fn of(spec: &MbRelease, track: &JobTrack, known: Option<&Release>) -> Sheet {
    let known = known.filter(|known| known.id == spec.release);
    let medium = known.and_then(|known| known.media.iter().find(|medium| medium.position == track.medium));
    let credits = known.map(|known| known.credits.as_slice()).unwrap_or_default();
    let artists: Vec<_> = credits.iter().filter_map(|credit| credit.artist).take(ARTISTS).collect();
    let own = !track.artist.is_empty() && track.artist != spec.artist;
    Sheet {
        title: track.title.clone(),
        artist: if own { track.artist.clone() } else { spec.artist.clone() },
        album: spec.title.clone(),
        album_artist: spec.artist.clone(),
        track: track.position,
        tracks: medium.map(|medium| medium.track_count).filter(|count| *count >= track.position),
        disc: track.medium,
        discs: known.and_then(|known| known.media.iter().map(|medium| medium.position).max()),
        date: known.and_then(|known| known.date).and_then(date),
        recording: track.recording,
        release: spec.release,
        group: known.and_then(|known| known.group),
        artist_ids: if own { Vec::new() } else { artists.clone() },
        album_artist_ids: artists,
    }
}

/// What tags can say of a date: nothing without its year, and no day without its month.
fn date(date: PartialDate) -> Option<String> {
    let year = date.year?;
    let day = date.month.and(date.day);
    Some(PartialDate { year: Some(year), month: date.month, day }.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::jobs::fixtures::{spec, track};
    use crate::model::catalog::{Credit, Medium};
    use crate::model::id::{ArtistId, ReleaseGroupId, ReleaseId};

    fn known(id: u128) -> Release {
        let medium = |position, track_count| Medium {
            position,
            format: None,
            title: String::new(),
            track_count,
            tracks: Vec::new(),
        };
        Release {
            id: ReleaseId(id),
            group: Some(ReleaseGroupId(5)),
            title: "B".to_owned(),
            artist: "A".to_owned(),
            credits: vec![Credit { name: "A".to_owned(), artist: Some(ArtistId(7)), join: String::new() }],
            labels: Vec::new(),
            date: "2000-??-09".parse().ok(),
            country: None,
            barcode: None,
            status: None,
            primary_type: None,
            secondary_types: Vec::new(),
            disambiguation: String::new(),
            media: vec![medium(1, 9), medium(2, 4)],
            discogs_release_id: None,
            discogs_master_id: None,
        }
    }

    #[test]
    fn a_sheet_says_what_is_known() {
        let (one, guest) = (track(2, 3, "T", "", 1), track(1, 1, "G", "Guest", 1));
        let spec = spec("A", "B", &[one.clone(), guest.clone()]);
        let sheet = of(&spec, &one, Some(&known(1)));
        assert_eq!((sheet.artist.as_str(), sheet.track, sheet.tracks), ("A", 3, Some(4)));
        assert_eq!((sheet.disc, sheet.discs, sheet.date.as_deref()), (2, Some(2), Some("2000")));
        assert_eq!((sheet.artist_ids.len(), sheet.album_artist_ids.len()), (1, 1));
        let sheet = of(&spec, &guest, Some(&known(1)));
        assert_eq!((sheet.artist.as_str(), sheet.artist_ids.len()), ("Guest", 0));
        assert_eq!(sheet.album_artist_ids, [ArtistId(7)]);
        // Without the catalog, or with another release's answer.
        for known in [None, Some(known(2))] {
            let sheet = of(&spec, &one, known.as_ref());
            assert_eq!((sheet.tracks, sheet.discs, &sheet.date, sheet.group), (None, None, &None, None));
            assert_eq!((sheet.recording, sheet.release), (one.recording, ReleaseId(1)));
        }
    }
}
