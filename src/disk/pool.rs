//! The fixed pool of buffers.
//!
//! Every byte between a socket and the disk lives in a [`Block`] of this pool. The pool decides how many blocks may be
//! out at once (everybody else waits, first come first served) and how much memory stays resident when they come back.
//! Who gets how many, and when to give one back, is decided by whoever moves the bytes (`app::pump`).
//!
//! Memory is mapped when a block is first needed and unmapped when it is not needed any more, so that an idle box pays
//! for [`IDLE_BLOCKS`] at most, whatever the allocator does with freed memory.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_uring::buf::{IoBuf, IoBufMut};

pub use crate::model::limits::BLOCK_LEN;

/// Blocks whose memory is kept when nothing is under way: 1 MiB, two full batches. Chosen.
pub const IDLE_BLOCKS: usize = 16;

/// A fixed number of buffers. Clones share them.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// One permit for each block that may be out. Waiters are served in order.
    permits: Arc<Semaphore>,
    blocks: usize,
    /// Memory of blocks that came back, the warmest last. The lock is held for a push or a pop only.
    free: Mutex<Vec<Memory>>,
    /// Blocks' worth of memory that is lent.
    lent: AtomicUsize,
}

impl Shared {
    /// Blocks that are out.
    fn out(&self) -> usize {
        self.blocks - self.permits.available_permits()
    }

    /// While much is under way much is kept, so that a busy pool does not map and unmap all the time: as much as others
    /// have.
    fn put_back(&self, memory: Memory, others: usize) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(memory);
        let surplus = free.len().saturating_sub(IDLE_BLOCKS.max(others));
        let unmapped: Vec<Memory> = free.drain(..surplus).collect();
        drop(free);
        drop(unmapped);
    }
}

impl Pool {
    /// A pool of so many blocks, at least two (one to fill while the other is emptied). Maps nothing yet.
    pub fn new(blocks: usize) -> Self {
        let blocks = blocks.clamp(2, Semaphore::MAX_PERMITS);
        let (permits, free) = (Arc::new(Semaphore::new(blocks)), Mutex::new(Vec::new()));
        Self { shared: Arc::new(Shared { permits, blocks, free, lent: AtomicUsize::new(0) }) }
    }

    /// Blocks altogether.
    pub fn blocks(&self) -> usize {
        self.shared.blocks
    }

    /// The permits of the blocks, for memory that is spent elsewhere instead: whoever holds one keeps a block from being
    /// taken.
    pub fn permits(&self) -> Arc<Semaphore> {
        Arc::clone(&self.shared.permits)
    }

    /// Blocks that are not out.
    pub fn available(&self) -> usize {
        self.shared.permits.available_permits()
    }

    /// Bytes of memory mapped now, whether out or kept, without what is lent ([`Block::into_shared`]).
    pub fn mapped(&self) -> usize {
        (self.shared.out() + self.free().len()) * BLOCK_LEN
    }

    /// An empty block; waits its turn while all are out.
    pub async fn take(&self) -> Block {
        let permit = Arc::clone(&self.shared.permits).acquire_owned().await;
        self.block(permit.expect("the semaphore lives in the pool and is never closed"))
    }

    /// An empty block, if one is there and nobody waits for it.
    pub fn try_take(&self) -> Option<Block> {
        let permit = Arc::clone(&self.shared.permits).try_acquire_owned().ok()?;
        Some(self.block(permit))
    }

    /// One block as [`Pool::take`], and more up to `wanted` while over half of the pool is free. Whoever has one block
    /// gets on, so nobody waits here for others who wait likewise.
    pub async fn take_many(&self, wanted: usize) -> Vec<Block> {
        let mut blocks = Vec::with_capacity(wanted.clamp(1, self.shared.blocks));
        blocks.push(self.take().await);
        while blocks.len() < wanted && self.available() > self.shared.blocks / 2 {
            let Some(block) = self.try_take() else { break };
            blocks.push(block);
        }
        blocks
    }

