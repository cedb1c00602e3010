//! Speed limits, shared fairly by all transfers of one direction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::model::rescue::Moved;
use crate::model::units::KIB;

/// The most that may pass at once after a pause (DECISIONS 31).
const BURST: u64 = 64 * KIB;

/// Both directions. Clones share the limits.
#[derive(Clone, Debug)]
pub struct Limiter {
    /// What we receive.
    pub down: Arc<Bucket>,
    /// What we send.
    pub up: Arc<Bucket>,
    /// How much went through.
    pub traffic: Arc<Traffic>,
}

/// Bytes of files that went through our sockets since the program began; counted where they are read and written.
#[derive(Debug, Default)]
pub struct Traffic {
    /// To mesh peers.
    pub overlay_up: AtomicU64,
    /// From mesh peers.
    pub overlay_down: AtomicU64,
    /// To Soulseek users.
    pub soulseek_up: AtomicU64,
    /// From Soulseek users.
    pub soulseek_down: AtomicU64,
    /// Of those from mesh peers, for rescues.
    pub rescue_down: AtomicU64,
}

impl Traffic {
    /// What moved so far.
    pub fn moved(&self) -> Moved {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Moved {
            overlay_up: read(&self.overlay_up),
            overlay_down: read(&self.overlay_down),
            soulseek_up: read(&self.soulseek_up),
            soulseek_down: read(&self.soulseek_down),
            rescue_down: read(&self.rescue_down),
        }
    }
}

/// So many bytes more.
pub fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

impl Limiter {
    /// Limits in bytes per second; 0 is none.
    pub fn new(down: u64, up: u64) -> Self {
        Self { down: Arc::new(Bucket::new(down)), up: Arc::new(Bucket::new(up)), traffic: Arc::default() }
    }
}

/// A token bucket. Callers are served in order, each with a little at a time, so that all get the same.
#[derive(Debug)]
pub struct Bucket {
    /// Bytes per second; 0 is no limit.
    rate: watch::Sender<u64>,
    /// Held by the caller whose turn it is, while it waits for its bytes.
    level: Mutex<Level>,
    /// Granted, not used, not yet back in the level.
    returned: AtomicU64,
    /// Spent without waiting, not yet taken from the level.
    owed: AtomicU64,
}

#[derive(Debug)]
struct Level {
    bytes: u64,
    /// The level holds what flowed in until then.
    at: Instant,
}

impl Bucket {
    /// Bytes per second; 0 is no limit.
    pub fn new(rate: u64) -> Self {
        let level = Level { bytes: 0, at: Instant::now() };
        Self {
            rate: watch::Sender::new(rate),
            level: Mutex::new(level),
            returned: AtomicU64::new(0),
            owed: AtomicU64::new(0),
        }
    }

    /// The limit now.
    pub fn rate(&self) -> u64 {
        *self.rate.borrow()
    }

    /// Whether somebody waits now because of the limit.
    pub fn is_short(&self) -> bool {
        self.rate() > 0 && self.level.try_lock().is_err()
    }

    /// Changes the limit, for those who wait as well.
    pub fn set_rate(&self, rate: u64) {
        self.rate.send_replace(rate);
    }

    /// Leave to move between 1 and `wanted` bytes (0 only if 0 are wanted); waits for its turn.
    pub async fn take(&self, wanted: usize) -> usize {
        if wanted == 0 || self.rate() == 0 {
            return wanted;
        }
        let mut rates = self.rate.subscribe();
        let mut level = self.level.lock().await;
        loop {
            let rate = *rates.borrow_and_update();
            if rate == 0 {
                return wanted;
            }
            // A tenth of a second's worth, so that turns are short at any limit; and less than a burst, so that what
            // flows in while a timer is late is not lost.
            let portion = wanted.min(usize::try_from((rate / 10).clamp(512, BURST / 2)).unwrap_or(wanted));
            level.fill(rate, self.returned.swap(0, Ordering::Relaxed), Instant::now());
            let owed = self.owed.swap(0, Ordering::Relaxed);
            let paid = owed.min(level.bytes);
            level.bytes -= paid;
            self.owed.fetch_add(owed - paid, Ordering::Relaxed);
            let needed = portion as u64;
            if level.bytes >= needed {
                level.bytes -= needed;
                return portion;
            }
            let wait = Duration::from_nanos((needed - level.bytes).saturating_mul(1_000_000_000) / rate);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = rates.changed() => {}
            }
        }
    }

    /// Small messages pass without waiting: whoever waits for [`Bucket::take`] waits for these as well, but never longer
    /// than a second, for an idle line pays nothing back.
    pub fn owe(&self, bytes: usize) {
        let rate = self.rate();
        if rate > 0 {
            let more = |owed: u64| Some(owed.saturating_add(bytes as u64).min(rate));
            let _ = self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }

    /// Gives back what [`Bucket::take`] granted and was not used.
    pub fn give_back(&self, unused: usize) {
        if unused > 0 && self.rate() > 0 {
            self.returned.fetch_add(unused as u64, Ordering::Relaxed);
        }
    }
}

