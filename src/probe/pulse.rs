//! A worker's sign of life, and its rest: after each step of work it says how far it is, hears how fast it may go on, and
//! sleeps a share of what the step took.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags};

use super::wire::{Answer, ORDER_LEN, Order, PREFIX, frame};

/// Between two signs of life.
const BEAT: Duration = Duration::from_millis(250);
/// Work before a rest is considered.
const STEP: Duration = Duration::from_millis(40);
/// Longest single rest: well below the time without progress that ends a worker.
const REST_MAX: Duration = Duration::from_secs(1);

/// The worker's end of the socket.
pub(super) struct Pulse {
    socket: OwnedFd,
    rest_permille: u32,
    done: u64,
    told: Instant,
    step: Instant,
}

impl Pulse {
    pub(super) fn new(socket: OwnedFd) -> Self {
        let now = now();
        Self { socket, rest_permille: 0, done: 0, told: now, step: now }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// A new file begins.
    pub(super) fn begin(&mut self, rest_permille: u32) {
        (self.rest_permille, self.done) = (rest_permille, 0);
        (self.told, self.step) = (now(), now());
    }

    /// So many more bytes were dealt with. Fails when nobody listens any more.
    pub(super) fn beat(&mut self, bytes: usize) -> io::Result<()> {
        self.done = self.done.saturating_add(bytes as u64);
        let time = now();
        if time.duration_since(self.told) >= BEAT {
            self.told = time;
            self.say(&Answer::Progress(self.done))?;
            self.listen()?;
        }
        let worked = time.duration_since(self.step);
        if worked >= STEP {
            if self.rest_permille > 0 {
                std::thread::sleep((worked * self.rest_permille / 1_000).min(REST_MAX));
            }
            self.step = now();
        }
        Ok(())
    }

    /// Sends one frame whole.
    pub(super) fn say(&self, answer: &Answer) -> io::Result<()> {
        let frame = frame(answer).ok_or(io::ErrorKind::InvalidData)?;
        let mut sent = 0;
        while let Some(rest) = frame.get(sent..).filter(|rest| !rest.is_empty()) {
            let parts = [IoSlice::new(rest)];
            sent += rustix::io::retry_on_intr(|| {
                rustix::net::sendmsg(self.socket.as_fd(), &parts, &mut Default::default(), SendFlags::NOSIGNAL)
            })?;
        }
        Ok(())
    }

    /// Takes a new tempo if one has come.
    fn listen(&mut self) -> io::Result<()> {
        let mut buffer = [0; PREFIX + ORDER_LEN];
        match rustix::net::recv(self.socket.as_fd(), &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(io::ErrorKind::BrokenPipe.into()),
            Ok((n, _)) => {
                // Tempo orders are short and sent whole; what is not understood is not obeyed.
                let mut rest = buffer.get(..n).unwrap_or_default();
                while let Some((len, body)) = rest.split_first_chunk::<PREFIX>() {
                    let Some((body, tail)) = body.split_at_checked(u32::from_le_bytes(*len) as usize) else { break };
                    if let Ok(Order::Tempo(rest_permille)) = postcard::from_bytes(body) {
                        self.rest_permille = rest_permille;
                    }
                    rest = tail;
                }
                Ok(())
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "paces the worker; nothing measured depends on it")]
fn now() -> Instant {
    Instant::now()
}
