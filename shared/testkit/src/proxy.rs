//! A TCP proxy between a program and its Postgres, which simulates network faults.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch::{self, Receiver, Sender};
use tokio::task::JoinSet;

/// What happens to the bytes of all connections, open and new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkFault {
    /// The bytes pass.
    None,
    /// Bytes are dropped silently, without FIN or RST. A direction that has lost bytes stays
    /// silent, even after the fault ends.
    Blackhole,
    /// All connections are closed; new ones are closed at once.
    Cut,
}

/// A proxy in front of a server on this machine. Dropping it closes all connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    /// The server's port.
    port: u16,
    fault: Sender<NetworkFault>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// A proxy for the server on this port, without a fault.
    pub async fn new(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let (fault, faults) = watch::channel(NetworkFault::None);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, port, faults));
        Self {
            address,
            port,
            fault,
            _accepting: accepting,
        }
    }

    /// Sets the fault of all connections.
    pub fn set_fault(&self, fault: NetworkFault) {
        self.fault.send_replace(fault);
    }
}

/// The URL with these proxies in place of its server, which is behind the first of them.
#[must_use]
pub fn url_through(url: &str, proxies: &[Proxy]) -> String {
    let server = format!("127.0.0.1:{}", proxies[0].port);
    let addresses = proxies.iter().map(|proxy| proxy.address.to_string());
    url.replace(&server, &addresses.collect::<Vec<_>>().join(","))
}

async fn accept(listener: TcpListener, port: u16, faults: Receiver<NetworkFault>) {
    // Dropping the set, with this task, closes them.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let mut faults = faults.clone();
        connections.spawn(async move {
            if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                let forwarding = forward(client, server, faults.clone());
                tokio::select! {
                    () = forwarding => {}
                    _ = faults.wait_for(|fault| *fault == NetworkFault::Cut) => {}
                }
            }
        });
    }
}

/// Forwards bytes both ways, until one side closes.
async fn forward(mut client: TcpStream, mut server: TcpStream, faults: Receiver<NetworkFault>) {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::select! {
        () = forward_one_way(from_client, to_server, &faults) => {}
        () = forward_one_way(from_server, to_client, &faults) => {}
    }
}

async fn forward_one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    faults: &Receiver<NetworkFault>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let bytes = from.read(&mut buffer).await.unwrap_or(0);
        if *faults.borrow() == NetworkFault::Blackhole {
            // The other side does not see a close either.
            std::future::pending::<()>().await;
        }
        if bytes == 0 || to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}
