//! The listening sockets: bound here, or passed by systemd.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 4096;
/// Bytes that the kernel may buffer of a connection, each way: far more than a request or a
/// response.
const SOCKET_BUFFER_BYTES: usize = 64 * 1024;
/// How long a connection is silent before the kernel probes whether its client is still there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);

/// The two sockets of a replica.
pub(crate) struct Listeners {
    pub(crate) public: TcpListener,
    pub(crate) admin: TcpListener,
}

impl Listeners {
    /// Takes the sockets that systemd passes, the public one first, and binds the others.
    ///
    /// # Errors
    /// When an address can't be bound; names the setting.
    pub(crate) fn open(
        public: SocketAddr,
        admin: SocketAddr,
        reuse_port: bool,
        write_timeout: Duration,
    ) -> anyhow::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut take = |index: usize, setting: &str, address: SocketAddr, reuse_port: bool| {
            let listener = match passed.take_tcp_listener(index) {
                Ok(Some(listener)) => Ok(listener),
                Ok(None) => bind(address, reuse_port),
                Err(error) => Err(error),
            };
            listener
                .and_then(|listener| {
                    let socket = SockRef::from(&listener);
                    // Accepted sockets inherit these.
                    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_TIME))?;
                    // The kernel closes a connection whose client has not acknowledged, or made room
                    // for, what was sent for as long. Elsewhere there is no such timeout.
                    #[cfg(target_os = "linux")]
                    socket.set_tcp_user_timeout(Some(write_timeout))?;
                    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
                    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
                    listener.set_nonblocking(true)?;
                    TcpListener::from_std(listener)
                })
                .with_context(|| format!("{setting} {address} can't be used"))
        };
        // Each replica has an admin address of its own.
        let reuse_admin_port = false;
        Ok(Self {
            public: take(0, "LISTEN", public, reuse_port)?,
            admin: take(1, "ADMIN_LISTEN", admin, reuse_admin_port)?,
        })
    }
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
