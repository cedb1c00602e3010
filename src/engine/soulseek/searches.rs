//! Searches: ours, the wishes, those for other sources of a download, and those of others.
//!
//! Decides when a search goes out (one bucket for all of ours, because servers ban for too many), which answers are
//! kept, when one is over, and whose searches are looked up. Leaves matching to the share index, connections to
//! `connections` and the choice of a source to `downloads`.
//!
//! ```text
//! state        waits for                              deadline
//! Queued       its turn, and the login                5 min, then Errored; for other sources 20 min logged in
//! InProgress   answers                                so long after the last one, 5 min in all; other sources: 12 s
//! the rest     being forgotten                        -
//! ```

mod incoming;
#[cfg(test)]
mod tests;
mod wishes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub use self::incoming::{SearchCounters, Standing};
use super::downloads::{Candidate, Turn};
use super::effect::Effects;
use super::io::{NetAction, Notice, Refusal, Reply, SearchRequest};
use super::peer::{RemoteFile, SearchReply};
use super::server::ToServer;
use crate::model::id::{CommandId, SearchId, Token, TransferId, Username};
use crate::model::limits;
use crate::model::music::WireText;
use crate::model::time::Now;
use crate::model::view::{FileView, ResponseView, SearchState, SearchView};

/// Shortest wait after the last answer.
const TIMEOUT_MIN: Duration = Duration::from_secs(5);
/// Longest a search waits for its turn, and longest it runs.
const WHOLE: Duration = Duration::from_secs(5 * 60);
/// How long answers with other sources are collected: most come within ten seconds.
const SEEK: Duration = Duration::from_secs(12);
/// How long such a search may wait for its turn.
const SEEK_QUEUED: Duration = Duration::from_secs(20 * 60);
/// Searches for other sources waiting or running; `downloads` asks for four at once.
const SEEKS: usize = 64;
/// Candidates kept of one search.
const CANDIDATES: usize = 500;
/// Pages are told of news at most this often, per search.
const NOTICE: Duration = Duration::from_millis(500);
/// The pacing window.
const WINDOW: Duration = Duration::from_secs(limits::SEARCH_WINDOW_S);

/// What another machine has to be told.
#[derive(Debug, PartialEq, Eq)]
pub enum SearchEvent {
    /// For `Downloads::on_candidates`.
    Candidates {
        /// The download.
        transfer: TransferId,
        /// Files found, whatever they are; none where the search could not be sent.
        candidates: Vec<Candidate>,
    },
}

/// All searches.
#[derive(Debug, Default)]
pub struct Searches {
    /// By the order they were asked for.
    runs: BTreeMap<u64, Run>,
    order: u64,
    /// Those in progress.
    tokens: BTreeMap<Token, u64>,
    /// What the shell was last told to let in.
    announced: Vec<Token>,
    /// When the searches of the last window were sent.
    sent: VecDeque<Duration>,
    logged_in: bool,
    events: VecDeque<SearchEvent>,
    wishes: wishes::Wishes,
    incoming: incoming::Incoming,
    /// Answers not kept because a search was full.
    dropped: u64,
}

/// Whose search it is. The order is that in which they get their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Owner,
    Seek(TransferId),
    Wish(u64),
}

#[derive(Debug)]
struct Run {
    kind: Kind,
    request: SearchRequest,
    view: SearchView,
    responses: Vec<ResponseView>,
    users: BTreeSet<Username>,
    candidates: Vec<Candidate>,
    /// When it is over if nothing more happens; of no meaning once it is.
    ends_at: Duration,
    /// When it is over in any case.
    ends_at_last: Duration,
    /// There is news since the last notice.
    news: bool,
    told_at: Option<Duration>,
}

impl Run {
    fn is_seek(&self) -> bool {
        matches!(self.kind, Kind::Seek(_))
    }

