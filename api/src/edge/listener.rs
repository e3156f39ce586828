//! The listening sockets: of our own, or handed over.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use listenfd::ListenFd;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;
use tracing::warn;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// What the kernel may hold of a connection, each way: far more than a request or an answer.
const BUFFER: usize = 64 * 1024;
/// When the kernel begins to ask an idle client whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Files that are no connections: the database's, the admin listener's, the runtime's.
const OTHER_FILES: usize = 128;

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
                    let socket = SockRef::from(&listener);
                    // Accepted sockets inherit these.
                    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
                    socket.set_recv_buffer_size(BUFFER)?;
                    socket.set_send_buffer_size(BUFFER)?;
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
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Lets this process open as many files as it may, for a connection is one, and says how many connections that allows:
/// `wanted`, or fewer.
pub(crate) fn affordable_connections(wanted: usize) -> usize {
    let most = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| {
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        Ok(usize::try_from(most).unwrap_or(usize::MAX))
    });
    let affordable = most.map_or(wanted, |most| most.saturating_sub(OTHER_FILES).max(1));
    if affordable < wanted {
        warn!(
            wanted,
            affordable, "MAX_CONNECTIONS is more than the limit on open files allows"
        );
    }
    wanted.min(affordable)
}
