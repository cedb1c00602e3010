//! Checksums that containers carry: FLAC frames, Ogg pages.
