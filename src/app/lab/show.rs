//! What a person sees of a scenario: a line for each source that lives on a terminal, and plain lines elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::scenario::{Copied, Peer, Scenario, Via};
use super::stage::{Look, Report, Watch};
use crate::app::cli::print;
use crate::model::units::{KIB, MIB};

/// Between two plain lines.
const PLAIN: Duration = Duration::from_secs(2);
/// Speed is told over the last so many looks.
const WINDOW: usize = 10;

/// Shows it, or nothing.
pub(super) struct Show {
    how: How,
    size: u64,
    names: Vec<String>,
    looks: Vec<(Duration, Vec<u64>)>,
}

enum How {
    Silent,
    Plain(Duration),
    Live { head: ProgressBar, lines: Vec<ProgressBar> },
}

impl Show {
    pub(super) fn new(scenario: &Scenario, silent: bool) -> Self {
        let names: Vec<String> = scenario.peers.iter().map(|peer| peer.name.clone()).collect();
        let widest = names.iter().map(String::len).max().unwrap_or(0);
        let how = if silent {
            How::Silent
        } else if std::io::stdout().is_terminal() {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
            let style = |template: &str| {
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
            };
            let head = all.add(ProgressBar::new(scenario.size).with_style(style("{spinner} {msg}")));
            let source = format!("  {{prefix:{widest}}}  {{bar:24}}  {{msg}}");
            let line = |(name, peer): (&String, &Peer)| {
                let bar = ProgressBar::new(scenario.size).with_style(style(&source)).with_prefix(name.clone());
                let bar = all.add(bar);
                bar.set_message(told(peer));
                bar
            };
            let lines = names.iter().zip(&scenario.peers).map(line).collect();
            How::Live { head, lines }
        } else {
            How::Plain(Duration::ZERO)
        };
        Self { how, size: scenario.size, names, looks: Vec::new() }
    }

    /// Nothing more is shown.
    pub(super) fn over(&self) {
        if let How::Live { head, lines } = &self.how {
            lines.iter().for_each(ProgressBar::abandon);
            head.abandon();
        }
    }

    /// Bytes per second of each source over the last looks.
    fn speeds(&mut self, look: &Look) -> Vec<u64> {
        let now: Vec<u64> = look.sources.iter().map(|source| source.0).collect();
        self.looks.push((look.elapsed, now.clone()));
        if self.looks.len() > WINDOW {
            self.looks.remove(0);
        }
        let Some((then, before)) = self.looks.first() else { return Vec::new() };
        let ms = u64::try_from(look.elapsed.saturating_sub(*then).as_millis()).unwrap_or(0).max(1);
        now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before) * 1_000 / ms).collect()
    }
}

impl Watch for Show {
    fn prepares(&mut self, what: &str) {
        match &self.how {
            How::Silent => {}
            How::Plain(_) => _ = print(format!("{what}\n").as_bytes()),
            How::Live { head, .. } => {
                head.set_message(what.to_owned());
                head.tick();
            }
        }
    }

