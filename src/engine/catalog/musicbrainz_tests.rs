use super::*;

const US_2CD: &str =
    include_str!("../../../tests/fixtures/musicbrainz/mb_release_lift_your_skinny_fists_us_2cd_2000.json");
const CA_VINYL: &str =
    include_str!("../../../tests/fixtures/musicbrainz/mb_release_lift_your_skinny_fists_ca_12in_2018.json");
const AU_VINYL: &str =
    include_str!("../../../tests/fixtures/musicbrainz/mb_release_lift_your_skinny_fists_au_12in_2000.json");
const CD_DVD: &str = include_str!("../../../tests/fixtures/musicbrainz/mb_release_multidisc_cd_dvd_jp.json");
const BARE: &str = include_str!("../../../tests/fixtures/musicbrainz/mb_release_labels_recordings.json");
const PREGAP: &str = include_str!("../../../tests/fixtures/musicbrainz/mb_medium_pregap_with_discids.json");

fn read(json: &str) -> Release {
    serde_json::from_str::<WireRelease>(json).unwrap().try_into().unwrap()
}

#[test]
fn a_whole_release_reads() {
    let release = read(US_2CD);
    assert_eq!(release.id.to_string(), "6a76904c-0caf-34e1-8cc2-7d95e86a3824");
    assert_eq!(release.group.unwrap().to_string(), "3822abb6-ca53-3ae1-a4ec-7718cb321e9b");
    assert_eq!(release.artist, "Godspeed You Black Emperor!", "as credited, not as the artist is called");
    assert_eq!(release.label(), Some("kranky"));
    assert_eq!(release.labels[0].catalog_number.as_deref(), Some("KRANK 043"));
    assert_eq!((release.date.unwrap().to_string().as_str(), release.country.as_deref()), ("2000-10-09", Some("US")));
    assert_eq!(release.primary_type.as_deref(), Some("Album"));
    let places: Vec<_> = release.tracks().map(|t| (t.medium, t.position, t.number.as_str())).collect();
    assert_eq!(places, [(1, 1, "1"), (1, 2, "2"), (2, 1, "1"), (2, 2, "2")]);
    let storm = release.tracks().next().unwrap();
    assert_eq!((storm.title.as_str(), storm.duration_ms), ("Storm", Some(1_352_413)));
    assert_eq!(storm.isrcs, ["USI4R0401862"]);
    assert_eq!(storm.recording.to_string(), "519e6d2f-c762-48b1-8798-8f0299e11cc7");
    assert!(release.tracks().all(TrackInRelease::is_expected));
}

#[test]
fn editions_differ_where_the_catalog_says_so() {
    let (old, new) = (read(AU_VINYL), read(CA_VINYL));
    assert_eq!(old.barcode, new.barcode, "two editions, one bar code");
    assert_ne!(old.id, new.id);
    assert_eq!(new.date.unwrap().to_string(), "2018", "a year is a date");
    let numbers: Vec<_> = new.tracks().map(|track| track.number.as_str()).collect();
    assert_eq!(numbers, ["A", "B", "C", "D"]);
}

#[test]
fn absent_fields_are_unknown() {
    let release = read(BARE);
    assert_eq!((release.group, release.artist.as_str(), release.primary_type.as_deref()), (None, "", None));
    assert_eq!(release.tracks().count(), 3);
    assert!(release.tracks().all(|track| track.isrcs.is_empty() && track.artist.is_empty()));

    let id = "6a76904c-0caf-34e1-8cc2-7d95e86a3824";
    let least = read(&format!(r#"{{"id":"{id}","title":"T"}}"#));
    assert_eq!((least.date, least.country.as_deref(), least.media.len(), least.label()), (None, None, 0, None));
    let nulls = read(&format!(
        r#"{{"id":"{id}","title":"T","date":"","country":null,"barcode":"","status":null,"artist-credit":null,
             "label-info":[{{"catalog-number":null,"label":null}}, {{"catalog-number":"X 1","label":null}},
                           {{"label":{{"name":"[no label]"}}}}],
             "release-group":null,"release-events":null,"media":null,"relations":null,"disambiguation":null}}"#
    ));
    assert_eq!((nulls.date, nulls.barcode.as_deref(), nulls.labels.len(), nulls.label()), (None, None, 2, None));
}

#[test]
fn events_stand_in_for_a_date_that_lacks() {
    let release = read(
        r#"{"id":"6a76904c-0caf-34e1-8cc2-7d95e86a3824","title":"T","date":"",
            "release-events":[{"date":"","area":null},{"date":"2008-04","area":{"iso-3166-1-codes":["XE"]}},
                              {"date":"2009","area":{"iso-3166-1-codes":[]}}]}"#,
    );
    assert_eq!((release.date.unwrap().to_string().as_str(), release.country.as_deref()), ("2008-04", Some("XE")));
}

#[test]
fn videos_are_not_expected_as_sound() {
    let release = read(CD_DVD);
    let expected: Vec<_> = release.tracks().filter(|track| track.is_expected()).map(|t| t.medium).collect();
    assert_eq!(expected, [1, 1, 1, 1]);
    assert_eq!(release.tracks().count(), 7);
    let butterfly = release.tracks().nth(1).unwrap();
    assert_eq!(butterfly.title, "Bye-Bye Butterfly", "the track's own title, not the recording's");
}