    fn is_over(&self) -> bool {
        !matches!(self.view.state, SearchState::Queued | SearchState::InProgress)
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.request.timeout_ms).clamp(TIMEOUT_MIN, WHOLE)
    }

    /// When the page hears of news.
    fn tell_at(&self) -> Option<Duration> {
        self.news.then(|| self.told_at.map_or(Duration::ZERO, |at| at.saturating_add(NOTICE)))
    }

    /// Filters of the person who asks, by what they say of themselves.
    fn welcomes(&self, reply: &SearchReply) -> bool {
        let request = &self.request;
        let files = u32::try_from(reply.files.len()).unwrap_or(u32::MAX);
        !request.filter_responses
            || (files >= request.minimum_files
                && reply.queue_length <= request.maximum_queue
                && reply.upload_speed >= request.minimum_speed)
    }

    /// Keeps an answer as far as there is room; `false` where there is none.
    fn keep(&mut self, user: Username, reply: SearchReply) -> bool {
        let rows = self.view.files.saturating_add(self.view.locked_files);
        let mut room = limits::SEARCH_ROWS.saturating_sub(usize::try_from(rows).unwrap_or(usize::MAX));
        if room == 0 {
            return false;
        }
        let mut take = |files: Vec<RemoteFile>| {
            let taken: Vec<FileView> = files.into_iter().take(room).map(shown).collect();
            room -= taken.len();
            taken
        };
        let (files, locked_files) = (take(reply.files), take(reply.locked_files));
        let count = |files: &[FileView]| u32::try_from(files.len()).unwrap_or(u32::MAX);
        self.view.responses = self.view.responses.saturating_add(1);
        self.view.files = self.view.files.saturating_add(count(&files));
        self.view.locked_files = self.view.locked_files.saturating_add(count(&locked_files));
        self.responses.push(ResponseView {
            user,
            token: self.view.token,
            free_slot: reply.free_slot,
            upload_speed: reply.upload_speed,
            queue_length: reply.queue_length,
            files,
            locked_files,
        });
        true
    }

    fn keep_candidates(&mut self, user: &Username, reply: SearchReply) {
        let room = CANDIDATES.saturating_sub(self.candidates.len());
        let (free_slot, speed, queue) = (reply.free_slot, reply.upload_speed, reply.queue_length);
        self.candidates.extend(reply.files.into_iter().take(room).map(|file| Candidate {
            user: user.clone(),
            path: file.name,
            size: file.size,
            free_slot,
            speed,
            queue,
        }));
    }
}

impl Searches {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// A search of the owner's. It is taken at once and sent when its turn comes; refused only where it makes no sense,
    /// we are not logged in, or twenty unfinished ones are kept.
    pub fn start(&mut self, command: CommandId, mut request: SearchRequest, turn: &mut Turn<'_>) {
        let text = request.text.trim().to_owned();
        request.text.clone_from(&text);
        let refusal = if let Err(why) = check_words(&request.text) {
            Some(Refusal::Invalid(why))
        } else if self.find(request.id).is_some() {
            Some(Refusal::Duplicate)
        } else if !self.logged_in {
            Some(Refusal::NotConnected)
        } else if !self.make_room() {
            Some(Refusal::Full(format!("{} searches are unfinished", limits::SEARCHES)))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            turn.out.refuse(command, refusal);
            return;
        }
        self.add(Kind::Owner, request, text, WHOLE, turn);
        turn.out.reply(command, Reply::Done);
        self.pump(turn);
    }

    /// Ends a search; what was found stays.
    pub fn stop(&mut self, command: CommandId, id: SearchId, turn: &mut Turn<'_>) {
        let Some(order) = self.find(id) else {
            turn.out.refuse(command, Refusal::NotFound);
            return;
        };
        self.finish(order, SearchState::Cancelled, turn);
        turn.out.reply(command, Reply::Done);
        self.pump(turn);
    }

    /// Ends a search and forgets what was found.
    pub fn forget(&mut self, command: CommandId, id: SearchId, turn: &mut Turn<'_>) {
        let Some(order) = self.find(id) else {
            turn.out.refuse(command, Refusal::NotFound);
            return;
        };
        self.finish(order, SearchState::Cancelled, turn);
        self.runs.remove(&order);
        turn.out.reply(command, Reply::Done);
        self.pump(turn);
    }

