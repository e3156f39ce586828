//! Listening sockets.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 4096;

/// Opens a nonblocking socket that listens on this address. `[::]` also accepts IPv4, and is IPv4
/// alone where the kernel has no IPv6. With `reuse_port` other processes may listen there too.
///
/// # Errors
/// When the address can't be used.
pub fn listen(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let bind = |address: SocketAddr| -> io::Result<TcpListener> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(reuse_port)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    let no_ipv6 = Some(Errno::EAFNOSUPPORT as i32);
    bind(address).or_else(|error| {
        if address.ip() == Ipv6Addr::UNSPECIFIED && error.raw_os_error() == no_ipv6 {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into())
        } else {
            Err(error)
        }
    })
}
