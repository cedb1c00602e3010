use super::*;

type Door = fn(&mut Resolution);

fn known() -> Known {
    Known { duration_ms: 200_000, has_fingerprint: true, ..Known::default() }
}

fn sound(number: u128, score: f64, recordings: &[(u128, u64, u32)]) -> AcoustIdResult {
    let recordings = recordings.iter().map(|(id, s, sources)| AcoustIdRecording {
        id: RecordingId(*id),
        title: Some(format!("Title {id}")),
        artist: "Artist".to_owned(),
        duration_ms: (*s > 0).then_some(s * 1_000),
        sources: *sources,
        groups: Vec::new(),
    });
    AcoustIdResult { id: AcoustId(number), score, recordings: recordings.collect() }
}

fn recording(id: u128, duration_ms: Option<u64>) -> Recording {
    Recording {
        id: RecordingId(id),
        title: "T".to_owned(),
        artist: "A".to_owned(),
        credits: Vec::new(),
        duration_ms,
        isrcs: Vec::new(),
        is_video: false,
        disambiguation: String::new(),
        first_release: None,
    }
}

fn chosen(results: &[AcoustIdResult]) -> Result<u128, Unresolved> {
    choose(&known(), results).map(|(id, _)| id.0)
}

fn done(resolution: &Resolution) -> Identity {
    match resolution.next() {
        Next::Done(identity) => *identity,
        other => panic!("{other:?}"),
    }
}

#[test]
fn score_and_length_decide() {
    assert_eq!(chosen(&[]), Err(Unresolved::NotSure));
    assert_eq!(chosen(&[sound(1, 0.849, &[(7, 200, 1)])]), Err(Unresolved::NotSure));
    assert_eq!(chosen(&[sound(1, 0.85, &[(7, 200, 1)])]), Ok(7));
    assert_eq!(chosen(&[sound(1, 1.0, &[])]), Err(Unresolved::NotSure), "a sound nobody has named");
    assert_eq!(chosen(&[sound(1, 1.0, &[(7, 207, 1)])]), Ok(7));
    assert_eq!(chosen(&[sound(1, 1.0, &[(7, 208, 1)])]), Err(Unresolved::LengthDiffers));
    assert_eq!(chosen(&[sound(1, 1.0, &[(7, 0, 1)])]), Err(Unresolved::LengthDiffers), "no length, no proof");
    assert_eq!(chosen(&[sound(1, 0.9, &[(7, 200, 9)]), sound(2, 0.95, &[(8, 200, 1)])]), Ok(8), "the best score");
}

#[test]
fn among_several_the_tags_then_the_many_decide() {
    let several = [sound(1, 1.0, &[(7, 200, 3), (8, 201, 5), (9, 260, 99)])];
    assert_eq!(chosen(&several), Ok(8), "most submissions, of those with the right length");
    let tagged = Known { title: Some("TITLE 7".into()), artist: Some("artist".into()), ..known() };
    assert_eq!(choose(&tagged, &several).unwrap().0, RecordingId(7));
    assert_eq!(chosen(&[sound(1, 1.0, &[(7, 200, 3), (8, 201, 3)])]), Err(Unresolved::Several));
    let twins = [sound(1, 1.0, &[(7, 200, 3)]), sound(2, 1.0, &[(7, 200, 3)])];
    assert_eq!(chosen(&twins), Ok(7), "two ids of one sound that name one recording");
}

#[test]
fn tags_go_first_and_a_merged_id_is_replaced() {
    let mut way = Resolution::new(Known { tagged: Some(RecordingId(5)), ..known() });
    assert_eq!(way.next(), Next::AskMusicBrainz(RecordingId(5)));
    way.on_recording(Some(recording(6, Some(190_000))));
    let identity = done(&way);
    assert_eq!(identity.recording, Ok((RecordingId(6), Proof::Tags)));
    assert!(identity.length_differs && !identity.is_unfinished);
}

#[test]
fn an_id_that_is_gone_falls_back_on_the_sound() {
    let mut way = Resolution::new(Known { tagged: Some(RecordingId(5)), ..known() });
    way.on_recording(None);
    assert_eq!(way.next(), Next::LookLocally);
    way.on_local(Some((RecordingId(6), 0.16)));
    assert_eq!(way.next(), Next::AskAcoustId, "not alike enough");
    way.on_sounds(&[sound(1, 0.95, &[(7, 200, 1)])]);
    assert_eq!(way.next(), Next::AskMusicBrainz(RecordingId(7)));
    way.on_recording(Some(recording(7, Some(200_000))));
    let identity = done(&way);
    assert_eq!(identity.recording, Ok((RecordingId(7), Proof::AcoustId { id: AcoustId(1), score: 0.95 })));
    assert!(!identity.length_differs);
}

#[test]
fn a_known_copy_spares_the_lookup() {
    let mut way = Resolution::new(known());
    way.on_local(Some((RecordingId(6), 0.15)));
    assert_eq!(way.next(), Next::AskMusicBrainz(RecordingId(6)));
    way.on_later();
    let identity = done(&way);
    assert_eq!(identity.recording, Ok((RecordingId(6), Proof::Sound(0.15))));
    assert!(identity.is_unfinished, "its details are to be asked for again");
}

#[test]
fn without_means_it_ends_unresolved() {
    let mut silent = Resolution::new(Known { has_fingerprint: false, ..known() });
    silent.on_local(None);
    assert_eq!(done(&silent).recording, Err(Unresolved::NothingToGoBy));

    let mut keyless = Resolution::new(known());
    keyless.on_local(None);
    keyless.on_no_lookup();
    assert!(!done(&keyless).is_unfinished, "without a key, later is no better");

    let mut offline = Resolution::new(known());
    offline.on_local(None);
    offline.on_later();
    assert!(done(&offline).is_unfinished);
}

#[test]
fn doors_that_do_not_fit_the_state_change_nothing() {
    let every: [(&str, Door); 5] = [
        ("local", |way| way.on_local(Some((RecordingId(1), 0.0)))),
        ("sounds", |way| way.on_sounds(&[])),
        ("recording", |way| way.on_recording(None)),
        ("later", Resolution::on_later),
        ("no lookup", Resolution::on_no_lookup),
    ];
    let states = [
        (State::Confirming(RecordingId(1), Proof::Tags), &["recording", "later"][..]),
        (State::Locally, &["local", "later"]),
        (State::Sounds, &["sounds", "later", "no lookup"]),
        (State::Done(Err(Unresolved::Several)), &[]),
    ];
    for (state, fitting) in states {
        for (name, door) in every {
            let mut way = Resolution { state, ..Resolution::new(known()) };
            door(&mut way);
            assert_eq!(way.state != state, fitting.contains(&name), "{state:?} {name}");
        }
    }
}
