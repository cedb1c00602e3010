//! How fast a service is asked: an even beat, and silence after it complains.
//!
//! | State | Event | Next |
//! |---|---|---|
//! | ready | sent | waits one beat |
//! | any | answered | the beat goes on, complaints are forgotten |
//! | any | too busy, with a time | silent for that long, and at least for the doubled silence |
//! | any | too busy, without | silent; twice as long each time, up to a cap |
//! | any | refused (a key that is not accepted) | silent for the cap |

use std::time::Duration;

use crate::model::catalog::Service;
use crate::model::time::Now;

/// The beat of a service and its silences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two requests, at least.
    pub beat: Duration,
    /// The first silence; each further one is twice as long.
    pub silence: Duration,
    /// The longest silence of our own choosing.
    pub silence_max: Duration,
    /// The longest silence a service may ask for.
    pub asked_max: Duration,
}

impl Pace {
    /// What the service allows (ECOSYSTEM-FACTS 5): MusicBrainz one a second, AcoustID three, Discogs 25 a minute or,
    /// with a key, 60. A little slower than that, for clocks differ. The silences are chosen.
    pub fn of(service: Service, has_key: bool) -> Self {
        let beat = match service {
            Service::MusicBrainz => 1_050,
            Service::AcoustId => 350,
            Service::Discogs if has_key => 1_050,
            Service::Discogs => 2_500,
        };
        Self {
            beat: Duration::from_millis(beat),
            silence: Duration::from_secs(2),
            silence_max: Duration::from_secs(15 * 60),
            asked_max: Duration::from_secs(3_600),
        }
    }
}

/// How a request ended, as far as the pace is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Answered; "there is no such thing" is an answer.
    Answered,
    /// 429, 503 and other failures of the service, or it could not be reached; with the time it asked for.
    Busy(Option<Duration>),
    /// The service does not want us.
    Refused,
}

/// The pace of one service.
#[derive(Clone, Debug)]
pub struct Pacer {
    pace: Pace,
    /// Nothing is sent before this moment.
    next: Duration,
    /// Complaints without an answer between.
    complaints: u32,
}

impl Pacer {
    /// Ready at once.
    pub fn new(pace: Pace) -> Self {
        Self { pace, next: Duration::ZERO, complaints: 0 }
    }

    /// How long until the next request may go.
    pub fn wait(&self, now: Now) -> Duration {
        self.next.saturating_sub(now.mono)
    }

    /// Whether the service is left alone because it complained.
    pub fn is_silent(&self, now: Now) -> bool {
        self.complaints > 0 && self.next > now.mono
    }

    /// A request goes out.
    pub fn on_sent(&mut self, now: Now) {
        self.next = now.in_(self.pace.beat);
    }

    /// A request ended.
    pub fn on_ended(&mut self, ending: Ending, now: Now) {
        match ending {
            Ending::Answered => self.complaints = 0,
            Ending::Busy(asked) => {
                let doubled = self.pace.silence.saturating_mul(1_u32.checked_shl(self.complaints).unwrap_or(u32::MAX));
                let own = doubled.min(self.pace.silence_max);
                let silence = asked.unwrap_or_default().min(self.pace.asked_max).max(own);
                self.complaints = self.complaints.saturating_add(1);
                self.next = self.next.max(now.in_(silence));
            }
            Ending::Refused => {
                self.complaints = self.complaints.saturating_add(1);
                self.next = self.next.max(now.in_(self.pace.silence_max));
            }
        }
    }

    /// The service says that this many requests are left in the minute that runs (Discogs).
    pub fn on_remaining(&mut self, remaining: u32, now: Now) {
        if remaining == 0 {
            self.next = self.next.max(now.in_(Duration::from_secs(60)));
        }
    }
}

/// The seconds of a `Retry-After`. Its other form, a date, counts as none: our own silence is long enough.
pub fn retry_after(header: &str) -> Option<Duration> {
    header.trim().parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::UnixMs;

    fn at(ms: u64) -> Now {
        Now { mono: Duration::from_millis(ms), wall: UnixMs(0) }
    }

    fn secs(pacer: &Pacer, now: Now) -> u64 {
        pacer.wait(now).as_secs()
    }

    #[test]
    fn the_beat_is_kept() {
        for (service, key, in_a_minute) in [
            (Service::MusicBrainz, false, 60),
            (Service::AcoustId, true, 180),
            (Service::Discogs, false, 25),
            (Service::Discogs, true, 60),
        ] {
            let mut pacer = Pacer::new(Pace::of(service, key));
            let (mut now, mut sent) = (0, 0);
            while now < 60_000 {
                assert_eq!(pacer.wait(at(now)), Duration::ZERO);
                pacer.on_sent(at(now));
                pacer.on_ended(Ending::Answered, at(now));
                sent += 1;
                now += u64::try_from(pacer.wait(at(now)).as_millis()).unwrap();
            }
            assert!((in_a_minute * 9 / 10..=in_a_minute).contains(&sent), "{service}: {sent}");
        }
    }

    #[test]
    fn silences_double_up_to_the_cap_and_end_with_an_answer() {
        let mut pacer = Pacer::new(Pace::of(Service::MusicBrainz, false));
        let silences: Vec<u64> = (0..40)
            .map(|_| {
                pacer.next = Duration::ZERO;
                pacer.on_ended(Ending::Busy(None), at(0));
                secs(&pacer, at(0))
            })
            .collect();
        assert_eq!(silences[..10], [2, 4, 8, 16, 32, 64, 128, 256, 512, 900]);
        assert!(silences[10..].iter().all(|s| *s == 900));
        assert!(pacer.is_silent(at(899_999)) && !pacer.is_silent(at(900_000)));
        pacer.on_ended(Ending::Answered, at(900_000));
        pacer.on_ended(Ending::Busy(None), at(900_000));
        assert_eq!(secs(&pacer, at(900_000)), 2);
    }

    #[test]
    fn what_the_service_asks_for_is_given_within_reason() {
        let mut pacer = Pacer::new(Pace::of(Service::MusicBrainz, false));
        pacer.on_ended(Ending::Busy(retry_after("30")), at(0));
        assert_eq!(secs(&pacer, at(0)), 30);
        // Too short a wish does not shorten ours, a huge one does not silence us for ever.
        pacer.on_ended(Ending::Busy(retry_after("0")), at(30_000));
        assert_eq!(secs(&pacer, at(30_000)), 4);
        pacer.on_ended(Ending::Busy(retry_after("4000000000")), at(34_000));
        assert_eq!(secs(&pacer, at(34_000)), 3_600);
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(retry_after("-1"), None);
    }

    #[test]
    fn a_refusal_and_an_empty_minute_are_long_silences() {
        let mut pacer = Pacer::new(Pace::of(Service::Discogs, true));
        pacer.on_remaining(1, at(0));
        assert_eq!(pacer.wait(at(0)), Duration::ZERO);
        pacer.on_remaining(0, at(0));
        assert_eq!(secs(&pacer, at(0)), 60);
        assert!(!pacer.is_silent(at(0)), "nobody complained");
        pacer.on_ended(Ending::Refused, at(0));
        assert_eq!(secs(&pacer, at(0)), 900);
        assert!(pacer.is_silent(at(0)));
    }
}
