//! What a peer of the lab does to the bytes it serves: how fast they go, which are spoiled, when they end.
//!
//! The code that serves asks here at four places, and only in a process of the lab. What is metered is what the file's
//! receiver counts too: bytes of files and lists. The packets around them are not; they are about 3 % more.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::model::units::KIB;

/// The most that may go at once after a pause (DECISIONS 31).
const BURST: u64 = 64 * KIB;
/// A pause is made up for by so much at most. Chosen: timers are a few milliseconds late on a busy machine.
const CATCH_UP: Duration = Duration::from_millis(20);
/// The most that goes in one turn: streams of one peer take turns.
const PORTION: u64 = 16 * KIB;

/// What is to happen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// Bytes per second; `None` is as fast as it goes.
    pub rate: Option<u64>,
    /// After so many bytes of files it sends nothing more and answers no request; the connection stays.
    pub stall_after: Option<u64>,
    /// After so many bytes of files it is gone.
    pub disconnect_after: Option<u64>,
    /// Every so-manieth piece has a flipped bit.
    pub corrupt_every: Option<u64>,
    /// Its piece lists fold to another hash.
    pub wrong_root: bool,
    /// Requests are refused for so long after the first, milliseconds.
    pub queue_ms: u64,
}

/// The same, at work.
#[derive(Debug)]
pub struct Faults {
    wanted: Wanted,
    gone: CancellationToken,
    /// When the next byte may go. Whoever's turn it is holds it while it waits.
    next: Mutex<Instant>,
    began: Mutex<Option<Instant>>,
    sent: AtomicU64,
    pieces: AtomicU64,
    silent: AtomicBool,
}

impl Faults {
    /// `gone` is cancelled when the peer is to be gone.
    pub fn new(wanted: Wanted, gone: CancellationToken) -> Self {
        Self {
            wanted,
            gone,
            next: Mutex::new(Instant::now()),
            began: Mutex::default(),
            sent: AtomicU64::new(0),
            pieces: AtomicU64::new(0),
            silent: AtomicBool::new(false),
        }
    }

    /// Bytes of files sent, spoiled ones included.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Before a request is answered. True: it is refused for now.
    pub async fn turns_away(&self) -> bool {
        if self.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let began = *self.began.lock().await.get_or_insert_with(Instant::now);
        began.elapsed() < Duration::from_millis(self.wanted.queue_ms)
    }

    /// Before a piece list is sent.
    pub fn spoil_list(&self, list: &mut [u8]) {
        if self.wanted.wrong_root
            && let Some(last) = list.last_mut()
        {
            *last ^= 1;
        }
    }

    /// Before a piece, or a part of one, is sent.
    pub fn spoil(&self, bytes: Bytes) -> Bytes {
        let number = self.pieces.fetch_add(1, Ordering::Relaxed) + 1;
        if self.wanted.corrupt_every.is_none_or(|every| !number.is_multiple_of(every)) {
            return bytes;
        }
        let mut bytes = bytes.to_vec();
        if let Some(byte) = bytes.first_mut() {
            *byte ^= 0x10;
        }
        bytes.into()
    }

    /// Leave to send between 1 and `len` bytes; waits for its turn, or for ever.
    pub async fn take(&self, len: usize, of_a_file: bool) -> usize {
        let mut next = self.next.lock().await;
        let mut granted = (len as u64).max(1);
        if of_a_file {
            let sent = self.sent();
            if self.wanted.disconnect_after.is_some_and(|most| sent >= most) {
                self.gone.cancel();
                std::future::pending::<()>().await;
            }
            if self.wanted.stall_after.is_some_and(|most| sent >= most) {
                self.silent.store(true, Ordering::Relaxed);
                std::future::pending::<()>().await;
            } else {
                let most = self.wanted.disconnect_after.into_iter().chain(self.wanted.stall_after).min();
                granted = granted.min(most.map_or(u64::MAX, |most| most - sent));
            }
        }
        if let Some(rate) = self.wanted.rate {
            granted = granted.min((rate / 10).clamp(512, PORTION));
            let nanos = |bytes: u64| Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.max(1));
            let now = Instant::now();
            // What was not used while nobody wanted anything is lost but for a little.
            let idle = now.checked_sub(CATCH_UP.min(nanos(BURST))).unwrap_or(now);
            *next = (*next).max(idle) + nanos(granted);
            // The deadline is the pace: a late timer does not shift those after it.
            sleep_until(*next).await;
        }
        if of_a_file {
            self.sent.fetch_add(granted, Ordering::Relaxed);
        }
        usize::try_from(granted).unwrap_or(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(wanted: Wanted) -> Faults {
        Faults::new(wanted, CancellationToken::new())
    }

    async fn send(faults: &Faults, mut bytes: usize) {
        while bytes > 0 {
            bytes -= faults.take(bytes, true).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_and_pauses_are_lost() {
        for rate in [50_000, 100_000, 1_000_000, 8_000_000] {
            let faults = faults(Wanted { rate: Some(rate), ..Wanted::default() });
            for _ in 0..2 {
                tokio::time::sleep(Duration::from_secs(60)).await;
                let began = Instant::now();
                send(&faults, usize::try_from(10 * rate).unwrap()).await;
                let took = began.elapsed().as_millis();
                assert!((9_980..=10_010).contains(&took), "{rate}: {took} ms");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_streams_get_the_same() {
        let faults = faults(Wanted { rate: Some(1_000_000), ..Wanted::default() });
        let began = Instant::now();
        tokio::join!(send(&faults, 1_000_000), async {
            send(&faults, 500_000).await;
            let took = began.elapsed().as_millis();
            assert!((950..1_050).contains(&took), "{took} ms");
        });
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_departure_come_after_exactly_so_many_bytes() {
        let limit = Some(100_000);
        let stalls = faults(Wanted { stall_after: limit, ..Wanted::default() });
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, send(&stalls, 100_001)).await.is_err());
        assert_eq!((stalls.sent(), stalls.gone.is_cancelled()), (100_000, false));
        assert!(tokio::time::timeout(hour, stalls.turns_away()).await.is_err(), "it answers no request");

        let leaves = faults(Wanted { disconnect_after: limit, ..Wanted::default() });
        assert!(tokio::time::timeout(hour, send(&leaves, 100_001)).await.is_err());
        assert_eq!((leaves.sent(), leaves.gone.is_cancelled()), (100_000, true));
        assert_eq!(leaves.take(5, false).await, 5, "lists do not count");
    }

    #[tokio::test(start_paused = true)]
    async fn every_so_manieth_piece_is_spoiled() {
        let faults = faults(Wanted { corrupt_every: Some(3), wrong_root: true, ..Wanted::default() });
        let sent: Vec<bool> =
            (0..7).map(|_| faults.spoil(Bytes::from_static(&[0; 8])).iter().any(|byte| *byte != 0)).collect();
        assert_eq!(sent, [false, false, true, false, false, true, false]);
        let mut list = [0; 32];
        faults.spoil_list(&mut list);
        assert_ne!(list, [0; 32]);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_turned_away_while_it_queues_us() {
        let faults = faults(Wanted { queue_ms: 500, ..Wanted::default() });
        assert!(faults.turns_away().await);
        tokio::time::sleep(Duration::from_millis(499)).await;
        assert!(faults.turns_away().await);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!faults.turns_away().await);
    }
}
