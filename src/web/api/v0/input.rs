//! What clients send, in whatever case they send it.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Refused;

/// Query parameters: names in lower case, values decoded.
#[derive(Debug, Default)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// `true`, `True`, `TRUE`, `1`; absent or anything else is false.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
    }

    /// A number, where one is given.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        self.0.get(name)?.parse().ok()
    }
}

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let query = parts.uri.query().unwrap_or_default();
        let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Ok(Self(pairs.map(|(name, value)| (decoded(name).to_ascii_lowercase(), decoded(value))).collect()))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Parameters {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Infallible> {
        <Self as FromRequestParts<S>>::from_request_parts(parts, state).await.map(Some)
    }
}

/// A JSON body into a struct whose keys are in lower case; what it does not know is ignored.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|e| Refused::invalid(format!("The body is not JSON: {e}")))?;
    serde_json::from_value(lower(value)).map_err(|e| Refused::invalid(format!("The body is not as expected: {e}")))
}

/// Keys in lower case, all the way down. The depth is bounded by the parser's own limit of 128.
fn lower(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), lower(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(lower).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_flags_come_in_any_case() {
        #[derive(serde::Deserialize)]
        struct Files {
            files: Vec<File>,
        }
        #[derive(serde::Deserialize)]
        struct File {
            filename: String,
        }
        let files: Files = body(br#"{"Files":[{"FileName":"a\\B.flac","Code":1,"Extra":null}]}"#).unwrap();
        assert_eq!(files.files[0].filename, "a\\B.flac");
        assert!(body::<Files>(b"{").is_err());
        assert!(body::<Files>(b"[]").is_err());
    }

    #[tokio::test]
    async fn parameters_are_decoded() {
        let request = axum::http::Request::get("/?includeResponses=True&Remove=false&Limit=%35&x").body(()).unwrap();
        let mut parts = request.into_parts().0;
        let parameters = <Parameters as FromRequestParts<()>>::from_request_parts(&mut parts, &()).await.unwrap();
        assert!(parameters.flag("includeresponses") && !parameters.flag("remove") && !parameters.flag("x"));
        assert_eq!(parameters.number("limit"), Some(5));
    }
}
