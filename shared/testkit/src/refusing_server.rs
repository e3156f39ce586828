//! A server that refuses every session: of most refusals only the SQLSTATE matters.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A server that refuses every session. It runs until the process ends.
#[derive(Debug)]
pub struct RefusingServer {
    /// Where it listens.
    pub address: SocketAddr,
    refusals: Arc<AtomicUsize>,
}

impl RefusingServer {
    /// Refuses with these fields of Postgres' `ErrorResponse`, and with a line of Postgres' source.
    #[must_use]
    pub fn new(code: &str, message: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let fields = format!("SFATAL\0VFATAL\0L7654321\0C{code}\0M");
        let fields = [fields.as_bytes(), message, b"\0\0"].concat();
        let length = u32::try_from(fields.len() + 4).expect("a message is short");
        let response = [&b"E"[..], &length.to_be_bytes(), &fields].concat();
        let refusals = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&refusals);
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                // A client may have given up by now.
                let _ = client.read(&mut [0; 4096]);
                let _ = client.write_all(&response);
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { address, refusals }
    }

    /// The URL of a database on it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://r:p@{}/d?sslmode=disable", self.address)
    }

    /// How many sessions it has refused.
    #[must_use]
    pub fn refusals(&self) -> usize {
        self.refusals.load(Ordering::Relaxed)
    }
}
