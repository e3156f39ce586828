//! The time from the start of a replica's process to its first response.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testkit::free_address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::Scale;
use crate::env::Env;
use crate::report::{Bound, Report};
use crate::samples::{Samples, Unit};

/// Also the precision of the measurement.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

pub(crate) async fn measure(env: &Env, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let mut milliseconds = Samples::default();
    for _ in 0..2 * scale.repetitions {
        let address = free_address();
        let started = Instant::now();
        let mut replica = env.spawn_replica(address, &env.database.api);
        while !responds_with_200(address).await {
            sleep(POLL_INTERVAL).await;
        }
        milliseconds.push(started.elapsed().as_secs_f64() * 1e3);
        replica.stop().await;
    }
    report.goal(
        "start of a replica to its first response, ms",
        Bound::AtMost(100.0),
        Unit::Milliseconds,
        milliseconds,
    );
    Ok(())
}

/// Sends one GET over a new connection.
pub(crate) async fn responds_with_200(address: SocketAddr) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await?;
        std::io::Result::Ok(response)
    };
    exchange
        .await
        .is_ok_and(|response| response.starts_with(b"HTTP/1.1 200"))
}
