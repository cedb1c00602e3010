use super::*;

#[test]
fn primitives_come_back() {
    let mut w = Writer::body();
    w.u8(1).bool(true).u16(0x0302).u32(7).i32(-5).u64(1 << 40).ip(Ipv4Addr::new(203, 0, 113, 7)).token(Token(9));
    w.text(&WireText::from("h\u{e6}")).bytes(b"rest");
    let bytes = w.finish();
    assert_eq!(bytes[2..4], [2, 3], "little-endian");
    assert_eq!(bytes[20..24], [7, 113, 0, 203], "an address comes last byte first");
    let r = &mut Reader::new(&bytes);
    assert_eq!((r.u8(), r.bool(), r.u16(), r.u32()), (Ok(1), Ok(true), Ok(0x0302), Ok(7)));
    assert_eq!((r.i32(), r.u64(), r.ip()), (Ok(-5), Ok(1 << 40), Ok(Ipv4Addr::new(203, 0, 113, 7))));
    assert_eq!((r.token(), r.text(3)), (Ok(Token(9)), Ok(WireText::from("h\u{e6}"))));
    assert_eq!((r.left(), r.rest(), r.is_empty()), (4, &b"rest"[..], true));
    assert_eq!(r.u8(), Err(FrameError::Truncated { missing: 1 }));
}

#[test]
fn frames_count_their_code() {
    let mut w = Writer::wide(43);
    w.u8(1);
    assert_eq!(w.finish(), [5, 0, 0, 0, 43, 0, 0, 0, 1]);
    assert_eq!(Writer::narrow(5).finish(), [1, 0, 0, 0, 5]);
}

#[test]
fn texts_have_limits() {
    let long = [&[6, 0, 0, 0][..], "aaaa\u{e6}".as_bytes()].concat();
    assert_eq!(Reader::new(&long).text(5), Err(FrameError::TextTooLong { length: 6, length_max: 5 }));
    // Refused for its length even where the bytes are not there.
    let refusal = FrameError::TextTooLong { length: u32::MAX as usize, length_max: 5 };
    assert_eq!(Reader::new(&[0xff; 4]).text(5), Err(refusal));
    assert_eq!(Reader::new(&long).text(6).unwrap().as_str(), "aaaa\u{e6}");
    // Cut before the character that does not fit, not through it; Latin-1 has one byte each.
    assert_eq!(Reader::new(&long).text_cut(5).unwrap().as_str(), "aaaa");
    let latin1 = [2, 0, 0, 0, 0xe6, 0xe6];
    assert_eq!(Reader::new(&latin1).text_cut(1).unwrap().as_str(), "\u{e6}");
}

#[test]
fn counts_must_fit() {
    let bytes = [2, 0, 0, 0, 1, 2, 3, 4];
    assert_eq!(Reader::new(&bytes).count(2), Ok(2));
    assert_eq!(Reader::new(&bytes).count(3), Err(FrameError::CountTooLarge { count: 2, left: 4 }));
    let most = Reader::new(&[0xff; 8]).count(usize::MAX);
    assert_eq!(most, Err(FrameError::CountTooLarge { count: u32::MAX, left: 4 }));
}

#[test]
fn a_short_tail_is_left_alone() {
    let mut r = Reader::new(&[1, 2, 3]);
    assert_eq!(r.tail(Reader::u32), None);
    assert_eq!((r.left(), r.tail(Reader::u16), r.left()), (3, Some(0x0201), 1));
}

#[test]
fn what_was_deflated_inflates() {
    let body: Vec<u8> = (0..100_000_u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
    let compressed = deflate(&body);
    assert!(compressed.len() < body.len());
    assert_eq!(inflate(&compressed, body.len()).as_deref(), Ok(&body[..]));
    let length_max = body.len() as u64 - 1;
    assert_eq!(inflate(&compressed, body.len() - 1), Err(FrameError::InflatedTooLong { length_max }));

    assert_eq!(inflate(&compressed[..compressed.len() - 1], body.len()), Err(FrameError::InflateTruncated));
    let mut damaged = compressed.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(inflate(&damaged, body.len()), Err(FrameError::Inflate), "the checksum is checked");
    assert_eq!(inflate(b"no zlib", 100), Err(FrameError::Inflate));
    assert_eq!(inflate(b"", 100), Err(FrameError::InflateTruncated));

    let trailing = [&compressed[..], b"more"].concat();
    assert_eq!(inflate(&trailing, body.len()).as_deref(), Ok(&body[..]));
}

#[test]
fn a_prefix_is_the_beginning() {
    let body: Vec<u8> = (0..=255).cycle().take(50_000).collect();
    let compressed = deflate(&body);
    for length in [0, 1, 264, 40_000] {
        let mut prefix = vec![0; length];
        assert_eq!(inflate_prefix(&compressed, &mut prefix), Ok(&body[..length]));
    }
    let mut prefix = vec![0; 60_000];
    assert_eq!(inflate_prefix(&compressed, &mut prefix), Ok(&body[..]));
    assert_eq!(inflate_prefix(&[], &mut prefix), Ok(&[][..]));
}
