//! What a person pastes to name a release: a MusicBrainz id, a Discogs number, or the address of either's page.

use crate::model::id::ReleaseId;

/// A release by the name it has in a catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// MusicBrainz's id.
    MusicBrainz(ReleaseId),
    /// Discogs's number.
    Discogs(u64),
}

/// Why a text names no release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It is the address of something else.
    #[error("that is the address of a {0}, not of a release")]
    NotARelease(String),
    /// Nothing that is known.
    #[error(
        "`{0}` names no release: give a MusicBrainz release id, `discogs:` and a number, or the address of its page"
    )]
    Unknown(String),
}

/// Reads it. Addresses may be of any language's site, with or without `https://`, query and fragment.
pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
    let text = text.trim();
    let unknown = || ReferenceError::Unknown(text.chars().take(80).collect());
    if let Ok(id) = text.parse::<ReleaseId>() {
        return Ok(Reference::MusicBrainz(id));
    }
    let lower = text.to_ascii_lowercase();
    if let Some(number) = lower.strip_prefix("discogs:") {
        return number.trim().parse().map(Reference::Discogs).map_err(|_| unknown());
    }
    let address = lower.strip_prefix("https://").or_else(|| lower.strip_prefix("http://")).unwrap_or(&lower);
    let address = address.split(['?', '#']).next().unwrap_or_default();
    let mut parts = address.split('/').filter(|part| !part.is_empty());
    let host = parts.next().unwrap_or_default();
    let is_host = |name: &str| host == name || host.strip_suffix(name).is_some_and(|before| before.ends_with('.'));
    if is_host("musicbrainz.org") {
        let kind = parts.next().ok_or_else(unknown)?;
        let id = parts.next().and_then(|id| id.parse().ok()).ok_or_else(unknown)?;
        return if kind == "release" {
            Ok(Reference::MusicBrainz(id))
        } else {
            Err(ReferenceError::NotARelease(kind.replace('-', " ")))
        };
    }
    if is_host("discogs.com") {
        // `/de/release/123-Artist-Title`, `/Artist-Title/release/123`.
        let parts: Vec<&str> = parts.collect();
        let at = parts.iter().position(|part| matches!(*part, "release" | "master" | "artist" | "label"));
        let at = at.ok_or_else(unknown)?;
        if parts[at] != "release" {
            return Err(ReferenceError::NotARelease(parts[at].to_owned()));
        }
        let number = parts.get(at + 1).and_then(|part| part.split('-').next()).and_then(|number| number.parse().ok());
        return number.map(Reference::Discogs).ok_or_else(unknown);
    }
    Err(unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_addresses_name_releases() {
        let id = ReleaseId(0x6a76_904c_0caf_34e1_8cc2_7d95_e86a_3824);
        for text in [
            "6a76904c-0caf-34e1-8cc2-7d95e86a3824",
            " 6A76904C0CAF34E18CC27D95E86A3824 ",
            "https://musicbrainz.org/release/6a76904c-0caf-34e1-8cc2-7d95e86a3824",
            "beta.musicbrainz.org/release/6a76904c-0caf-34e1-8cc2-7d95e86a3824/disc/1?x=y#z",
        ] {
            assert_eq!(parse(text), Ok(Reference::MusicBrainz(id)), "{text}");
        }
        for text in [
            "discogs:1",
            "https://www.discogs.com/release/1-The-Persuader-Stockholm",
            "http://www.discogs.com/de/release/1",
            "www.discogs.com/The-Persuader-Stockholm/release/1",
        ] {
            assert_eq!(parse(text), Ok(Reference::Discogs(1)), "{text}");
        }
        let group = "https://musicbrainz.org/release-group/6a76904c-0caf-34e1-8cc2-7d95e86a3824";
        assert_eq!(parse(group), Err(ReferenceError::NotARelease("release group".to_owned())));
        assert!(matches!(parse("https://www.discogs.com/master/5427"), Err(ReferenceError::NotARelease(_))));
        for bad in [
            "",
            "x",
            "discogs:x",
            "https://musicbrainz.org/release/x",
            "https://evilmusicbrainz.org/release/6a76904c-0caf-34e1-8cc2-7d95e86a3824",
            "discogs.com/release/",
        ] {
            assert!(matches!(parse(bad), Err(ReferenceError::Unknown(_))), "{bad}");
        }
    }
}
