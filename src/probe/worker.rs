//! The worker process: takes one file after the other from its socket, measures it, answers. It begins by locking itself
//! in, and ends when the daemon's end of the socket closes.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::pulse::Pulse;
use super::wire::{Answer, ORDER_LEN, Order, Outcome, PREFIX};
use super::{measure, sandbox};

/// The hidden command: standard input is the socket. Returns when there is nothing more to do.
pub fn run() -> ExitCode {
    // What a hostile file makes a decoder say belongs in no log; the answer carries the sentence.
    panic::set_hook(Box::new(|_| {}));
    let Ok(socket) = rustix::io::dup(rustix::stdio::stdin()) else { return ExitCode::FAILURE };
    // What initialises itself once from files or the environment does so before the door closes.
    measure::warm_up();
    let locked = sandbox::enter();
    let mut pulse = Pulse::new(socket);
    if let Err(error) = locked {
        let _ = pulse.say(&Answer::Unfit(error.to_string()));
        return ExitCode::FAILURE;
    }
    match pulse.say(&Answer::Ready).and_then(|()| serve(&mut pulse)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(pulse: &mut Pulse) -> io::Result<()> {
    while let Some((order, file)) = next_order(pulse.socket())? {
        let (Order::Measure { wanted, extension, rest_permille }, Some(file)) = (order, file) else { continue };
        pulse.begin(rest_permille);
        let size = rustix::fs::fstat(&file)?.st_size;
        let size = u64::try_from(size).unwrap_or(0);
        sandbox::grant_cpu(size).map_err(io::Error::other)?;
        let file = File::from(file);
        let result = panic::catch_unwind(AssertUnwindSafe(|| measure::measure(&file, size, &extension, wanted, pulse)));
        match result {
            Ok(answer) => pulse.say(&answer)?,
            Err(panicked) => {
                let text = panicked
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panicked.downcast_ref::<String>().cloned());
                let reason = format!("the decoder failed: {}", text.unwrap_or_else(|| "no reason".to_owned()));
                let reason = crate::probe::text::clip(&reason).to_owned();
                pulse.say(&Answer::Outcome(Outcome::GaveUp { reason }))?;
                // Whatever the panic left behind goes with this process.
                return Err(io::ErrorKind::Other.into());
            }
        }
    }
    Ok(())
}

/// The next order, and the descriptor that came with it; `None` when the daemon is gone.
fn next_order(socket: &OwnedFd) -> io::Result<Option<(Order, Option<OwnedFd>)>> {
    let mut buffer = [0; PREFIX + ORDER_LEN];
    let mut filled = 0;
    let mut file = None;
    loop {
        let len = match buffer.get(..filled).and_then(|bytes| bytes.split_first_chunk::<PREFIX>()) {
            Some((len, _)) => PREFIX + u32::from_le_bytes(*len) as usize,
            None => PREFIX,
        };
        if filled >= PREFIX && filled >= len {
            let order = postcard::from_bytes(buffer.get(PREFIX..len).unwrap_or_default());
            return Ok(Some((order.map_err(io::Error::other)?, file)));
        }
        // Never beyond this frame: a descriptor belongs to the bytes it came with.
        let room = buffer.get_mut(filled..len).ok_or(io::ErrorKind::InvalidData)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(room)];
        let got = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(socket.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                file = descriptors.next();
            }
        }
        if got.bytes == 0 {
            return Ok(None);
        }
        filled += got.bytes;
    }
}