impl Level {
    fn fill(&mut self, rate: u64, returned: u64, now: Instant) {
        let elapsed = u64::try_from(now.duration_since(self.at).as_nanos()).unwrap_or(u64::MAX);
        let bytes = u64::try_from(u128::from(elapsed) * u128::from(rate) / 1_000_000_000).unwrap_or(u64::MAX);
        // Only the time that these whole bytes took: the rest counts next time.
        let taken = Duration::from_nanos(
            u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(rate)).unwrap_or(elapsed),
        );
        self.at += taken.min(now.duration_since(self.at));
        // Timers are only good to a millisecond or two: at high limits the burst must last that long.
        let burst = BURST.max(rate / 250);
        self.bytes = self.bytes.saturating_add(bytes).saturating_add(returned).min(burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn spend(bucket: &Bucket, mut bytes: usize) {
        while bytes > 0 {
            bytes -= bucket.take(bytes).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept() {
        for rate in [3_000, 100_000, 5_000_000, 100_000_000] {
            let bucket = Bucket::new(rate);
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let began = Instant::now();
            spend(&bucket, usize::try_from(10 * rate).unwrap()).await;
            let took = began.elapsed().as_millis();
            let burst_ms = u128::from(BURST.max(rate / 250) * 1000 / rate).min(10_000);
            assert!((10_000 - burst_ms..10_100).contains(&took), "{rate}: {took} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_get_the_same() {
        let bucket = Bucket::new(100_000);
        let counts = [AtomicU64::new(0), AtomicU64::new(0)];
        let count = |mine: usize, wanted: usize| {
            let (bucket, counts) = (&bucket, &counts);
            async move {
                loop {
                    counts[mine].fetch_add(bucket.take(wanted).await as u64, Ordering::Relaxed);
                }
            }
        };
        // One wants little at a time, the other a lot: portions even that out at this limit.
        tokio::select! {
            () = count(0, 20_000) => {}
            () = count(1, 1_000_000) => {}
            () = tokio::time::sleep(Duration::from_secs(20)) => {}
        }
        let [one, other] = counts.map(AtomicU64::into_inner);
        assert!(one.abs_diff(other) <= 20_000 && one > 900_000, "{one} {other}");
    }

    #[tokio::test(start_paused = true)]
    async fn limits_change_for_those_who_wait() {
        let bucket = Arc::new(Bucket::new(1));
        let waiting = tokio::spawn({
            let bucket = Arc::clone(&bucket);
            async move { bucket.take(1_000_000).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!waiting.is_finished());
        bucket.set_rate(0);
        assert_eq!(waiting.await.unwrap(), 1_000_000);
        assert_eq!(bucket.take(5).await, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn unused_bytes_come_back() {
        let bucket = Bucket::new(10_000);
        spend(&bucket, 1000).await;
        bucket.give_back(1000);
        let began = Instant::now();
        spend(&bucket, 1000).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_owed_is_paid_by_those_who_wait() {
        let bucket = Bucket::new(10_000);
        spend(&bucket, 1_000).await;
        let began = Instant::now();
        bucket.owe(2_000);
        bucket.owe(3_000);
        spend(&bucket, 10_000).await;
        let took = began.elapsed().as_millis();
        assert!((1_400..1_700).contains(&took), "{took} ms for 15,000 bytes");
        // However much was said while nobody waited.
        let began = Instant::now();
        bucket.owe(50_000);
        spend(&bucket, 10_000).await;
        let took = began.elapsed().as_millis();
        assert!((1_900..2_200).contains(&took), "{took} ms with a second's worth owed");
        bucket.set_rate(0);
        bucket.owe(1 << 40);
        spend(&bucket, 10_000).await;
    }
}