    /// Looks for other sources of a download, unseen by the owner. `SearchEvent::Candidates` follows, if need be an
    /// empty one.
    pub fn seek(&mut self, transfer: TransferId, query: &str, turn: &mut Turn<'_>) {
        let seeks = self.runs.values().filter(|run| run.is_seek()).count();
        let twice = self.runs.values().any(|run| run.kind == Kind::Seek(transfer));
        if twice {
            return;
        }
        if seeks >= SEEKS || check_words(query).is_err() {
            self.events.push_back(SearchEvent::Candidates { transfer, candidates: Vec::new() });
            return;
        }
        let request = plain_request(SearchId::from_random(turn.chance.wide()), query);
        self.add(Kind::Seek(transfer), request, query.to_owned(), SEEK_QUEUED, turn);
        self.pump(turn);
    }

    /// What others have to be told, oldest first.
    pub fn pop_event(&mut self) -> Option<SearchEvent> {
        self.events.pop_front()
    }

    /// We are on the network.
    pub fn on_logged_in(&mut self, turn: &mut Turn<'_>) {
        self.logged_in = true;
        self.plan_wish(turn.now);
        self.pump(turn);
    }

    /// We are not. Running searches go on, for answers come from users; waiting ones wait.
    pub fn on_logged_out(&mut self) {
        self.logged_in = false;
    }

