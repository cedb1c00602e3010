//! What the wire structs of all services share: absent, `null` and empty mean the same, ids may be numbers or texts.

use std::fmt;

use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::model::catalog::PartialDate;

/// An answer that was read but makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// Something that names a thing is not a UUID.
    #[error("{what} is not a UUID: `{value}`")]
    Id {
        /// Which.
        what: &'static str,
        /// What stood there, cut.
        value: String,
    },
    /// The service says that something is wrong.
    #[error("the service answers with error {code}: {message}")]
    Service {
        /// Its number.
        code: i64,
        /// Its words, cut.
        message: String,
    },
    /// Neither an answer nor an error.
    #[error("the answer has the status `{0}`")]
    Status(String),
}

/// Words of a stranger for an error: short.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// An id that must be there.
pub(super) fn id<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, AnswerError> {
    text.parse().map_err(|_| AnswerError::Id { what, value: cut(text) })
}

/// An id that may be missing or unreadable: what it names is then unknown, the rest stands.
pub(super) fn maybe_id<T: std::str::FromStr>(text: Option<&str>) -> Option<T> {
    text.and_then(|text| text.parse().ok())
}

/// A list where `null` is an empty one.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
}

/// A text where `null` is an empty one.
pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(from)?.unwrap_or_default())
}

/// A text that is there and says something.
pub(super) fn said(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

/// A date that may be absent, empty or nonsense.
pub(super) fn date(text: Option<&str>) -> Option<PartialDate> {
    text.and_then(|text| text.parse().ok())
}

/// A number written as a number or as text; anything else is `None`, for it names something we can do without.
pub(super) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    struct Visitor;
    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Option<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number or a text of digits")
        }

        fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
            Ok(Some(number))
        }

        fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
            Ok(u64::try_from(number).ok())
        }

        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to lie between the bounds"
        )]
        fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
            // Up to here every whole number is a double.
            Ok((0.0..=9_007_199_254_740_992.0).contains(&number).then(|| number.round() as u64))
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(text.trim().parse().ok())
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
            from.deserialize_any(self)
        }
    }
    from.deserialize_any(Visitor)
}

/// Whether a JSON text has more than `most` values, counted by its marks without reading it: a small text of very
/// many small values would cost far more memory than its length.
pub fn values_exceed(json: &[u8], most: usize) -> bool {
    let (mut values, mut quoted, mut escaped) = (0_usize, false, false);
    for &byte in json {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'{' | b'[' | b',' => {
                values += 1;
                if values > most {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_texts() {
        assert!(!values_exceed(br#"{"a":"[[[[,,,\"[[["}"#, 1));
        assert!(values_exceed(br#"{"a":[]}"#, 1));
        assert!(values_exceed(b"[{},{},{}]", 5));
        assert!(!values_exceed(b"[{},{},{}]", 6));
    }

    #[test]
    fn numbers_come_in_every_dress() {
        #[derive(Deserialize)]
        struct Wire {
            #[serde(default, deserialize_with = "number")]
            n: Option<u64>,
        }
        let read = |json: &str| serde_json::from_str::<Wire>(json).unwrap().n;
        assert_eq!(read(r#"{"n": 7}"#), Some(7));
        assert_eq!(read(r#"{"n": "7"}"#), Some(7));
        assert_eq!(read(r#"{"n": 6.6}"#), Some(7));
        for none in ["{}", r#"{"n": null}"#, r#"{"n": -7}"#, r#"{"n": ""}"#, r#"{"n": 1e300}"#] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