#[test]
fn pregap_and_data_stand_apart() {
    let data = r#"{"position": 9, "number": "9", "title": "Video", "length": null,
        "recording": {"id": "a6f68447-7810-4d1e-a5a2-d10ff0943aee", "title": "V", "length": 1000}}"#;
    let medium = PREGAP.trim_end().strip_suffix('}').unwrap();
    let json = format!(
        r#"{{"id":"6a76904c-0caf-34e1-8cc2-7d95e86a3824","title":"T",
             "media":[{medium}, "data-tracks": [{data}]}}]}}"#
    );
    let release = read(&json);
    let kinds: Vec<_> = release.tracks().map(|t| (t.kind, t.position, t.is_expected(), t.duration_ms)).collect();
    assert_eq!(kinds, [(TrackKind::Pregap, 0, false, Some(88_000)), (TrackKind::Data, 9, false, Some(1_000))]);
    assert_eq!(release.media[0].track_count, 8);
    assert_eq!(release.tracks().next().unwrap().artist, "Lemon Demon");
}

#[test]
fn credits_join_as_printed_and_links_name_discogs() {
    let release = read(
        r#"{"id":"6a76904c-0caf-34e1-8cc2-7d95e86a3824","title":"T",
            "artist-credit":[{"name":"A","joinphrase":" feat. ","artist":{"id":"oops"}},
                             {"name":null,"joinphrase":null,"artist":{"name":"B"}}],
            "relations":[{"type":"amazon asin","url":{"resource":"https://x/release/9"}},{"type":"discogs","url":null},
                         {"type":"discogs","url":{"resource":"https://www.discogs.com/release/249504-Some-Thing"}}],
            "release-group":{"relations":[{"type":"discogs","url":{"resource":"https://www.discogs.com/master/96559"}}]}}"#,
    );
    assert_eq!(release.artist, "A feat. B");
    assert_eq!(release.credits[0].artist, None, "an unreadable id of an artist loses only itself");
    assert_eq!((release.discogs_release_id, release.discogs_master_id), (Some(249_504), Some(96_559)));
}

#[test]
fn a_thing_without_its_id_is_an_error() {
    let wrong = |json: &str| Release::try_from(serde_json::from_str::<WireRelease>(json).unwrap()).unwrap_err();
    let told = wrong(r#"{"id":"nobody","title":"T"}"#).to_string();
    assert_eq!(told, "the release's id is not a UUID: `nobody`");
    assert!(serde_json::from_str::<WireRelease>(r#"{"error":"Not Found"}"#).is_err());
}

#[test]
fn a_recording_reads() {
    let wire: WireRecording = serde_json::from_str(
        r#"{"id":"a6f68447-7810-4d1e-a5a2-d10ff0943aee","title":"Sexy DVD","length":null,"video":null,
            "first-release-date":"2019","isrcs":["A","B"],"disambiguation":"live",
            "artist-credit":[{"name":"Lemon Demon","joinphrase":""}]}"#,
    )
    .unwrap();
    let recording = Recording::try_from(wire).unwrap();
    assert_eq!((recording.artist.as_str(), recording.duration_ms, recording.is_video), ("Lemon Demon", None, false));
    assert_eq!(recording.isrcs.len(), 2);
    assert_eq!(recording.first_release.unwrap().to_string(), "2019");
}

#[test]
fn a_release_is_found_by_its_address_elsewhere() {
    let read = |json: &str| serde_json::from_str::<WireLinked>(json).unwrap().release();
    let found = read(
        r#"{"id": "x", "resource": "https://www.discogs.com/release/1", "relations": [
            {"type": "other", "artist": {}},
            {"type": "discogs", "release": {"id": "6a76904c-0caf-34e1-8cc2-7d95e86a3824", "title": "T"}}]}"#,
    );
    assert_eq!(found, Some(crate::model::id::ReleaseId(0x6a76_904c_0caf_34e1_8cc2_7d95_e86a_3824)));
    assert_eq!(read(r#"{"relations": null}"#), None);
}

#[test]
fn official_releases_of_a_recording_come_first() {
    let id = |n: u8| format!("0000000{n}-0000-4000-8000-000000000000");
    let json = format!(
        r#"{{"release-count": 5, "releases": [
            {{"id": "{}", "status": "Bootleg", "date": "1990"}},
            {{"id": "{}", "status": "Official", "date": "2001-05"}},
            {{"id": "{}", "status": "Official", "date": ""}},
            {{"id": "{}", "status": "Official", "date": "1999"}},
            {{"id": "no id", "status": "Official"}}, {{}}]}}"#,
        id(1),
        id(2),
        id(3),
        id(4)
    );
    let found: Vec<String> =
        serde_json::from_str::<WireReleasesOf>(&json).unwrap().releases().iter().map(ToString::to_string).collect();
    assert_eq!(found, [id(4), id(2), id(3), id(1)]);
    assert!(serde_json::from_str::<WireReleasesOf>("{}").unwrap().releases().is_empty());
}
