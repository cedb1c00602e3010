//! Logs go to the journal where its socket is there, else to standard error; the newest lines are kept for the page.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use super::clock::Clock;
use crate::model::limits;
use crate::model::view::LogLine;

/// The newest lines. Cloning shares them.
#[derive(Clone)]
pub struct LogTail {
    clock: Clock,
    lines: Arc<Mutex<Lines>>,
}

#[derive(Default)]
struct Lines {
    next: u64,
    kept: VecDeque<LogLine>,
}

/// A line longer than this is cut, bytes.
const LINE_LEN: usize = 2_000;

impl LogTail {
    /// Keeps nothing yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, lines: Arc::default() }
    }

    /// Lines with a number above `after`, oldest first.
    pub fn after(&self, after: u64) -> Vec<LogLine> {
        // Short and synchronous; a panic while holding it leaves the lines as good as they were.
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.kept.iter().filter(|line| line.sequence > after).cloned().collect()
    }

    fn push(&self, level: Level, target: &str, text: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.next += 1;
        let level = match level {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            Level::INFO => "INFO",
            Level::DEBUG => "DEBUG",
            Level::TRACE => "TRACE",
        };
        let line = LogLine { sequence: lines.next, at: self.clock.now().wall, level, target: target.to_owned(), text };
        if lines.kept.len() >= limits::LOG_LINES {
            lines.kept.pop_front();
        }
        lines.kept.push_back(line);
    }
}

impl<S: Subscriber> Layer<S> for LogTail {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.push(*event.metadata().level(), event.metadata().target(), text.0);
    }
}

/// Message first, then ` name=value`; control characters are shown, not obeyed.
struct Text(String);

impl Text {
    fn add(&mut self, name: &str, value: &str) {
        if self.0.len() >= LINE_LEN {
            return;
        }
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        if name != "message" {
            let _ = write!(self.0, "{name}=");
        }
        for c in value.chars() {
            // One shown control character is longer than itself.
            if self.0.len() >= LINE_LEN {
                return;
            }
            if c.is_control() {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
        }
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field.name(), &format!("{value:?}"));
    }
}

/// Installs the process's logger and returns the tail. `level` is one of `error` … `trace`, or a full filter as in
/// `info,slskdn::net=debug`.
///
/// A second call in one process changes nothing and returns a tail that stays empty.
pub fn install(level: &str, clock: Clock) -> LogTail {
    let tail = LogTail::new(clock);
    // Crates below us are quiet unless they are asked for by name.
    let filter = if level.contains(['=', ',']) { level.to_owned() } else { format!("warn,slskdn={level}") };
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|_| EnvFilter::new("warn,slskdn=info"));
    let journal = tracing_journald::layer().ok().map(|layer| layer.with_syslog_identifier("slskdn".to_owned()));
    // Under systemd standard error is the journal too: one of the two, not both. A terminal always gets its lines.
    let to_journal = journal.is_some() && std::env::var_os("JOURNAL_STREAM").is_some();
    let stderr = (!to_journal).then(|| {
        let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).with_target(false)
    });
    let journal = journal.filter(|_| to_journal);
    let registry = tracing_subscriber::registry().with(filter).with(tail.clone()).with(journal).with(stderr);
    let _ = registry.try_init();
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut() {
        let tail = LogTail::new(Clock::start());
        let subscriber = tracing_subscriber::registry().with(tail.clone());
        let remote = "\u{7}".repeat(100_000);
        tracing::subscriber::with_default(subscriber, || tracing::info!(a = remote, b = remote, "said"));
        let length = tail.after(0)[0].text.len();
        assert!((LINE_LEN..LINE_LEN + 16).contains(&length), "{length}");
    }

    #[test]
    fn the_tail_keeps_the_newest_lines_escaped() {
        let tail = LogTail::new(Clock::start());
        let subscriber = tracing_subscriber::registry().with(tail.clone());
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..limits::LOG_LINES + 5 {
                tracing::info!(n, user = "a\u{1b}[31m\nb", "said");
            }
        });
        let lines = tail.after(0);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(tail.clone()), || {
            tracing::info!(message = "Login", code = 1, "received");
        });
        let last = tail.after(lines[lines.len() - 1].sequence);
        assert_eq!(last[0].text, "received Login code=1", "fields called message stand apart");
        assert_eq!(lines.len(), limits::LOG_LINES);
        assert_eq!(lines[0].sequence, 6);
        assert_eq!(lines[0].text, r"said n=5 user=a\u{1b}[31m\nb");
        assert_eq!(tail.after(last[0].sequence), []);
    }
}
