//! A TCP proxy between a program and its Postgres, which simulates network faults.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

/// What happens to the bytes of all connections, open and new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkFault {
    /// The bytes pass.
    None,
    /// The bytes are dropped silently, without FIN or RST.
    Blackhole,
    /// Each read is delayed by a tenth of a second.
    Slow,
    /// All connections are closed; new ones are closed at once.
    Cut,
    /// A COMMIT passes, and the connection is closed before its reply arrives.
    CutAfterCommit,
}

/// The delay of each read under [`NetworkFault::Slow`].
const SLOW_READ_DELAY: Duration = Duration::from_millis(100);
/// How the message that commits ends, in Postgres' protocol.
const COMMIT: &[u8] = b"COMMIT\0";

/// A proxy in front of a server on this machine. Dropping it closes all connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    fault: watch::Sender<NetworkFault>,
    cuts: Arc<AtomicUsize>,
    port: Arc<AtomicU16>,
    accepting: AbortHandle,
}

impl Proxy {
    /// A proxy for the server on this port, without a fault.
    pub async fn new(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let (fault, faults) = watch::channel(NetworkFault::None);
        let cuts = Arc::new(AtomicUsize::new(0));
        let port = Arc::new(AtomicU16::new(port));
        let accepting = accept(listener, Arc::clone(&port), faults, Arc::clone(&cuts));
        let accepting = tokio::spawn(accepting);
        Self {
            address,
            fault,
            cuts,
            port,
            accepting: accepting.abort_handle(),
        }
    }

    /// The same URL, but through the proxy.
    #[must_use]
    pub fn url(&self, url: &str) -> String {
        let (before, after) = url
            .split_once("@127.0.0.1:")
            .expect("a private server's URL holds this host");
        let (_, database) = after
            .split_once('/')
            .expect("a private server's URL names a database");
        format!("{before}@{}/{database}", self.address)
    }

    /// Sets the fault of all connections.
    pub fn set_fault(&self, fault: NetworkFault) {
        self.fault.send_replace(fault);
    }

    /// Sends new connections to the server on this port. Open ones stay.
    pub fn redirect_to(&self, port: u16) {
        self.port.store(port, Ordering::SeqCst);
    }

    /// How many connections were closed after a COMMIT.
    #[must_use]
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    port: Arc<AtomicU16>,
    fault: watch::Receiver<NetworkFault>,
    cuts: Arc<AtomicUsize>,
) {
    // Dropping the set, with this task, closes them.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (fault, cuts) = (fault.clone(), Arc::clone(&cuts));
        let port = port.load(Ordering::SeqCst);
        connections.spawn(async move {
            if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                let mut changing = fault.clone();
                tokio::select! {
                    () = forward(client, server, &fault, &cuts) => {}
                    _ = changing.wait_for(|fault| *fault == NetworkFault::Cut) => {}
                }
            }
        });
    }
}

/// Forwards bytes both ways, until one side closes or the connection is cut.
async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    fault: &watch::Receiver<NetworkFault>,
    cuts: &AtomicUsize,
) {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::select! {
        () = forward_one_way(from_client, to_server, fault, Some(cuts)) => {}
        () = forward_one_way(from_server, to_client, fault, None) => {}
    }
}

async fn forward_one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    fault: &watch::Receiver<NetworkFault>,
    cuts: Option<&AtomicUsize>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        let message = &buffer[..bytes];
        let current_fault = *fault.borrow();
        if current_fault == NetworkFault::Blackhole {
            continue;
        }
        if current_fault == NetworkFault::Slow {
            sleep(SLOW_READ_DELAY).await;
        }
        if to.write_all(message).await.is_err() {
            return;
        }
        if let Some(cuts) = cuts
            && current_fault == NetworkFault::CutAfterCommit
            && message.ends_with(COMMIT)
        {
            cuts.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
    // Under a blackhole the other side does not see the close either.
    if *fault.borrow() == NetworkFault::Blackhole {
        std::future::pending::<()>().await;
    }
}