    fn block(&self, permit: OwnedSemaphorePermit) -> Block {
        let memory = self.free().pop().unwrap_or_else(Memory::map);
        Block { memory: Some(memory), len: 0, home: Arc::clone(&self.shared), permit: Some(permit) }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Memory>> {
        self.shared.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer of [`BLOCK_LEN`] bytes, the first [`Block::len`] of which count. Goes back to its pool when dropped.
#[derive(Debug)]
pub struct Block {
    /// `None` only while being dropped.
    memory: Option<Memory>,
    len: usize,
    home: Arc<Shared>,
    /// `None` only while being dropped.
    permit: Option<OwnedSemaphorePermit>,
}

impl Block {
    /// Bytes that count.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte counts.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that could be added.
    pub fn room(&self) -> usize {
        BLOCK_LEN - self.len
    }

    /// The bytes that count.
    pub fn bytes(&self) -> &[u8] {
        &self.memory().bytes()[..self.len]
    }

    /// The room behind them. What is written there counts after [`Block::grow`].
    pub fn spare(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.memory_mut().bytes_mut()[len..]
    }

    /// `more` bytes of the room count from now on, at most all of it.
    pub fn grow(&mut self, more: usize) {
        self.len = self.len.saturating_add(more).min(BLOCK_LEN);
    }

    /// Only the first `len` bytes count.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Adds as many of these bytes as there is room for; returns how many.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.spare()[..taken].copy_from_slice(&bytes[..taken]);
        self.grow(taken);
        taken
    }

    /// The bytes that count, for whoever keeps them after the block is somebody else's again; and what the block is paid
    /// with, to be dropped once another pays for them. Their memory comes back to the pool with the last clone.
    pub fn into_shared(mut self) -> (Bytes, OwnedSemaphorePermit) {
        let memory = self.memory.take().expect("present until dropped");
        let permit = self.permit.take().expect("present until dropped");
        self.home.lent.fetch_add(1, Ordering::Relaxed);
        let lent = Lent { memory: Some(memory), len: self.len, home: Arc::clone(&self.home) };
        (Bytes::from_owner(lent), permit)
    }

    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("present until dropped")
    }

    fn memory_mut(&mut self) -> &mut Memory {
        self.memory.as_mut().expect("present until dropped")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let others = self.home.out() - 1 + self.home.lent.load(Ordering::Relaxed);
            self.home.put_back(memory, others);
        }
        // Only now may somebody else take a block: the memory it will use is already there.
        self.permit.take();
    }
}

/// Memory that is lent to whoever keeps its bytes.
struct Lent {
    /// `None` only while being dropped.
    memory: Option<Memory>,
    len: usize,
    home: Arc<Shared>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.memory.as_ref().expect("present until dropped").bytes()[..self.len]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let others = self.home.out() + self.home.lent.fetch_sub(1, Ordering::Relaxed) - 1;
            self.home.put_back(memory, others);
        }
    }
}

#[expect(unsafe_code, reason = "the ring's buffer trait")]
// SAFETY: the memory is mapped, not moved with the block, and unmapped only when the block's memory is dropped.
unsafe impl IoBuf for Block {
    fn stable_ptr(&self) -> *const u8 {
        self.memory().0.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len
    }

    fn bytes_total(&self) -> usize {
        BLOCK_LEN
    }
}

#[expect(unsafe_code, reason = "the ring's buffer trait")]
// SAFETY: as above; all of the memory is initialised, because fresh mappings are zero.
unsafe impl IoBufMut for Block {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.memory_mut().0.as_ptr()
    }

    #[expect(unsafe_code, reason = "declared so by the trait")]
    unsafe fn set_init(&mut self, pos: usize) {
        self.len = self.len.max(pos).min(BLOCK_LEN);
    }
}

/// [`BLOCK_LEN`] bytes of anonymous memory of our own.
#[derive(Debug)]
struct Memory(NonNull<u8>);

#[expect(unsafe_code, reason = "a raw pointer is not Send by itself")]
// SAFETY: the mapping belongs to this value alone and is valid in every thread of the process.
unsafe impl Send for Memory {}

#[expect(unsafe_code, reason = "a raw pointer is not Sync by itself")]
// SAFETY: through a shared reference the bytes are only read.
unsafe impl Sync for Memory {}

