//! Every message over the wire, and what cannot be said.

use proptest::prelude::*;

use super::super::lie::{SIZE_MAX, check_claim, check_hashes};
use super::*;
use crate::model::variant::Container;

pub(crate) fn claim(n: u8) -> Claim {
    Claim {
        content: ContentHash([n; 32]),
        file_sha256: [n; 32],
        flac_key: u64::from(n),
        size: 30_000_000,
        codec: Codec::Flac,
        container: Container::Flac,
        lossless: true,
        sample_rate_hz: 44_100,
        bit_depth: Some(16),
        channels: 2,
        duration_ms: 180_000,
        bitrate_kbps: 900,
        transcode_suspect: false,
        quality_score: 0.95,
        dynamic_range_dr: Some(11.0),
        loudness_lufs: Some(-14.0),
        has_clipping: false,
        encoder_signature: Some("reference libFLAC 1.4.3".into()),
    }
}

pub(crate) fn advert(recordings: u8) -> Control {
    let one = |n: u8| RecordingAdvert {
        mb_recording_id: Some(u128::from(n)),
        acoustid: Some(9),
        fingerprint_sha1: Some([n; 20]),
        title: Some("Title".into()),
        artist: Some("Artist".into()),
        variants: vec![claim(n), claim(n.wrapping_add(100))],
    };
    Control::Advert(Advert {
        bundle_id: 7,
        after: 0,
        sequence: recordings.into(),
        full_snapshot: true,
        recordings: (1..=recordings).map(one).collect(),
    })
}

fn hash(n: u8) -> HashEntry {
    HashEntry {
        sequence: n.into(),
        flac_key: u64::MAX,
        head_sha256: [n; 32],
        content: ContentHash([n; 32]),
        size: 1 + u64::from(n),
    }
}

fn descriptor() -> Descriptor {
    Descriptor {
        mb_release_id: 1,
        mb_release_group_id: Some(2),
        discogs_release_id: Some(3),
        title: Some("Album".into()),
        artist: Some("Artist".into()),
        edition: Edition {
            label: Some("Label".into()),
            codec: Some(Codec::Flac),
            lossless: true,
            ..Edition::default()
        },
        has_full_album: Some(true),
        tracks: vec![TrackHave {
            track_number: 1,
            title: Some("Title".into()),
            mb_recording_id: Some(4),
            duration_ms: Some(5),
            file_size_bytes: Some(6),
            codec: Some(Codec::Flac),
            bitrate_kbps: Some(900),
            lossless: Some(true),
            quality_score: Some(0.9),
            availability: TrackState::Complete,
        }],
        policies: Policies {
            prefer_soulseek_primary: true,
            max_overlay_upload_slots: 2,
            max_overlay_bandwidth_kbps: 2_000,
            max_concurrent_overlay_peers: 4,
            allow_relay_from_soulseek: false,
        },
        cache: false,
        mb_label_ids: vec![8],
    }
}

fn job(is_offer: bool) -> CacheJob {
    let wanted = WantedTrack {
        track_number: 1,
        mb_recording_id: Some(4),
        priority: 5,
        allowed_codecs: vec![Codec::Flac],
        min_bitrate_kbps: Some(600),
        lossless_required: true,
    };
    let offered = OfferedTrack {
        track_number: 1,
        mb_recording_id: Some(4),
        variant_id: ContentHash([1; 32]),
        pieces_root: ContentHash([1; 32]),
        file_size_bytes: 30_000_000,
        file_sha256: [2; 32],
        lossless: true,
        codec: Codec::Flac,
        bitrate_kbps: 900,
    };
    CacheJob {
        job_id: u128::MAX,
        is_offer,
        mb_release_id: Some(1),
        requested: if is_offer { Vec::new() } else { vec![wanted] },
        offered: if is_offer { vec![offered] } else { Vec::new() },
        ttl_seconds: 600,
        max_total_overlay_kib: 500_000,
        max_concurrent_overlay_peers: 2,
        max_overlay_bandwidth_kbps: 3_000,
        prefer_soulseek_primary: true,
    }
}

