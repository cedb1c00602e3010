//! The order in which waiting uploads get a slot: one file a user in turn, so that a user with a thousand files delays
//! nobody else by more than one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::model::id::{TransferId, Username};

/// Waiting uploads. The caller bounds how many there are.
#[derive(Debug, Default)]
pub struct UploadQueue {
    /// Each user's files in the order they were asked for.
    waiting: BTreeMap<Username, VecDeque<TransferId>>,
    /// Whose turn comes next; exactly the users of `waiting`.
    turns: VecDeque<Username>,
}

impl UploadQueue {
    /// Nobody waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Files waiting.
    pub fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A file more, behind the user's others; a new user's turn comes last.
    pub fn push(&mut self, user: &Username, id: TransferId) {
        if !self.waiting.contains_key(user) {
            self.turns.push_back(user.clone());
        }
        self.waiting.entry(user.clone()).or_default().push_back(id);
    }

    /// The next file: of the first user in turn who is not `busy`. The user goes to the end of the turns.
    pub fn next(&mut self, busy: &BTreeSet<Username>) -> Option<TransferId> {
        let at = self.turns.iter().position(|user| !busy.contains(user))?;
        let user = self.turns.remove(at)?;
        let files = self.waiting.get_mut(&user)?;
        let id = files.pop_front();
        if files.is_empty() {
            self.waiting.remove(&user);
        } else {
            self.turns.push_back(user);
        }
        id
    }

    /// Takes a file out, wherever it is.
    pub fn remove(&mut self, user: &Username, id: TransferId) {
        let Some(files) = self.waiting.get_mut(user) else { return };
        files.retain(|waiting| *waiting != id);
        if files.is_empty() {
            self.waiting.remove(user);
            self.turns.retain(|waiting| waiting != user);
        }
    }

    /// Place of a file, 1 is next: how many get a slot before it if nothing changes, plus one.
    pub fn place(&self, user: &Username, id: TransferId) -> Option<u32> {
        let own = self.waiting.get(user)?.iter().position(|waiting| *waiting == id)?;
        let turn = self.turns.iter().position(|waiting| waiting == user)?;
        // Before the file's round every user has `own` rounds; in it, those whose turn is earlier have one more.
        let ahead: usize = self
            .turns
            .iter()
            .enumerate()
            .filter(|(_, other)| *other != user)
            .map(|(at, other)| {
                let rounds = own + usize::from(at < turn);
                self.waiting.get(other).map_or(0, VecDeque::len).min(rounds)
            })
            .sum();
        u32::try_from(ahead + own + 1).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(order: &[(&str, u128)]) -> UploadQueue {
        let mut queue = UploadQueue::new();
        for (user, id) in order {
            queue.push(&Username::from(*user), TransferId(*id));
        }
        queue
    }

    fn drain(queue: &mut UploadQueue) -> Vec<u128> {
        std::iter::from_fn(|| queue.next(&BTreeSet::new())).map(|id| id.0).collect()
    }

    #[test]
    fn users_take_turns() {
        let order = [("greedy", 1), ("greedy", 2), ("greedy", 3), ("late", 4), ("later", 5), ("late", 6)];
        assert_eq!(drain(&mut queue(&order)), [1, 4, 5, 2, 6, 3]);
    }

    #[test]
    fn a_place_is_what_comes_true() {
        let order = [("a", 1), ("a", 2), ("b", 3), ("c", 4), ("b", 5), ("b", 6), ("a", 7)];
        let users: BTreeMap<u128, &str> = order.iter().map(|(user, id)| (*id, *user)).collect();
        let whole = queue(&order);
        for (at, id) in drain(&mut queue(&order)).into_iter().enumerate() {
            let place = whole.place(&Username::from(users[&id]), TransferId(id));
            assert_eq!(place, u32::try_from(at + 1).ok(), "file {id}");
        }
        assert_eq!(whole.place(&Username::from("a"), TransferId(9)), None);
    }

    #[test]
    fn busy_users_are_passed_over_without_losing_their_turn() {
        let mut queue = queue(&[("a", 1), ("b", 2), ("a", 3)]);
        let busy = BTreeSet::from([Username::from("a")]);
        assert_eq!(queue.next(&busy), Some(TransferId(2)));
        assert_eq!(queue.next(&busy), None);
        assert_eq!(drain(&mut queue), [1, 3]);
        assert!(queue.is_empty());
    }

    #[test]
    fn removed_files_leave_no_trace() {
        let mut queue = queue(&[("a", 1), ("b", 2)]);
        queue.remove(&Username::from("a"), TransferId(1));
        queue.remove(&Username::from("a"), TransferId(1));
        assert_eq!((queue.len(), drain(&mut queue)), (1, vec![2]));
    }
}
