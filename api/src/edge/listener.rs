//! The listening sockets: of our own, or handed over.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use listenfd::ListenFd;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// When a client that says nothing is asked whether it is still there, and how often.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The two sockets of a replica.
pub(crate) struct Listeners {
    pub(crate) public: TcpListener,
    pub(crate) admin: TcpListener,
}

impl Listeners {
    /// Takes the sockets that systemd hands over, the public one first, and binds those that it does not.
    ///
    /// # Errors
    /// When an address can't be bound; the setting is named.
    pub(crate) fn open(
        public: SocketAddr,
        admin: SocketAddr,
        reuse_port: bool,
    ) -> anyhow::Result<Self> {
        let mut handed = ListenFd::from_env();
        let mut take = |place: usize, setting: &str, address: SocketAddr, reuse_port: bool| {
            let listener = match handed.take_tcp_listener(place) {
                Ok(Some(listener)) => Ok(listener),
                Ok(None) => bind(address, reuse_port),
                Err(error) => Err(error),
            };
            listener
                .and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    TcpListener::from_std(listener)
                })
                .with_context(|| format!("{setting} {address} can't be used"))
        };
        Ok(Self {
            public: take(0, "LISTEN", public, reuse_port)?,
            admin: take(1, "ADMIN_LISTEN", admin, false)?,
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
    // Accepted sockets inherit it.
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE),
    )?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Lets this process open as many files as it may, for a connection is one.
pub(crate) fn raise_file_limit() -> io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(())
}
