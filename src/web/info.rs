//! What users told about themselves lately. A page that is looked at again, or loads itself again because a message
//! came, does not ask again: other programs leave a repeated question unanswered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::id::Username;
use crate::model::time::UnixMs;
use crate::model::view::UserInfoView;

/// Answers kept. Each may hold a picture of `limits::PICTURE_LEN`.
const KEPT: usize = 8;
/// An older answer is asked for anew, seconds.
const FRESH_S: u64 = 60;

/// The last answers; the oldest is forgotten.
#[derive(Debug, Default)]
pub(crate) struct InfoCache(Mutex<VecDeque<(Username, Arc<UserInfoView>, UnixMs)>>);

impl InfoCache {
    /// What the user told less than a minute ago.
    pub(crate) fn get(&self, user: &Username, now: UnixMs) -> Option<Arc<UserInfoView>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |at: &UnixMs| now.since(*at).as_secs() < FRESH_S;
        kept.iter().find(|(name, _, at)| name == user && fresh(at)).map(|(_, info, _)| Arc::clone(info))
    }

    pub(crate) fn put(&self, user: Username, info: UserInfoView, now: UnixMs) -> Arc<UserInfoView> {
        let info = Arc::new(info);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(name, ..)| *name != user);
        kept.truncate(KEPT - 1);
        kept.push_front((user, Arc::clone(&info), now));
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_for_a_minute_and_only_the_last_ones() {
        let cache = InfoCache::default();
        let at = |s: u64| UnixMs(s * 1_000);
        for n in 0..=KEPT {
            cache.put(format!("user {n}").as_str().into(), UserInfoView::default(), at(100));
        }
        assert!(cache.get(&"user 0".into(), at(100)).is_none());
        assert!(cache.get(&"user 1".into(), at(159)).is_some());
        assert!(cache.get(&"user 1".into(), at(160)).is_none());
    }
}
