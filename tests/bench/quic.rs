//! A bare QUIC stream between two processes on loopback: what the mesh is measured against by `tests/bench/mesh-speed`.
//!
//!     cargo bench --bench quic -- [--mib 1024]
//!
//! The same TLS, the same quinn, its own settings, one stream of zeroes, no disk, no hash. Prints one JSON line.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, ServerConfig, VarInt};
use slskdn::net::mesh::Identity;

const MIB: u64 = 1024 * 1024;

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    let mib = after("--mib").map_or(Ok(1024), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match after("--serve") {
        Some(secret) => runtime.block_on(serve(secret.parse()?, mib)),
        None => runtime.block_on(fetch(mib)),
    }
}

/// A key that both processes can make.
fn identity(secret: u8) -> Result<Identity, Failed> {
    Ok(Identity::from_secret(&[secret; 32])?)
}

#[expect(clippy::print_stdout, reason = "the other process reads it")]
async fn serve(secret: u8, mib: u64) -> Result<(), Failed> {
    let tls = QuicServerConfig::try_from(identity(secret)?.server()?)?;
    let endpoint =
        Endpoint::server(ServerConfig::with_crypto(Arc::new(tls)), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    println!("{}", endpoint.local_addr()?);
    let connection = endpoint.accept().await.ok_or("nobody called")?.await?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    receive.read_to_end(1).await?;
    let block = vec![0; 64 * 1024];
    for _ in 0..mib * MIB / block.len() as u64 {
        send.write_all(&block).await?;
    }
    send.finish()?;
    connection.closed().await;
    Ok(())
}

#[expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark measures and prints")]
async fn fetch(mib: u64) -> Result<(), Failed> {
    let mut server = Command::new(std::env::current_exe()?)
        .args(["--serve", "1", "--mib", &mib.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(server.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
    let tls = QuicClientConfig::try_from(identity(2)?.client(Some(identity(1)?.id()))?)?;
    let mut endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(tls)));
    let connection = endpoint.connect(line.trim().parse()?, "slskdn")?.await?;
    let began = Instant::now();
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(b"!").await?;
    send.finish()?;
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    while let Some(count) = receive.read(&mut buffer).await? {
        bytes += count as u64;
    }
    let seconds = began.elapsed().as_secs_f64();
    connection.close(VarInt::from_u32(0), b"");
    endpoint.wait_idle().await;
    server.wait()?;
    println!("{{\"bytes\": {bytes}, \"seconds\": {seconds:.3}, \"cpu_seconds\": {:.2}}}", cpu_seconds());
    Ok(())
}

/// User and system time of this process and of the one it waited for.
fn cpu_seconds() -> f64 {
    let of = |who| {
        // SAFETY: all-zero bytes are a valid rusage, and it is a live local that getrusage only fills.
        #[expect(unsafe_code, reason = "no safe wrapper among the dependencies")]
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(who, &raw mut usage);
            usage
        };
        let seconds = |time: libc::timeval| {
            Duration::new(time.tv_sec.unsigned_abs(), 0).as_secs_f64()
                + Duration::from_micros(time.tv_usec.unsigned_abs()).as_secs_f64()
        };
        seconds(usage.ru_utime) + seconds(usage.ru_stime)
    };
    of(libc::RUSAGE_SELF) + of(libc::RUSAGE_CHILDREN)
}
