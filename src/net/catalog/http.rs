//! The real client: reqwest over rustls with ring, the machine's own list of authorities.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, Url};

use super::{CatalogError, Reply, SendError, ServiceSettings, Transport};
use crate::engine::catalog::request::Request;
use crate::model::catalog::Service;
use crate::model::limits;

/// For the connection. Chosen.
const CONNECT: Duration = Duration::from_secs(10);
/// For the whole answer. Chosen: MusicBrainz takes seconds for a large box set.
const WHOLE: Duration = Duration::from_secs(30);
/// Connections kept for the next request; one, for there is one request at a time.
const IDLE: usize = 1;

/// A client for one service.
#[derive(Debug)]
pub struct Http {
    client: Client,
    service: Service,
    base: Url,
    base_text: String,
    key: String,
    length_max: usize,
}

impl Http {
    /// A client that tells who we are.
    pub fn new(service: Service, settings: &ServiceSettings, contact: &str) -> Result<Self, CatalogError> {
        let cannot = |reason: String| CatalogError::Client { service, reason };
        // Somebody may have chosen already, and another choice serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = Url::parse(&settings.base_url).map_err(|error| cannot(error.to_string()))?;
        let mut builder = Client::builder()
            .user_agent(user_agent(contact))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(WHOLE)
            .pool_max_idle_per_host(IDLE)
            .pool_idle_timeout(Duration::from_secs(60))
            .gzip(true);
        if base.scheme() == "http" {
            // A mirror on the LAN needs no authorities, and a machine without them can still ask it.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|error| cannot(in_full(&error)))?;
        let length_max = match service {
            Service::MusicBrainz => limits::CATALOG_ANSWER_LEN,
            Service::AcoustId | Service::Discogs => limits::CATALOG_SHORT_ANSWER_LEN,
        };
        let base_text = settings.base_url.clone();
        Ok(Self { client, service, base, base_text, key: settings.key.clone(), length_max })
    }

    fn build(&self, request: &Request) -> Result<reqwest::RequestBuilder, SendError> {
        let failed = |error: &dyn std::fmt::Display| SendError::Unreachable(error.to_string());
        let url = Url::parse(&format!("{}{}", self.base_text, request.path)).map_err(|error| failed(&error))?;
        if request.form.is_empty() {
            let builder = self.client.request(Method::GET, url);
            return Ok(match self.service {
                _ if self.key.is_empty() => builder,
                Service::MusicBrainz => builder.bearer_auth(&self.key),
                Service::Discogs => builder.header(AUTHORIZATION, format!("Discogs token={}", self.key)),
                Service::AcoustId => builder,
            });
        }
        let mut form = url.clone();
        form.query_pairs_mut().clear().extend_pairs(request.form.iter().map(|(name, value)| (*name, value.as_str())));
        if !self.key.is_empty() {
            form.query_pairs_mut().append_pair("client", &self.key);
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(form.query().unwrap_or_default().as_bytes()).map_err(|error| failed(&error))?;
        let packed = packed.finish().map_err(|error| failed(&error))?;
        Ok(self
            .client
            .request(Method::POST, url)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(CONTENT_ENCODING, "gzip")
            .body(packed))
    }

    /// Path and query below the service's address, if the place is there: keys and questions go nowhere else.
    fn below(&self, at: &Url, location: &str) -> Option<String> {
        let to = at.join(location).ok()?;
        if to.origin() != self.base.origin() {
            return None;
        }
        let mut path = to.path().strip_prefix(self.base.path().trim_end_matches('/'))?.to_owned();
        if !path.starts_with('/') {
            return None;
        }
        if let Some(query) = to.query() {
            path.push('?');
            path.push_str(query);
        }
        Some(path)
    }
}

/// `slskdn/0.1.0 (me@example.org)`.
fn user_agent(contact: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    if contact.is_empty() { format!("slskdn/{version}") } else { format!("slskdn/{version} ({contact})") }
}

/// An error and what lies below it, without the address: it may bear a key.
fn in_full(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "it takes too long".to_owned() } else { "no answer".to_owned() };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

impl Transport for Http {
    async fn send(&self, request: &Request) -> Result<Reply, SendError> {
        let failed = |error: reqwest::Error| SendError::Unreachable(in_full(&error));
        let mut response = self.build(request)?.send().await.map_err(failed)?;
        let headers = response.headers();
        let mut reply = Reply {
            status: response.status().as_u16(),
            retry_after: header(headers, RETRY_AFTER.as_str()),
            remaining: header(headers, "x-discogs-ratelimit-remaining").and_then(|text| text.trim().parse().ok()),
            location: header(headers, LOCATION.as_str()).and_then(|to| self.below(response.url(), &to)),
            body: Vec::new(),
        };
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if reply.body.len().saturating_add(piece.len()) > self.length_max {
                return Err(SendError::TooLong(self.length_max));
            }
            reply.body.extend_from_slice(&piece);
        }
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::catalog::pace::Pace;

    #[test]
    fn places_below_the_address_alone_are_followed() {
        let base_url = "http://host:5000/ws/2".to_owned();
        let pace = Pace::of(Service::MusicBrainz, false);
        let settings = ServiceSettings { base_url, key: String::new(), pace };
        let http = Http::new(Service::MusicBrainz, &settings, "").unwrap();
        let at = Url::parse("http://host:5000/ws/2/release/1").unwrap();
        for (location, path) in [
            ("http://host:5000/ws/2/release/2?fmt=json", Some("/release/2?fmt=json")),
            ("/ws/2/release/2", Some("/release/2")),
            ("2?a=b", Some("/release/2?a=b")),
            ("http://host:5001/ws/2/release/2", None),
            ("https://host:5000/ws/2/release/2", None),
            ("http://other:5000/ws/2/release/2", None),
            ("//other/ws/2/release/2", None),
            ("/ws/20/release", None),
            ("/elsewhere", None),
            ("http://[", None),
        ] {
            assert_eq!(http.below(&at, location).as_deref(), path, "{location}");
        }
    }

    #[test]
    fn who_we_are() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(user_agent("me@example.org"), format!("slskdn/{version} (me@example.org)"));
        assert_eq!(user_agent(""), format!("slskdn/{version}"));
    }
}
