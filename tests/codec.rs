//! Bytes of the Soulseek protocol: both ways, against other clients' bytes, and against lies.

#![allow(clippy::unwrap_used, reason = "tests")]

mod every;
mod hostile;
mod round_trip;
#[path = "fuzz/targets.rs"]
mod targets;
mod vectors;

/// Code and body of a whole server or peer frame.
fn wide(frame: &[u8]) -> (u32, &[u8]) {
    let length = u32::from_le_bytes(frame[..4].try_into().unwrap());
    assert_eq!(length as usize, frame.len() - 4, "the length counts everything after itself");
    (u32::from_le_bytes(frame[4..8].try_into().unwrap()), &frame[8..])
}

/// Code and body of a whole init or distributed frame.
fn narrow(frame: &[u8]) -> (u8, &[u8]) {
    let length = u32::from_le_bytes(frame[..4].try_into().unwrap());
    assert_eq!(length as usize, frame.len() - 4, "the length counts everything after itself");
    (frame[4], &frame[5..])
}

#[test]
fn every_corpus_file_is_survived() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let mut replayed = 0;
        for entry in std::fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")) {
            let path = entry.unwrap().path();
            let data = std::fs::read(&path).unwrap();
            let survived = std::panic::catch_unwind(|| target(&data)).is_ok();
            assert!(survived, "{name} fails on {}", path.display());
            replayed += 1;
        }
        assert!(replayed > 0, "{name} has no corpus");
    }
}
