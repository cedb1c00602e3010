use super::*;
use crate::engine::soulseek::frame::{inflate, wide_header};
use crate::engine::soulseek::peer::frame_max;
use crate::model::music::Attributes;

fn file(name: &str) -> RemoteFile {
    RemoteFile::new(name, 5, &Attributes { bitrate_kbps: Some(320), ..Attributes::default() })
}

/// Two public folders, one of them empty, and two private ones: inflated.
fn mixed() -> Vec<u8> {
    let mut w = Writer::body();
    w.u32(2).text(&"a".into()).u32(1);
    file("1").write(&mut w);
    w.text(&"empty".into()).u32(0).u32(0).u32(2).text(&"p".into()).u32(0).text(&"q".into()).u32(1);
    file("2").write(&mut w);
    w.finish()
}

#[test]
fn what_is_written_is_a_share_list() {
    let mut writer = ShareListWriter::new(Vec::new(), 2).unwrap();
    writer.folder(&"Music\\a".into(), 2).unwrap();
    writer.file(&file("1.mp3")).unwrap();
    writer.file(&file("2.mp3")).unwrap();
    writer.folder(&"Music\\b".into(), 0).unwrap();
    let body = writer.finish().unwrap();

    let mut inflater = ShareListInflater::new(Vec::new());
    body.chunks(3).for_each(|chunk| inflater.push(chunk).unwrap());
    let (list, counts) = inflater.finish().unwrap();
    assert_eq!(counts, ShareCounts { folders: 2, files: 2 });
    assert_eq!(list.len() as u64, inflate(&body, 1000).unwrap().len() as u64);
    assert_eq!(list[list.len() - 8..], [0; 8], "the unknown number and no private folders");
    let folders: Vec<_> = ShareListReader::new(&list[..]).map(Result::unwrap).collect();
    let first = RemoteFolder { name: "Music\\a".into(), files: vec![file("1.mp3"), file("2.mp3")] };
    assert_eq!(folders, [first, RemoteFolder { name: "Music\\b".into(), files: vec![] }]);
}

#[test]
fn a_writer_holds_its_word() {
    let out = || ShareListWriter::new(Vec::new(), 1).unwrap();
    assert!(matches!(out().finish(), Err(ShareListError::Missing { folders: 1, files: 0 })));
    let mut writer = out();
    writer.folder(&"a".into(), 1).unwrap();
    assert!(matches!(writer.folder(&"b".into(), 0), Err(ShareListError::Missing { folders: 0, files: 1 })));
    assert!(matches!(writer.finish(), Err(ShareListError::Missing { folders: 0, files: 1 })));
    let mut writer = out();
    writer.folder(&"a".into(), 0).unwrap();
    assert!(matches!(writer.file(&file("1")), Err(ShareListError::Unannounced)));
    assert!(matches!(writer.folder(&"b".into(), 0), Err(ShareListError::Unannounced)));
}

#[test]
fn private_folders_are_told_apart() {
    let list = mixed();
    let mut reader = ShareListReader::new(&list[..]);
    let mut seen = Vec::new();
    while let Some(folder) = reader.next() {
        let folder = folder.unwrap();
        seen.push((folder.name.to_string(), folder.files.len(), reader.in_private()));
    }
    let expected = [("a", 1, false), ("empty", 0, false), ("p", 0, true), ("q", 1, true)];
    assert_eq!(seen, expected.map(|(name, files, private)| (name.to_owned(), files, private)));
    for step in [1, 2, 7, list.len()] {
        let mut check = Check::new(1000);
        list.chunks(step).for_each(|chunk| check.push(chunk).unwrap());
        assert_eq!(check.finish(), Ok(ShareCounts { folders: 4, files: 2 }), "in pieces of {step}");
    }
}

#[test]
fn a_reader_stops_at_the_first_error() {
    let list = mixed();
    let mut reader = ShareListReader::new(&list[..20]);
    assert!(matches!(reader.next(), Some(Err(ShareListError::Frame(FrameError::Truncated { .. })))));
    assert!(reader.next().is_none());
    let mut long = Writer::body();
    long.u32(1).u32(u32::MAX);
    let long = long.finish();
    let refused = ShareListReader::new(&long[..]).next();
    assert!(matches!(refused, Some(Err(ShareListError::Frame(FrameError::TextTooLong { .. })))));
}

#[test]
fn a_failing_spool_is_not_the_lists_fault() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut writer = ShareListWriter::new(Vec::new(), 1).unwrap();
    writer.folder(&"a".into(), 0).unwrap();
    let body = writer.finish().unwrap();
    assert!(matches!(ShareListInflater::new(Full).push(&body), Err(ShareListError::Io(_))));
}

#[test]
fn a_header_counts_its_code() {
    assert_eq!(wide_header(header(100).unwrap(), frame_max), Ok((5, 100)));
    let length_max = FRAME_SHARES_OUT;
    assert!(header(u64::from(length_max) - 4).is_ok());
    let length = length_max + 1;
    assert_eq!(header(u64::from(length_max) - 3), Err(FrameError::FrameTooLong { length, length_max }));
    assert_eq!(header(u64::MAX), Err(FrameError::FrameTooLong { length: u32::MAX, length_max }));
}
