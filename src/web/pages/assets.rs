//! Style, script and icon: compiled in, and kept by browsers for as long as their mark is the same.

use std::sync::LazyLock;

use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("../../../web-min/style.css");
const SCRIPT: &str = include_str!("../../../web-min/page.js");
const ICON: &str = include_str!("../../../web-min/icon.svg");

type Asset = ([(HeaderName, &'static str); 2], &'static str);

fn asset(kind: &'static str, text: &'static str) -> Asset {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=86400")], text)
}

/// Changes when style or script do.
pub(crate) fn mark() -> &'static str {
    static MARK: LazyLock<String> = LazyLock::new(|| {
        let hash: [u8; 32] = Sha256::new().chain_update(STYLE).chain_update(SCRIPT).finalize().into();
        format!("{:08x}", u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]))
    });
    &MARK
}

pub(crate) async fn style() -> impl IntoResponse {
    asset("text/css; charset=utf-8", STYLE)
}

pub(super) async fn script() -> impl IntoResponse {
    asset("text/javascript; charset=utf-8", SCRIPT)
}

pub(super) async fn icon() -> impl IntoResponse {
    asset("image/svg+xml", ICON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn style_and_script_stay_small() {
        assert!(STYLE.len() <= 10 * 1024, "{} bytes of style", STYLE.len());
        assert!(SCRIPT.len() <= 6 * 1024, "{} bytes of script", SCRIPT.len());
    }
}
