//! A receiver that is killed leaves a true prefix: the length of the partial file is the count of bytes that came.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use slskdn::engine::soulseek::io::Begin;

use super::pump::{NAME, Rig, pattern};

const CHILD: &str = "SLSKDN_TEST_KILLED";
const SIZE: usize = 32 << 20;

#[test]
fn a_killed_receiver_leaves_a_true_prefix() {
    if let Some(orders) = std::env::var_os(CHILD) {
        let orders = orders.into_string().unwrap();
        let (address, folder) = orders.split_once(' ').unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::with(|config| config.incomplete = folder.into());
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let _ = rig.receive(stream, SIZE, Begin::Fresh).await;
        });
        return;
    }
    let bytes = pattern(SIZE);
    // From the first block to far in, at odd places.
    for sent in [1, 70_000, 1_234_567, 9_999_999, SIZE - 1] {
        let scratch = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let orders = format!("{} {}", listener.local_addr().unwrap(), scratch.path().display());
        let test = "disk::killed::a_killed_receiver_leaves_a_true_prefix";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let mut child = child.args([test, "--exact"]).env(CHILD, orders).spawn().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
        stream.write_all(&bytes[..sent]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let held = std::fs::read(scratch.path().join(NAME)).unwrap();
        assert!(held.len() <= sent && held == bytes[..held.len()], "{} of {sent}", held.len());
        // Socket buffers hold a few MiB at most; beyond them something must have been written.
        assert!(sent < SIZE - 1 || !held.is_empty());
    }
}
