//! A TCP proxy between a program and its Postgres, which simulates network faults.

use std::net::SocketAddr;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
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
    state: Arc<State>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct State {
    fault: watch::Sender<NetworkFault>,
    server_port: AtomicU16,
    cuts: AtomicUsize,
}

impl Proxy {
    /// A proxy for the server on this port, without a fault.
    pub async fn new(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            fault: watch::Sender::new(NetworkFault::None),
            server_port: port.into(),
            cuts: 0.into(),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            _accepting: accepting,
        }
    }

    /// The same URL, but through the proxy.
    #[must_use]
    pub fn url(&self, url: &str) -> String {
        url_through(url, slice::from_ref(self))
    }

    /// Sets the fault of all connections.
    pub fn set_fault(&self, fault: NetworkFault) {
        self.state.fault.send_replace(fault);
    }

    /// Sends new connections to the server on this port. Open ones stay.
    pub fn redirect_to(&self, port: u16) {
        self.state.server_port.store(port, Ordering::SeqCst);
    }

    /// How many connections were closed after a COMMIT.
    #[must_use]
    pub fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::SeqCst)
    }
}

/// The same URL, but through these proxies: its host is replaced by theirs, in their order.
#[must_use]
pub fn url_through(url: &str, proxies: &[Proxy]) -> String {
    let (before, after) = url
        .split_once("@127.0.0.1:")
        .expect("a private server's URL holds this host");
    let (_, database) = after
        .split_once('/')
        .expect("a private server's URL names a database");
    let hosts: Vec<_> = proxies
        .iter()
        .map(|proxy| proxy.address.to_string())
        .collect();
    format!("{before}@{}/{database}", hosts.join(","))
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Dropping the set, with this task, closes them.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let port = state.server_port.load(Ordering::SeqCst);
            if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                let mut changing = state.fault.subscribe();
                tokio::select! {
                    () = forward(client, server, &state) => {}
                    _ = changing.wait_for(|fault| *fault == NetworkFault::Cut) => {}
                }
            }
        });
    }
}

/// Forwards bytes both ways, until one side closes.
async fn forward(mut client: TcpStream, mut server: TcpStream, state: &State) {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::select! {
        () = forward_one_way(from_client, to_server, state) => {}
        () = forward_one_way(from_server, to_client, state) => {}
    }
}

async fn forward_one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: &State,
) {
    let fault = || *state.fault.borrow();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        let message = &buffer[..bytes];
        let fault = fault();
        if fault == NetworkFault::Blackhole {
            continue;
        }
        if fault == NetworkFault::Slow {
            sleep(SLOW_READ_DELAY).await;
        }
        if to.write_all(message).await.is_err() {
            return;
        }
        // A reply of the server goes on after it.
        if fault == NetworkFault::CutAfterCommit && message.ends_with(COMMIT) {
            state.cuts.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
    // Under a blackhole the other side does not see the close either.
    if fault() == NetworkFault::Blackhole {
        std::future::pending::<()>().await;
    }
}
