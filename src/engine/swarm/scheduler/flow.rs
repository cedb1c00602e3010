//! How fast a source delivers, how far away it is, and how much it should be asked for at once.
//!
//! The rate is measured while bytes are owed: a sample closes after a tenth of a second or a round trip, whichever is
//! longer, and at a piece's end. A newcomer is asked for one piece, then for more with each that comes. It ramps: it is asked
//! for four times its bandwidth × delay until that brings no more, from then on for once its bandwidth × delay and a
//! little on top.

use std::time::Duration;

use crate::engine::mesh::exchange::PIECE_LEN;

/// Bytes of a piece.
#[expect(clippy::cast_precision_loss, reason = "a power of two")]
pub(super) const PIECE: f64 = PIECE_LEN as f64;
/// Seconds of work a source has beyond its bandwidth × delay, so that it never waits for us: a run, and half of one on
/// top.
const AHEAD: f64 = 0.4;
/// A run is so many seconds of the source's work (DESIGN 5).
const RUN: f64 = 0.25;
/// A sample is at least so long, seconds.
const SAMPLE: f64 = 0.1;
/// Weight of a new sample (C13).
const ALPHA: f64 = 0.3;
/// Round trips of work a source has in its ramp: QUIC's window doubles with each, and what is measured is one old.
const RAMP: f64 = 4.0;
/// A ramp goes on while a round brings so many times more.
const GROWTH: f64 = 1.2;
/// Rounds without growth that end it.
const FLAT: u8 = 3;
/// Pieces with one source at most: its streams times the longest run.
pub(super) const PIECES_MAX: u32 = 128;
/// Pieces that a source which was good before begins with.
const KNOWN: u32 = 4;

#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// Bytes per second.
    rate: Option<f64>,
    /// Shortest time from a request to its first byte, seconds.
    rtt: Option<f64>,
    /// Since when the open sample runs, and its bytes.
    open: Option<(Duration, f64)>,
    /// When the last byte came.
    pub(super) heard: Option<Duration>,
    /// Pieces it may be asked for at once, whatever its rate.
    cap: u32,
    /// The best round of the ramp, and rounds since; nothing once it is over.
    ramp: Option<(f64, u8)>,
}

impl Flow {
    pub(super) fn new(known: bool) -> Self {
        let cap = if known { KNOWN } else { 1 };
        Self { rate: None, rtt: None, open: None, heard: None, cap, ramp: Some((0.0, 0)) }
    }

    /// The first byte of a run asked for at that time.
    pub(super) fn first_byte(&mut self, asked: Duration, now: Duration) {
        let took = now.saturating_sub(asked).as_secs_f64();
        self.rtt = Some(self.rtt.map_or(took, |rtt| rtt.min(took)));
        self.open.get_or_insert((now, 0.0));
        self.heard = Some(now);
    }

    /// Bytes came. The sample they close, bytes per second.
    pub(super) fn came(&mut self, bytes: f64, now: Duration) -> Option<f64> {
        self.heard = Some(now);
        let (since, before) = *self.open.get_or_insert((now, 0.0));
        let (took, all) = (now.saturating_sub(since).as_secs_f64(), before + bytes);
        if took < SAMPLE.max(self.rtt.unwrap_or_default()) {
            self.open = Some((since, all));
            return None;
        }
        self.open = Some((now, 0.0));
        let sample = all / took;
        match &mut self.ramp {
            Some((best, flat)) => {
                if sample >= *best * GROWTH {
                    (*best, *flat) = (sample, 0);
                } else {
                    *flat += 1;
                    if *flat >= FLAT {
                        self.ramp = None;
                    }
                }
                self.rate = Some(self.rate.map_or(sample, |rate| sample.max(rate * (1.0 - ALPHA) + sample * ALPHA)));
            }
            None => self.rate = Some(self.rate.map_or(sample, |rate| rate * (1.0 - ALPHA) + sample * ALPHA)),
        }
        Some(sample)
    }

    /// Nothing is owed any more: time that passes now says nothing of the source.
    pub(super) fn idle(&mut self) {
        self.open = None;
    }

    /// A right piece came: it may be asked for more.
    pub(super) fn trust(&mut self) {
        self.cap = self.cap.saturating_add(2).min(PIECES_MAX);
    }

    /// It failed: it begins anew.
    pub(super) fn distrust(&mut self) {
        (self.cap, self.ramp) = (1, Some((0.0, 0)));
    }

    /// Bytes per second as far as known. Less than measured when it has been silent for longer than a piece takes.
    pub(super) fn rate(&self, now: Duration) -> Option<f64> {
        let rate = match (self.rate, self.open) {
            (None, Some((since, bytes))) if bytes > 0.0 => {
                Some(bytes / now.saturating_sub(since).as_secs_f64().max(SAMPLE))
            }
            (rate, _) => rate,
        }?;
        let Some((since, bytes)) = self.open else { return Some(rate) };
        let silent = now.saturating_sub(since).as_secs_f64();
        let most = (bytes + PIECE) / silent.max(0.001);
        Some(if silent > SAMPLE + self.rtt.unwrap_or_default() { rate.min(most) } else { rate })
    }

    pub(super) fn rtt(&self) -> f64 {
        self.rtt.unwrap_or_default()
    }

    /// Bytes to be asked for at once.
    pub(super) fn window(&self, now: Duration) -> f64 {
        let cap = f64::from(self.cap) * PIECE;
        let Some(rate) = self.rate.and_then(|_| self.rate(now)) else { return cap };
        let rtts = if self.ramp.is_some() { RAMP } else { 1.0 };
        (rate * (self.rtt() * rtts + AHEAD)).max(2.0 * PIECE).min(cap)
    }

    /// Pieces that must be free before it is asked for more, so that runs do not become small.
    pub(super) fn least(&self, now: Duration, most: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and small")]
        let half = (self.window(now) / PIECE / 2.0) as usize;
        self.run(now, most).min(half).max(1)
    }

    /// Pieces of one run, 1 to `most`.
    pub(super) fn run(&self, now: Duration, most: usize) -> usize {
        let pieces = self.rate(now).map_or(1.0, |rate| rate * RUN / PIECE);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let pieces = pieces.clamp(1.0, f64::from(PIECES_MAX)) as usize;
        pieces.clamp(1, most)
    }
}
