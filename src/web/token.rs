//! Signed words: session cookies, CSRF tokens and bearer tokens (JWT, HS256), all under keys derived from one secret.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// How long a session and a token live: 7 days (slskd).
pub(crate) const LIFE_S: u64 = 7 * 24 * 3600;
/// A token may be this much ahead of our clock: boxes without a battery start with a wrong one.
const LEEWAY_S: u64 = 300;
/// Longer tokens are not looked at.
const LONGEST: usize = 4096;
/// {"alg":"HS256","typ":"JWT"}
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// The secret of this installation.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) [u8; 32]);

/// A token for programs, as `POST /api/v0/session` answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What to send after `Authorization: Bearer`.
    pub token: String,
    /// Whom it was given to.
    pub name: String,
    /// Seconds since 1970.
    pub issued: u64,
    /// Seconds since 1970.
    pub expires: u64,
    /// Seconds since 1970.
    pub not_before: u64,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    name: String,
    iat: u64,
    nbf: u64,
    exp: u64,
}

impl Secret {
    /// HMAC-SHA256 over a purpose and a text; the purpose keeps one kind of token from passing as another.
    fn sign(&self, purpose: &str, text: &str) -> [u8; 32] {
        // HMAC takes keys of any length, so this is the only outcome.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return [0; 32] };
        for part in [purpose, "\0", text] {
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }

    fn fits(&self, purpose: &str, text: &str, signature: &str) -> bool {
        BASE64.decode(signature).is_ok_and(|given| bool::from(given.as_slice().ct_eq(&self.sign(purpose, text)[..])))
    }

    /// The cookie of a session: its id and our signature.
    pub(crate) fn cookie(&self, session: u128) -> String {
        let id = format!("{session:032x}");
        let signature = BASE64.encode(self.sign("session", &id));
        format!("{id}.{signature}")
    }

    /// The session of a cookie we signed.
    pub(crate) fn session_of(&self, cookie: &str) -> Option<u128> {
        let (id, signature) = cookie.split_once('.')?;
        (id.len() == 32 && self.fits("session", id, signature)).then(|| u128::from_str_radix(id, 16).ok()).flatten()
    }

    /// The CSRF token of a session, or of visitors without one.
    pub(crate) fn csrf(&self, session: Option<u128>) -> String {
        let id = session.map(|id| format!("{id:032x}")).unwrap_or_default();
        BASE64.encode(self.sign("csrf", &id))
    }

    /// A bearer token for `name`, good for [`LIFE_S`] from `now_s`.
    pub(crate) fn issue(&self, name: &str, now_s: u64) -> Token {
        let claims = Claims { name: name.to_owned(), iat: now_s, nbf: now_s, exp: now_s.saturating_add(LIFE_S) };
        // Four plain fields always serialise.
        let body = BASE64.encode(serde_json::to_vec(&claims).unwrap_or_default());
        let text = format!("{HEADER}.{body}");
        let signature = BASE64.encode(self.sign("jwt", &text));
        Token {
            token: format!("{text}.{signature}"),
            name: claims.name,
            issued: claims.iat,
            expires: claims.exp,
            not_before: claims.nbf,
        }
    }

    /// Whom a bearer token of ours was given to, while it is good. The header's `alg` is not believed: only ours fits.
    pub(crate) fn check(&self, token: &str, now_s: u64) -> Option<String> {
        if token.len() > LONGEST {
            return None;
        }
        let (text, signature) = token.rsplit_once('.')?;
        if !self.fits("jwt", text, signature) {
            return None;
        }
        let body = BASE64.decode(text.split_once('.')?.1).ok()?;
        let claims: Claims = serde_json::from_slice(&body).ok()?;
        (claims.nbf <= now_s.saturating_add(LEEWAY_S) && now_s < claims.exp).then_some(claims.name)
    }
}

/// Compares secrets in a time that tells nothing about where they differ.
pub(crate) fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_750_000_000;

    #[test]
    fn tokens_are_good_for_seven_days_and_only_ours() {
        let secret = Secret([1; 32]);
        let token = secret.issue("betty", NOW);
        assert_eq!(secret.check(&token.token, NOW), Some("betty".to_owned()));
        assert_eq!(secret.check(&token.token, NOW + LIFE_S - 1), Some("betty".to_owned()));
        assert_eq!(secret.check(&token.token, NOW + LIFE_S), None, "expired");
        assert_eq!(secret.check(&token.token, NOW - LEEWAY_S - 1), None, "not yet good");
        assert_eq!(Secret([2; 32]).check(&token.token, NOW), None, "another secret");
        for wrong in ["", ".", "..", "a.b.c", &token.token[1..], &token.token[..token.token.len() - 2]] {
            assert_eq!(secret.check(wrong, NOW), None, "{wrong}");
        }
    }

    #[test]
    fn an_unsigned_token_is_refused() {
        let header = BASE64.encode(r#"{"alg":"none"}"#);
        let body = BASE64.encode(format!(r#"{{"name":"x","iat":0,"nbf":0,"exp":{}}}"#, NOW * 2));
        assert_eq!(Secret([1; 32]).check(&format!("{header}.{body}."), NOW), None);
    }

    #[test]
    fn a_cookie_names_its_session_and_is_no_token_of_another_kind() {
        let secret = Secret([3; 32]);
        let cookie = secret.cookie(42);
        assert_eq!(secret.session_of(&cookie), Some(42));
        assert_eq!(secret.session_of(&cookie.replace("2a.", "2b.")), None);
        assert_eq!(secret.session_of(&format!("{:032x}.{}", 42, secret.csrf(Some(42)))), None);
        assert_ne!(secret.csrf(Some(42)), secret.csrf(None));
    }
}