fn all() -> Vec<Control> {
    vec![
        advert(3),
        Control::Descriptor(Box::new(descriptor())),
        Control::CacheJob(Box::new(job(false))),
        Control::CacheJob(Box::new(job(true))),
        Control::SyncHello { bundle_id: 1, latest: 2, count: 3 },
        Control::SyncAsk { after: 1, max: 1_000 },
        Control::SyncDelta { bundle_id: 1, entries: vec![hash(1), hash(2)], sequence: 2, has_more: true },
        Control::SyncAskKey(5),
        Control::SyncKey(5, vec![hash(3)]),
        Control::SyncAck(9),
        Control::Ask(Ask::Bundles { bundle_id: 1, after: 2 }),
        Control::Ask(Ask::Release(3)),
    ]
}

#[test]
fn every_message_survives_the_wire_and_every_kind_is_one() {
    let mut kinds: Vec<u16> = Vec::new();
    for control in all() {
        let sealed = control.seal().unwrap();
        assert_eq!(sealed.open(), Ok(control.clone()));
        assert_eq!(Sealed::check(sealed.kind(), sealed.body()), Ok(sealed.clone()));
        let mut stuffed = sealed.body().to_vec();
        stuffed.push(0);
        let cut = (0..sealed.body().len()).map(|end| &sealed.body()[..end]);
        for body in cut.chain([&stuffed[..]]) {
            assert_eq!(Sealed::check(sealed.kind(), body), Err(FrameError::Malformed(sealed.kind())), "{control:?}");
        }
        kinds.push(sealed.kind());
    }
    kinds.dedup();
    assert_eq!(kinds, Sealed::KINDS.collect::<Vec<_>>());
}

#[test]
fn the_bytes_of_a_claim_are_these() {
    let mut golden = vec![7; 64];
    golden.extend([7, 0x80, 0x87, 0xa7, 0x0e, 0, 0, 1, 0xc4, 0xd8, 2, 1, 16, 2, 0xa0, 0xfe, 0x0a, 0x84, 7, 0]);
    golden.extend(0.95_f32.to_le_bytes());
    golden.push(1);
    golden.extend(11.0_f32.to_le_bytes());
    golden.push(1);
    golden.extend((-14.0_f32).to_le_bytes());
    golden.extend([0, 0]);
    assert_eq!(bytes(&Claim { encoder_signature: None, ..claim(7) }), golden);
}

#[test]
fn nothing_is_longer_than_a_frame() {
    let Control::Advert(mut advert) = advert(100) else { unreachable!() };
    for recording in &mut advert.recordings {
        recording.title = Some("t".repeat(limits::GOSSIP_TEXT));
        recording.variants = vec![claim(1); limits::GOSSIP_VARIANTS];
    }
    assert_eq!(Control::Advert(advert.clone()).seal(), None);
    let mut room = Room::default();
    let fitting = advert.recordings.iter().take_while(|recording| room.takes(*recording)).count();
    assert!((50..100).contains(&fitting), "{fitting}");
    advert.recordings.truncate(fitting);
    assert!(Control::Advert(advert).seal().is_some());
    let many = |count: usize| Control::SyncDelta {
        bundle_id: u64::MAX,
        entries: vec![hash(1); count],
        sequence: u64::MAX,
        has_more: true,
    };
    assert!(many(700).seal().is_some() && many(1_000).seal().is_none(), "lists of hashes are split too");
}

