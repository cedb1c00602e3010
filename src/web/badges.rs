//! What is known of files in search results: one badge a file, where it matches a known copy.

use super::desk::Desk;
use crate::model::gossip::{Badge, Offered};
use crate::model::health::{HealthAnswer, HealthRequest};
use crate::model::view::{FileView, ResponseView};

/// The badges of the files of some responses.
#[derive(Debug, Default)]
pub(crate) struct Badges {
    /// Of each response, in their order.
    of: Vec<Vec<Option<Badge>>>,
    /// Canonical ones come first.
    first: bool,
}

impl Badges {
    /// Asks the Doctor. When it does not answer, nothing is said of any file.
    pub(crate) async fn look(desk: &Desk, responses: &[ResponseView]) -> Self {
        let offered = |file: &FileView| Offered::of(file.name.as_str(), file.size, &file.attributes);
        let known: Vec<Option<Offered>> = responses.iter().flat_map(|r| &r.files).map(offered).collect();
        let asked: Vec<Offered> = known.iter().flatten().copied().collect();
        let (mut told, first) = match desk.health(HealthRequest::Badges(asked)).await {
            Ok(HealthAnswer::Badges(told, first)) => (told.into_iter(), first),
            _ => (Vec::new().into_iter(), false),
        };
        let mut each = known.into_iter().map(|file| file.and_then(|_| told.next().flatten()));
        let of = responses.iter().map(|r| each.by_ref().take(r.files.len()).collect()).collect();
        Self { of, first }
    }

    /// The responses with their badges; where it is wished for, those with canonical files first and those with
    /// nothing but suspects last, else in their order.
    pub(crate) fn sorted(self, responses: Vec<ResponseView>) -> Vec<(ResponseView, Vec<Option<Badge>>)> {
        let mut all: Vec<_> = responses.into_iter().zip(self.of).collect();
        if self.first {
            all.sort_by_key(|(_, badges)| badges.iter().map(|badge| Badge::rank(*badge)).min());
        }
        all
    }
}
