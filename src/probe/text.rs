//! Texts from tags and headers, cut to what may be kept.

use crate::model::limits;

/// The beginning of a text, at most `limits::TAG_TEXT_LEN` bytes, cut at a character.
pub(super) fn clip(text: &str) -> &str {
    let mut end = text.len().min(limits::TAG_TEXT_LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A text without surrounding blanks and zero bytes, cut; `None` when nothing is left.
pub(super) fn kept(text: &str) -> Option<String> {
    let text = clip(text.trim_matches(|c: char| c.is_whitespace() || c == '\0'));
    (!text.is_empty()).then(|| text.to_owned())
}