#[test]
fn long_lists_are_malformed() {
    let Control::Advert(advert) = advert(1) else { unreachable!() };
    let check = |advert: &Advert| Sealed::check(6, &bytes(advert)).is_ok();
    let with = |recordings: usize, variants: usize| {
        let recording = RecordingAdvert { variants: vec![claim(1); variants], ..advert.recordings[0].clone() };
        Advert { recordings: vec![recording; recordings], ..advert.clone() }
    };
    assert!(check(&with(limits::GOSSIP_RECORDINGS, 0)) && !check(&with(limits::GOSSIP_RECORDINGS + 1, 0)));
    assert!(check(&with(1, limits::GOSSIP_VARIANTS)) && !check(&with(1, limits::GOSSIP_VARIANTS + 1)));
    // A length of 2^64 - 1 and nothing behind it.
    assert!(Sealed::check(13, &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
}

fn lies(change: impl Fn(&mut Claim)) -> bool {
    let mut claim = claim(1);
    assert_eq!(check_claim(&claim), Ok(()));
    change(&mut claim);
    let Control::Advert(mut advert) = advert(1) else { unreachable!() };
    advert.recordings[0].variants = vec![claim];
    advert.check().is_err()
}

#[test]
fn every_field_is_looked_at() {
    assert!(lies(|c| c.size = 0) && lies(|c| c.size = SIZE_MAX) && !lies(|c| c.size = SIZE_MAX - 1));
    assert!(lies(|c| c.quality_score = 1.01) && lies(|c| c.quality_score = -0.1));
    assert!(lies(|c| c.quality_score = f32::NAN) && lies(|c| c.dynamic_range_dr = Some(f32::INFINITY)));
    assert!(lies(|c| c.loudness_lufs = Some(f32::NAN)) && lies(|c| c.sample_rate_hz = 0));
    assert!(lies(|c| c.channels = 0) && lies(|c| c.channels = 33) && lies(|c| c.bit_depth = Some(0)));
    assert!(lies(|c| c.duration_ms = u64::MAX) && lies(|c| c.bitrate_kbps = u32::MAX));
    assert!(lies(|c| c.encoder_signature = Some("x".repeat(65))) && lies(|c| c.encoder_signature = Some("\n".into())));
    assert!(lies(|c| c.lossless = false) && lies(|c| c.codec = Codec::Mp3));
    assert!(lies(|c| (c.codec, c.lossless) = (Codec::Mp3, false)), "with a bit depth");
    let Control::Advert(good) = advert(1) else { unreachable!() };
    assert_eq!(good.check(), Ok(()));
    let bad = |change: fn(&mut Advert)| {
        let mut advert = good.clone();
        change(&mut advert);
        advert.check().is_err()
    };
    assert!(bad(|a| a.bundle_id = 0) && bad(|a| a.after = 9));
    assert!(bad(|a| a.recordings[0].title = Some(String::new())));
    assert!(bad(|a| a.recordings[0].artist = Some("a".repeat(257))));
    assert!(bad(|a| a.recordings[0].mb_recording_id = Some(0)));
}

#[test]
fn descriptors_jobs_and_hashes_are_looked_at() {
    let bad = |change: fn(&mut Descriptor)| {
        let mut descriptor = descriptor();
        assert_eq!(descriptor.check(), Ok(()));
        change(&mut descriptor);
        descriptor.check().is_err()
    };
    assert!(bad(|d| d.title = Some("\u{7}".into())) && bad(|d| d.edition.label = Some("l".repeat(300))));
    assert!(bad(|d| d.tracks[0].file_size_bytes = Some(0)) && bad(|d| d.tracks[0].quality_score = Some(2.0)));
    assert!(bad(|d| d.tracks[0].track_number = 0));
    let (mut request, mut offer) = (job(false), job(true));
    assert_eq!((request.check(), offer.check()), (Ok(()), Ok(())));
    request.requested[0].priority = 11;
    offer.offered[0].pieces_root = ContentHash([9; 32]);
    assert!(request.check().is_err() && offer.check().is_err());
    offer = CacheJob { is_offer: false, ..job(true) };
    assert!(offer.check().is_err());
    assert_eq!(check_hashes(&[hash(1), hash(1), hash(2)], 2), Ok(()));
    assert!(check_hashes(&[hash(2), hash(1)], 2).is_err() && check_hashes(&[hash(3)], 2).is_err());
    assert!(check_hashes(&[HashEntry { size: 0, ..hash(1) }], 2).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_malformed(body in proptest::collection::vec(any::<u8>(), 0..400), kind in 5_u16..17) {
        if let Ok(sealed) = Sealed::check(kind, &body) {
            match sealed.open().unwrap() {
                Control::Advert(advert) => drop(advert.check()),
                Control::Descriptor(descriptor) => drop(descriptor.check()),
                Control::CacheJob(job) => drop(job.check()),
                Control::SyncDelta { entries, sequence, .. } => drop(check_hashes(&entries, sequence)),
                _ => {}
            }
        }
    }

    #[test]
    fn a_bent_message_is_a_message_or_malformed(which in 0_usize..12, at in any::<prop::sample::Index>(), bits in 1_u8..) {
        let sealed = all()[which].seal().unwrap();
        let mut body = sealed.body().to_vec();
        let at = at.index(body.len());
        body[at] ^= bits;
        if let Ok(bent) = Sealed::check(sealed.kind(), &body) {
            // Postcard has more than one form of some numbers; what was read is written and read alike.
            let control = bent.open().unwrap();
            prop_assert_eq!(control.kind(), sealed.kind());
        }
    }
}