    /// Somebody answers a search of ours. A second answer of the same user to the same search is dropped.
    pub fn on_reply(&mut self, reply: SearchReply, turn: &mut Turn<'_>) {
        let Some(&order) = self.tokens.get(&reply.token) else { return };
        let Some(run) = self.runs.get_mut(&order) else { return };
        let user = Username::new(reply.user.as_str());
        let length = user.as_str().len();
        if length == 0 || length > limits::USERNAME_LEN || run.request.user.as_ref().is_some_and(|only| *only != user) {
            return;
        }
        if (reply.files.is_empty() && reply.locked_files.is_empty()) || !run.welcomes(&reply) {
            return;
        }
        if !run.users.contains(&user) && run.users.len() >= limits::SEARCH_ROWS {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        if !run.users.insert(user.clone()) {
            return;
        }
        if run.is_seek() {
            run.keep_candidates(&user, reply);
            return;
        }
        if !run.keep(user, reply) {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        run.ends_at = turn.now.in_(run.timeout()).min(run.ends_at_last);
        run.news = true;
        let (responses, files) = (run.view.responses, run.view.files);
        let (response_limit, file_limit) = (run.request.response_limit, run.request.file_limit);
        if responses >= response_limit {
            self.finish(order, SearchState::ResponseLimitReached, turn);
        } else if files >= file_limit {
            self.finish(order, SearchState::FileLimitReached, turn);
        }
        self.tell(turn.now, turn.out);
        self.pump(turn);
    }

    /// Deadlines have passed.
    pub fn on_timeout(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        let due: Vec<u64> =
            self.runs.iter().filter(|(_, run)| !run.is_over() && run.ends_at <= now).map(|(order, _)| *order).collect();
        for order in due {
            let Some(run) = self.runs.get_mut(&order) else { continue };
            let queued = run.view.state == SearchState::Queued;
            if queued && run.is_seek() && !self.logged_in {
                run.ends_at = turn.now.in_(SEEK_QUEUED);
            } else {
                self.finish(order, if queued { SearchState::Errored } else { SearchState::TimedOut }, turn);
            }
        }
        self.on_wish_due(turn);
        self.tell(turn.now, turn.out);
        self.pump(turn);
    }

    /// The earliest moment at which [`Self::on_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Duration> {
        let mut at: Option<Duration> = None;
        let mut earlier = |moment: Duration| at = Some(at.map_or(moment, |at| at.min(moment)));
        for run in self.runs.values() {
            if !run.is_over() {
                earlier(run.ends_at);
            }
            if let Some(moment) = run.tell_at() {
                earlier(moment);
            }
        }
        let waiting = self.runs.values().any(|run| run.view.state == SearchState::Queued);
        if waiting
            && self.logged_in
            && self.tokens.len() < limits::SEARCHES_AT_ONCE
            && let Some(first) = self.sent.front()
        {
            earlier(first.saturating_add(WINDOW));
        }
        if let Some(moment) = self.wish_at() {
            earlier(moment);
        }
        at
    }

    /// The owner's searches and the wishes' last runs, newest first.
    pub fn views(&self) -> Vec<SearchView> {
        self.runs.values().rev().filter(|run| !run.is_seek()).map(|run| run.view.clone()).collect()
    }

    /// One of them with its answers, in the order they came.
    pub fn view(&self, id: SearchId) -> Option<(SearchView, Vec<ResponseView>)> {
        let run = self.runs.get(&self.find(id)?)?;
        Some((run.view.clone(), run.responses.clone()))
    }

    /// Whether an answer to one of these searches offers this file.
    pub fn offers(&self, user: &Username, path: &WireText) -> bool {
        let responses = self.runs.values().flat_map(|run| &run.responses).filter(|response| response.user == *user);
        let mut names = responses.flat_map(|response| response.files.iter().chain(&response.locked_files));
        names.any(|file| file.name.as_str() == path.as_str())
    }

    fn find(&self, id: SearchId) -> Option<u64> {
        self.runs.iter().find(|(_, run)| run.view.id == id && !run.is_seek()).map(|(order, _)| *order)
    }

    /// Makes room for one more visible search: a wish's finished run goes first, then the oldest finished one.
    fn make_room(&mut self) -> bool {
        if self.runs.values().filter(|run| !run.is_seek()).count() < limits::SEARCHES {
            return true;
        }
        let finished = |run: &Run| !run.is_seek() && run.is_over();
        let wish = self.runs.iter().find(|(_, run)| finished(run) && matches!(run.kind, Kind::Wish(_)));
        let oldest = wish.or_else(|| self.runs.iter().find(|(_, run)| finished(run))).map(|(order, _)| *order);
        oldest.is_some_and(|order| self.runs.remove(&order).is_some())
    }

    fn add(&mut self, kind: Kind, request: SearchRequest, text: String, patience: Duration, turn: &mut Turn<'_>) {
        self.order = self.order.saturating_add(1);
        let mut token = Token(0);
        // Nonzero and unlike those in use; a few tries always do, for at most two are.
        for _ in 0..8 {
            let low = u32::try_from(turn.chance.below(u64::from(u32::MAX))).unwrap_or_default();
            token = Token(low.saturating_add(1));
            if self.runs.values().all(|run| run.view.token != token.0) {
                break;
            }
        }
        let ends_at = turn.now.in_(patience);
        self.runs.insert(
            self.order,
            Run {
                kind,
                view: SearchView {
                    id: request.id,
                    token: token.0,
                    text,
                    state: SearchState::Queued,
                    started_at: turn.now.wall,
                    ended_at: None,
                    responses: 0,
                    files: 0,
                    locked_files: 0,
                },
                request,
                responses: Vec::new(),
                users: BTreeSet::new(),
                candidates: Vec::new(),
                ends_at,
                ends_at_last: ends_at,
                news: !matches!(kind, Kind::Seek(_)),
                told_at: None,
            },
        );
    }

    /// Sends what may be sent now.
    fn pump(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        while self.sent.front().is_some_and(|at| at.saturating_add(WINDOW) <= now) {
            self.sent.pop_front();
        }
        let per_window = usize::try_from(limits::SEARCHES_PER_WINDOW).unwrap_or(usize::MAX);
        while self.logged_in && self.tokens.len() < limits::SEARCHES_AT_ONCE && self.sent.len() < per_window {
            let waiting = self.runs.iter().filter(|(_, run)| run.view.state == SearchState::Queued);
            let Some(order) = waiting.min_by_key(|(order, run)| (rank(run.kind), **order)).map(|(order, _)| *order)
            else {
                break;
            };
            self.sent.push_back(now);
            self.send(order, turn);
        }
        self.announce(turn.out);
        self.tell(turn.now, turn.out);
    }

    fn send(&mut self, order: u64, turn: &mut Turn<'_>) {
        let Some(run) = self.runs.get_mut(&order) else { return };
        let token = Token(run.view.token);
        let query = run.request.text.as_str().into();
        turn.out.server(match (&run.request.user, run.kind) {
            (Some(user), _) => ToServer::UserSearch { user: user.as_str().into(), token, query },
            (None, Kind::Wish(_)) => ToServer::WishlistSearch { token, query },
            (None, _) => ToServer::FileSearch { token, query },
        });
        run.view.state = SearchState::InProgress;
        run.news = !run.is_seek();
        run.ends_at_last = turn.now.in_(WHOLE);
        run.ends_at = turn.now.in_(if run.is_seek() { SEEK } else { run.timeout() });
        let kind = run.kind;
        self.tokens.insert(token, order);
        if let Kind::Wish(wish) = kind {
            self.on_wish_sent(wish, turn);
        }
    }

    /// A search is over, whatever the reason. Does nothing to one that already is.
    fn finish(&mut self, order: u64, state: SearchState, turn: &mut Turn<'_>) {
        let Some(run) = self.runs.get_mut(&order) else { return };
        if run.is_over() {
            return;
        }
        let sent = run.view.state == SearchState::InProgress;
        run.view.state = state;
        run.view.ended_at = Some(turn.now.wall);
        run.news = !run.is_seek();
        run.users = BTreeSet::new();
        self.tokens.remove(&Token(run.view.token));
        let (kind, files) = (run.kind, run.view.files);
        match kind {
            Kind::Wish(wish) if sent => self.on_wish_over(wish, files, turn.out),
            Kind::Owner | Kind::Wish(_) => {}
            Kind::Seek(transfer) => {
                let candidates = std::mem::take(&mut run.candidates);
                self.runs.remove(&order);
                self.events.push_back(SearchEvent::Candidates { transfer, candidates });
            }
        }
        self.announce(turn.out);
    }

    /// Tells the shell which answers to let in.
    fn announce(&mut self, out: &mut Effects) {
        if !self.tokens.keys().eq(&self.announced) {
            self.announced = self.tokens.keys().copied().collect();
            out.net(NetAction::SearchTokens(self.announced.clone()));
        }
    }

    /// Tells pages of news that have waited long enough.
    fn tell(&mut self, now: Now, out: &mut Effects) {
        for run in self.runs.values_mut() {
            if run.tell_at().is_some_and(|at| at <= now.mono) {
                run.news = false;
                run.told_at = Some(now.mono);
                out.notice(Notice::SearchChanged(run.view.id));
            }
        }
    }
}

/// The owner first, then transfers that wait, then wishes, which have time.
fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::Owner => 0,
        Kind::Seek(_) => 1,
        Kind::Wish(_) => 2,
    }
}

/// Whether these words can be searched for: the network needs at least one that is not excluded.
fn check_words(text: &str) -> Result<(), String> {
    if text.len() > limits::QUERY_LEN {
        return Err(format!("{} bytes of words, at most {}", text.len(), limits::QUERY_LEN));
    }
    let plain = |word: &str| !word.starts_with('-') && word.chars().any(char::is_alphanumeric);
    if text.split_whitespace().any(plain) { Ok(()) } else { Err("no word to search for".to_owned()) }
}

/// A search without wishes of its own.
fn plain_request(id: SearchId, text: &str) -> SearchRequest {
    SearchRequest {
        id,
        text: text.to_owned(),
        user: None,
        timeout_ms: 15_000,
        response_limit: u32::MAX,
        file_limit: u32::MAX,
        filter_responses: false,
        minimum_files: 0,
        maximum_queue: u32::MAX,
        minimum_speed: 0,
    }
}

fn shown(file: RemoteFile) -> FileView {
    FileView {
        attributes: file.known_attributes(),
        name: file.name,
        size: file.size,
        code: file.code,
        extension: file.extension.as_str().to_owned(),
    }
}
