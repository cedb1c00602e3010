//! A long way on loopback: a UDP socket whose packets come and go later by a given time. For the lab alone.
//!
//! Nothing is lost here: when too much is on its way, senders wait as they do at a full socket, and what arrives stays in
//! the socket.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::locked;

/// The most that is on its way out, bytes: 32 MB/s over 300 ms and some.
const DEPARTING: usize = 10 * 1024 * 1024;
/// Receives that are on their way in.
const ARRIVING: usize = 4_096;
/// The longest single receive.
const RECEIVE: usize = 64 * 1024;

/// This socket, farther away.
pub(super) fn delayed(
    socket: std::net::UdpSocket,
    delay: Duration,
    runtime: &dyn Runtime,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let inner = runtime.wrap_udp_socket(socket)?;
    let departing = Arc::new(Departing::default());
    let ended = CancellationToken::new();
    let leaving = leave(Arc::clone(&inner), Arc::clone(&departing), ended.clone());
    runtime.spawn(Box::pin(leaving));
    let arriving = Arriving {
        receives: VecDeque::new(),
        timer: Box::pin(sleep_until(Instant::now())),
        buffer: vec![0; RECEIVE].into_boxed_slice(),
    };
    Ok(Arc::new(Delayed { inner, delay, arriving: Mutex::new(arriving), departing, _ended: ended.drop_guard() }))
}

#[derive(Debug)]
struct Delayed {
    inner: Arc<dyn AsyncUdpSocket>,
    delay: Duration,
    /// Short and synchronous.
    arriving: Mutex<Arriving>,
    departing: Arc<Departing>,
    _ended: DropGuard,
}

#[derive(Debug)]
struct Arriving {
    receives: VecDeque<(Instant, RecvMeta, Box<[u8]>)>,
    timer: Pin<Box<Sleep>>,
    buffer: Box<[u8]>,
}

#[derive(Debug, Default)]
struct Departing {
    /// Short and synchronous.
    queue: Mutex<Queue>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<Packet>,
    bytes: usize,
    waiting: Vec<Waker>,
}

#[derive(Debug)]
struct Packet {
    due: Instant,
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    contents: Box<[u8]>,
    segment_size: Option<usize>,
    src_ip: Option<IpAddr>,
}

/// Sends what is due, in order.
async fn leave(inner: Arc<dyn AsyncUdpSocket>, departing: Arc<Departing>, ended: CancellationToken) {
    let mut poller = Arc::clone(&inner).create_io_poller();
    loop {
        let packet = locked(&departing.queue).packets.pop_front();
        let Some(packet) = packet else {
            tokio::select! {
                () = ended.cancelled() => return,
                () = departing.added.notified() => continue,
            }
        };
        sleep_until(packet.due).await;
        let transmit = Transmit {
            destination: packet.destination,
            ecn: packet.ecn,
            contents: &packet.contents,
            segment_size: packet.segment_size,
            src_ip: packet.src_ip,
        };
        while let Err(error) = inner.try_send(&transmit) {
            let full = error.kind() == io::ErrorKind::WouldBlock;
            // Any other mistake would have been the network's: the packet is lost.
            if !full || std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.is_err() {
                break;
            }
        }
        let waiting = {
            let mut queue = locked(&departing.queue);
            queue.bytes = queue.bytes.saturating_sub(packet.contents.len());
            std::mem::take(&mut queue.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl AsyncUdpSocket for Delayed {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room(Arc::clone(&self.departing)))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut queue = locked(&self.departing.queue);
        if queue.bytes >= DEPARTING {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        queue.bytes += transmit.contents.len();
        queue.packets.push_back(Packet {
            due: Instant::now() + self.delay,
            destination: transmit.destination,
            ecn: transmit.ecn,
            contents: transmit.contents.into(),
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        });
        drop(queue);
        self.departing.added.notify_one();
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut arriving = locked(&self.arriving);
        let Arriving { receives, timer, buffer } = &mut *arriving;
        while receives.len() < ARRIVING {
            let mut came = [RecvMeta::default()];
            match self.inner.poll_recv(cx, &mut [IoSliceMut::new(buffer)], &mut came) {
                Poll::Ready(Ok(count)) => {
                    let due = Instant::now() + self.delay;
                    for came in came.into_iter().take(count) {
                        receives.push_back((due, came, buffer[..came.len].into()));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        loop {
            let now = Instant::now();
            let mut count = 0;
            while let Some((due, came, bytes)) = receives.front()
                && *due <= now
                && count < bufs.len().min(meta.len())
            {
                // A receive never fits worse than into the socket's own buffer.
                let len = bytes.len().min(bufs[count].len());
                bufs[count][..len].copy_from_slice(&bytes[..len]);
                meta[count] = RecvMeta { len, ..*came };
                count += 1;
                receives.pop_front();
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            let Some((due, ..)) = receives.front() else { return Poll::Pending };
            timer.as_mut().reset(*due);
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Wakes whoever waits for room.
#[derive(Debug)]
struct Room(Arc<Departing>);

impl UdpPoller for Room {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = locked(&self.0.queue);
        if queue.bytes < DEPARTING {
            return Poll::Ready(Ok(()));
        }
        queue.waiting.push(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(delay: Duration) -> (Arc<dyn AsyncUdpSocket>, std::net::UdpSocket) {
        let bind = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        (delayed(bind(), delay, &quinn::TokioRuntime).unwrap(), bind())
    }

    async fn receive(socket: &Arc<dyn AsyncUdpSocket>) -> Vec<u8> {
        let (mut buffer, mut meta) = ([0; 2048], [RecvMeta::default()]);
        let wait = std::future::poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
        wait.await.unwrap();
        buffer[..meta[0].len].to_vec()
    }

    #[tokio::test]
    async fn packets_come_and_go_later_in_order_and_whole() {
        let delay = Duration::from_millis(30);
        let (far, near) = pair(delay);
        near.set_nonblocking(true).unwrap();
        let near = tokio::net::UdpSocket::from_std(near).unwrap();
        let began = Instant::now();
        for n in 0..3_u8 {
            near.send_to(&[n; 100], far.local_addr().unwrap()).await.unwrap();
        }
        for n in 0..3_u8 {
            assert_eq!(receive(&far).await, vec![n; 100]);
        }
        assert!(began.elapsed() >= delay, "{:?}", began.elapsed());

        let began = Instant::now();
        for n in 0..3_u8 {
            let contents = [n; 200];
            let destination = near.local_addr().unwrap();
            let transmit = Transmit { destination, ecn: None, contents: &contents, segment_size: None, src_ip: None };
            far.try_send(&transmit).unwrap();
        }
        let mut buffer = [0; 2048];
        for n in 0..3_u8 {
            let len = near.recv(&mut buffer).await.unwrap();
            assert_eq!(buffer[..len], [n; 200]);
        }
        assert!(began.elapsed() >= delay, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn senders_wait_when_too_much_is_on_its_way() {
        let (far, near) = pair(Duration::from_millis(50));
        let contents = vec![0; 8 * 1024];
        let destination = near.local_addr().unwrap();
        let transmit = Transmit { destination, ecn: None, contents: &contents, segment_size: None, src_ip: None };
        let mut sent = 0;
        let full = loop {
            match far.try_send(&transmit) {
                Ok(()) => sent += contents.len(),
                Err(error) => break error,
            }
        };
        assert_eq!((full.kind(), sent), (io::ErrorKind::WouldBlock, DEPARTING));
        let mut poller = Arc::clone(&far).create_io_poller();
        std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
        far.try_send(&transmit).unwrap();
    }
}
