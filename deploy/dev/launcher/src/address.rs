//! Keeps the address that the replicas share.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// Binds the address without listening on it, and returns it with the port that it got. While the
/// socket exists, the replicas can share the address and no other process can take it.
///
/// # Errors
/// When another process uses the address, or this machine does not have it.
pub(crate) fn reserve(address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    // Binding without SO_REUSEPORT fails even if another process would share the port.
    drop(bind(address, false)?);
    let socket = bind(address, true)?;
    let address = socket
        .local_addr()?
        .as_socket()
        .expect("it was bound to an IP address");
    Ok((socket, address))
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
