//! What the web layer counts of itself, for `/metrics`.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters since start, and two gauges.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Answers by class, 1xx to 5xx.
    answers: [AtomicU64; 5],
    /// Requests refused before any route saw them.
    pub(crate) refused: AtomicU64,
    /// Panics of handlers; anything but 0 is a fault of ours.
    pub(crate) panics: AtomicU64,
    /// Connections accepted.
    pub(crate) accepted: AtomicU64,
    /// Connections closed at once: their address held its share already.
    pub(crate) turned_away: AtomicU64,
    /// Open connections.
    pub(crate) connections: AtomicU64,
}

impl Counts {
    pub(crate) fn answered(&self, status: u16) {
        if let Some(class) = self.answers.get(usize::from(status / 100).wrapping_sub(1)) {
            class.fetch_add(1, Relaxed);
        }
    }

    /// Adds our lines to the program's. An end mark of the `OpenMetrics` form stays last.
    pub(crate) fn add_to(&self, program: &str, sign_ins_failed: u64, event_streams: u64) -> String {
        let (mut text, end) = match program.trim_end().strip_suffix("# EOF") {
            Some(text) => (text.to_owned(), "# EOF\n"),
            None => (program.to_owned(), ""),
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str("# HELP slskdn_web_answers Answers of the page and the API, by class.\n");
        text.push_str("# TYPE slskdn_web_answers counter\n");
        for (class, count) in (1..).zip(&self.answers) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "slskdn_web_answers_total{{class=\"{class}xx\"}} {}", count.load(Relaxed));
        }
        for (name, kind, help, value) in [
            ("refused", "counter", "Requests refused before any route saw them", self.refused.load(Relaxed)),
            ("sign_ins_failed", "counter", "Wrong passwords and set-up codes", sign_ins_failed),
            ("panics", "counter", "Handlers that panicked", self.panics.load(Relaxed)),
            ("accepted", "counter", "Connections accepted", self.accepted.load(Relaxed)),
            ("turned_away", "counter", "Connections of an address that held its share", self.turned_away.load(Relaxed)),
            ("connections", "gauge", "Open connections", self.connections.load(Relaxed)),
            ("event_streams", "gauge", "Open event streams", event_streams),
        ] {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let _ = write!(
                text,
                "# HELP slskdn_web_{name} {help}.\n# TYPE slskdn_web_{name} {kind}\nslskdn_web_{name}{suffix} {value}\n"
            );
        }
        text + end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_come_before_the_end_mark() {
        let counts = Counts::default();
        counts.answered(200);
        counts.answered(999);
        counts.answered(0);
        let text = counts.add_to("slskdn_up 1\n# EOF\n", 0, 0);
        assert!(text.starts_with("slskdn_up 1\n# HELP"), "{text}");
        assert!(text.contains("\nslskdn_web_answers_total{class=\"2xx\"} 1\n"), "{text}");
        assert!(text.ends_with("\n# EOF\n"));
        assert!(!counts.add_to("slskdn_up 1", 0, 0).contains("EOF"));
    }
}
