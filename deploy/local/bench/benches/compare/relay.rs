//! A network between a program and its Postgres: a relay that delays each message.
//!
//! It takes two threads and six system calls a message, so it costs some CPU time. Timers of tokio
//! are too coarse for it, and the kernel's `netem` needs root and is not in every kernel.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// The most bytes of a message that are delayed together.
const MAX_CHUNK_BYTES: usize = 64 * 1024;

/// Relays connections to a server on this machine until the process ends.
pub(crate) struct Relay {
    server: SocketAddr,
    address: SocketAddr,
}

impl Relay {
    /// A relay to the server on this port, which adds this time to each round trip.
    pub(crate) fn start(server_port: u16, round_trip: Duration) -> anyhow::Result<Self> {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server_port));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        spawn(move || {
            // It fails when the server is gone. Then the client's connection is closed.
            for client in listener.incoming().flatten() {
                let _ = connect(client, server, round_trip / 2);
            }
        });
        Ok(Self { server, address })
    }

    /// The same URL, but through the relay.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(&self.server.to_string(), &self.address.to_string())
    }
}

fn connect(client: TcpStream, server: SocketAddr, delay: Duration) -> std::io::Result<()> {
    let server = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = (client.try_clone()?, client);
    let (from_server, to_server) = (server.try_clone()?, server);
    spawn(move || forward(from_client, to_server, delay));
    spawn(move || forward(from_server, to_client, delay));
    Ok(())
}

/// Forwards one direction of a connection until either side closes it.
fn forward(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    // The default slack adds 50 microseconds to each delay.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_timerslack(1);
    let mut bytes = vec![0; MAX_CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        sleep(delay);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