    fn looks(&mut self, look: &Look) {
        let speeds = self.speeds(look);
        let total: u64 = speeds.iter().sum();
        let head = format!(
            "{:5.1} s  {:>3} %  {:>6.1} of {:.1} MiB  {:>5} KiB/s  {}",
            look.elapsed.as_secs_f64(),
            percent(look.bytes, self.size),
            mib(look.bytes),
            mib(self.size),
            total / KIB,
            look.waits
        );
        match &mut self.how {
            How::Silent => {}
            How::Plain(last) => {
                if look.elapsed.saturating_sub(*last) >= PLAIN || look.bytes == self.size {
                    *last = look.elapsed;
                    let share = |(name, source): (&String, &(u64, u64, bool))| {
                        format!("{name} {} %", percent(source.0, self.size))
                    };
                    let shares: Vec<String> = self.names.iter().zip(&look.sources).map(share).collect();
                    let _ = print(format!("{}  {}\n", head.trim_end(), shares.join(", ")).as_bytes());
                }
            }
            How::Live { head: top, lines } => {
                top.set_message(head);
                top.tick();
                for ((line, (bytes, bad, dropped)), speed) in lines.iter().zip(&look.sources).zip(speeds) {
                    line.set_position(*bytes);
                    let mut message = format!(
                        "{:>3} %  {:>6.1} MiB  {:>5} KiB/s",
                        percent(*bytes, self.size),
                        mib(*bytes),
                        speed / KIB
                    );
                    if *bad > 0 {
                        message.push_str(&format!("  {bad} bad pieces"));
                    }
                    if *dropped {
                        message.push_str(", gets no more");
                    }
                    line.set_message(message);
                }
            }
        }
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100) / whole.max(1)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

/// A peer's part in the play.
fn told(peer: &Peer) -> String {
    let mut words = Vec::new();
    if peer.via == Via::Soulseek {
        words.push("on Soulseek".to_owned());
    }
    let faults = &peer.faults;
    words.push(faults.rate.map_or_else(|| "as fast as it goes".to_owned(), |rate| format!("{} KiB/s", rate / KIB)));
    if !peer.rtt.is_zero() {
        words.push(format!("{} ms away", peer.rtt.as_millis()));
    }
    if let Some(at) = peer.starts {
        words.push(format!("comes after {} s", at.as_secs_f64()));
    }
    if let Some(at) = peer.leaves {
        words.push(format!("leaves after {} s", at.as_secs_f64()));
    }
    if let Some(bytes) = faults.stall_after {
        words.push(format!("falls silent after {} KiB", bytes / KIB));
    }
    if let Some(bytes) = faults.disconnect_after {
        words.push(format!("is gone after {} KiB", bytes / KIB));
    }
    match faults.corrupt_every {
        _ if faults.wrong_root => words.push("lists another file".to_owned()),
        Some(1) => words.push("flips a bit in every piece".to_owned()),
        Some(every) => words.push(format!("flips a bit in one of every {every} pieces")),
        None => {}
    }
    words.extend(Copied::OTHERS.iter().filter(|(copy, ..)| *copy == peer.copy).map(|(.., told)| (*told).to_owned()));
    if peer.deny_offset {
        words.push("sends from the beginning or not at all".to_owned());
    }
    if peer.refuses {
        words.push("shares it no more".to_owned());
    }
    if faults.queue_ms > 0 {
        words.push(format!("keeps us waiting for {} ms", faults.queue_ms));
    }
    words.join(", ")
}

/// The end of it, in lines.
pub(super) fn summary(scenario: &Scenario, report: &Report) -> String {
    let mut out = String::new();
    let verdict = match (report.completed, report.identical) {
        (true, true) => "The file is there, and it is the one that was made.",
        (true, false) => "The file is there, but it is NOT the one that was made.",
        (false, _) => "The file did not come in time.",
    };
    out.push_str(&format!("\n{verdict}\n"));
    out.push_str(&format!("  {:.1} MiB in {:.2} s", mib(report.bytes), report.seconds));
    if let (Some(ideal), Some(ratio)) = (report.ideal_seconds, report.ratio) {
        out.push_str(&format!("; the good sources at full rate need {ideal:.2} s: {ratio:.2} times that"));
    }
    out.push('\n');
    let widest = scenario.peers.iter().map(|peer| peer.name.len()).max().unwrap_or(0);
    for peer in &scenario.peers {
        let bytes = report.bytes_by_source.get(&peer.name).copied().unwrap_or(0);
        let bad = report.corrupt_pieces_by_source.get(&peer.name);
        let bad = bad.map(|bad| format!("; {bad} bad pieces, none of them written")).unwrap_or_default();
        let share = percent(bytes, report.bytes);
        out.push_str(&format!(
            "  {:widest$}  {share:>3} %  {:>6.1} MiB  ({}){bad}\n",
            peer.name,
            mib(bytes),
            told(peer)
        ));
    }
    out.push_str(&format!(
        "  sent in vain: {:.1} MiB; the fetching node took {:.0} MiB of memory\n",
        mib(report.wasted_bytes),
        mib(report.peak_rss_kib.saturating_mul(KIB))
    ));
    out
}
