//! The listening sockets: bound here, or passed by systemd, and the connections that they accept.

use std::env;
use std::future::poll_fn;
use std::io;
use std::net;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, bail};
use listenfd::ListenFd;
use shared::program::listener::listen;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

use crate::settings::Settings;

/// The size of each connection's send and receive buffers, as requested from the kernel: far more
/// than a request or a response. Linux doubles it.
const SOCKET_BUFFER_BYTES: usize = 64 * 1024;
/// How long a connection is silent before the kernel probes whether its client is still there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);

/// The sockets of a replica, at least one of each kind.
pub(crate) struct Listeners {
    pub(crate) public: Vec<TcpListener>,
    pub(crate) admin: Vec<TcpListener>,
}

impl Listeners {
    /// Takes the sockets that systemd passes, and binds the address of each kind that is missing.
    ///
    /// # Errors
    /// When an address can't be bound (the error names its setting), or a passed socket has an
    /// unknown name or is no TCP listener.
    pub(crate) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let (mut public, mut admin) = take_passed_sockets()?;
        if public.is_empty() {
            let bound = listen(settings.listen, settings.reuse_port);
            let named = || format!("LISTEN {} can't be used", settings.listen);
            public.push(bound.with_context(named)?);
        }
        if admin.is_empty() {
            // Each replica has an admin address of its own.
            let bound = listen(settings.admin_listen, false);
            let named = || format!("ADMIN_LISTEN {} can't be used", settings.admin_listen);
            admin.push(bound.with_context(named)?);
        }
        let configure_all = |sockets: Vec<net::TcpListener>| -> io::Result<Vec<_>> {
            sockets
                .into_iter()
                .map(|socket| configure(socket, settings.write_timeout))
                .collect()
        };
        Ok(Self {
            public: configure_all(public)?,
            admin: configure_all(admin)?,
        })
    }
}

/// The public sockets and the admin sockets that systemd passes. `FileDescriptorName=` of their
/// units tells them apart, `http` and `admin`.
fn take_passed_sockets() -> anyhow::Result<(Vec<net::TcpListener>, Vec<net::TcpListener>)> {
    let (mut public, mut admin) = (Vec::new(), Vec::new());
    let mut passed = ListenFd::from_env();
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<_> = names.split(':').collect();
    // Until the next release, a unit may be of the previous one, which names no sockets: systemd
    // then passes the unit's name.
    let unnamed = names.iter().all(|name| *name == names[0])
        && (names[0].is_empty() || names[0].ends_with(".socket"));
    if unnamed && passed.len() > 0 {
        warn!(
            event = "sockets_unnamed",
            "systemd passed sockets without names, so their order decides, which the next release \
             will refuse: set FileDescriptorName=http in one unit, and FileDescriptorName=admin in \
             another"
        );
    }
    for index in 0..passed.len() {
        let name = names.get(index).copied().unwrap_or_default();
        let socket = passed
            .take_tcp_listener(index)
            .with_context(|| format!("socket {} ({name}) passed by systemd", index + 1))?
            .expect("each is taken once");
        match (name, index) {
            ("http", _) => public.push(socket),
            ("admin", _) => admin.push(socket),
            (_, 0) if unnamed => public.push(socket),
            (_, 1) if unnamed => admin.push(socket),
            _ => bail!(
                "systemd passes a socket {name:?} at {}: FileDescriptorName must be http or admin",
                socket.local_addr()?
            ),
        }
    }
    Ok((public, admin))
}

/// Sets what accepted sockets inherit.
fn configure(socket: net::TcpListener, write_timeout: Duration) -> io::Result<TcpListener> {
    let options = SockRef::from(&socket);
    options.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_TIME))?;
    // The kernel closes a connection whose client does not acknowledge sent data, or keeps its
    // receive window closed. Only Linux has this timeout.
    #[cfg(target_os = "linux")]
    options.set_tcp_user_timeout(Some(write_timeout))?;
    options.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    options.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Accepts a connection from the first listener that has one, then moves that listener to the end,
/// so that a flooded listener does not starve the others. Cancel safe.
pub(super) async fn next_connection(listeners: &mut [TcpListener]) -> io::Result<TcpStream> {
    let (index, accepted) = poll_fn(|context| {
        listeners
            .iter()
            .enumerate()
            .map(|(index, listener)| listener.poll_accept(context).map(|result| (index, result)))
            .find(Poll::is_ready)
            .unwrap_or(Poll::Pending)
    })
    .await;
    listeners[index..].rotate_left(1);
    accepted.map(|(stream, _)| stream)
}

/// Accepts all connections that the kernel has queued for a listener, then closes the listener.
pub(super) fn take_queued(listener: TcpListener) -> Vec<TcpStream> {
    // tokio's own accept pauses when the task's budget is used up, although more are queued.
    let Ok(listener) = listener.into_std() else {
        return Vec::new();
    };
    let mut queued = Vec::new();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let stream = stream
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(stream));
                queued.extend(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => return queued,
        }
    }
}