impl Memory {
    #[expect(unsafe_code, reason = "mapping memory")]
    fn map() -> Self {
        let flags = MapFlags::PRIVATE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let mapped =
            unsafe { mmap_anonymous(std::ptr::null_mut(), BLOCK_LEN, ProtFlags::READ | ProtFlags::WRITE, flags) };
        // As the allocator does: without memory for a buffer nothing goes on.
        let address = mapped.ok().and_then(|address| NonNull::new(address.cast::<u8>()));
        Self(address.unwrap_or_else(|| std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; BLOCK_LEN]>())))
    }

    #[expect(unsafe_code, reason = "mapped memory as a slice")]
    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped readable and zeroed with this length, owned by self, and borrowed as long as the slice lives.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), BLOCK_LEN) }
    }

    #[expect(unsafe_code, reason = "mapped memory as a slice")]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the exclusive borrow of self makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), BLOCK_LEN) }
    }
}

impl Drop for Memory {
    #[expect(unsafe_code, reason = "unmapping memory")]
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; no slice outlives self. Failure would only leave it mapped.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), BLOCK_LEN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_empty_pool_waits_and_serves_in_order() {
        let pool = Pool::new(2);
        let (first, second) = (pool.take().await, pool.take().await);
        assert!(pool.try_take().is_none());
        let early = pool.take();
        let late = pool.take();
        tokio::pin!(early, late);
        assert!(futures_util::poll!(early.as_mut()).is_pending());
        assert!(futures_util::poll!(late.as_mut()).is_pending());
        drop(first);
        assert!(pool.try_take().is_none(), "a block that came back belongs to the one who waits");
        assert!(futures_util::poll!(late.as_mut()).is_pending());
        drop(early.await);
        drop(late.await);
        drop(second);
        assert_eq!(pool.available(), 2);
    }

    #[tokio::test]
    async fn more_than_one_only_while_half_is_free() {
        let pool = Pool::new(8);
        assert_eq!(pool.take_many(3).await.len(), 3);
        let held = pool.take_many(100).await;
        assert_eq!((held.len(), pool.available()), (4, 4));
        assert_eq!(pool.take_many(100).await.len(), 1);
    }

    #[tokio::test]
    async fn little_memory_stays_when_idle() {
        let pool = Pool::new(64);
        assert_eq!(pool.mapped(), 0);
        let mut held = Vec::new();
        for _ in 0..64 {
            let mut block = pool.take().await;
            block.spare()[0] = 1;
            held.push(block);
        }
        assert_eq!(pool.mapped(), 64 * BLOCK_LEN);
        drop(held);
        assert_eq!((pool.available(), pool.mapped()), (64, IDLE_BLOCKS * BLOCK_LEN));
    }

    #[tokio::test]
    async fn what_is_shared_outlives_its_block() {
        let pool = Pool::new(2);
        let mut block = pool.take().await;
        block.push(b"abc");
        let (bytes, permit) = block.into_shared();
        assert_eq!((pool.available(), pool.mapped()), (1, BLOCK_LEN), "paid for, and not to be had by others");
        drop(permit);
        let others = (pool.take().await, pool.take().await);
        assert_eq!((&bytes[..], pool.available()), (&b"abc"[..], 0));
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!((&part[..], pool.mapped()), (&b"bc"[..], 2 * BLOCK_LEN));
        drop(part);
        assert_eq!(pool.mapped(), 3 * BLOCK_LEN, "its memory came back");
        drop(others);
        assert_eq!(pool.available(), 2);
    }

    #[tokio::test]
    async fn a_block_counts_its_bytes() {
        let pool = Pool::new(2);
        let mut block = pool.take().await;
        assert_eq!((block.len(), block.room(), block.is_empty()), (0, BLOCK_LEN, true));
        assert_eq!(block.push(b"abc"), 3);
        block.spare()[0] = b'd';
        block.grow(1);
        assert_eq!(block.bytes(), b"abcd");
        block.truncate(2);
        assert_eq!(block.bytes(), b"ab");
        assert_eq!(block.push(&vec![7; BLOCK_LEN]), BLOCK_LEN - 2);
        block.grow(usize::MAX);
        assert_eq!((block.len(), block.room()), (BLOCK_LEN, 0));
        drop(block);
        assert_eq!(pool.take().await.len(), 0);
    }
}
