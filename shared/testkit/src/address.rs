//! Addresses for programs under test that must be given one before they start.
//!
//! A program that can listen on port 0 and log its address needs neither of these: read the address
//! with [`Program::address`](crate::Program::address).

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// An address on the loopback interface that no other process can take until this is dropped. It is
/// for programs that share their port (the api with `REUSE_PORT=true`) and run under this account:
/// they can listen there, end, and be replaced.
///
/// The socket is bound with `SO_REUSEPORT` and never listens, so the kernel gives it no connection.
#[derive(Debug)]
pub struct ReservedAddress {
    address: SocketAddr,
    _socket: Socket,
}

impl ReservedAddress {
    /// Reserves a free port.
    #[must_use]
    pub fn new() -> Self {
        let bind = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_port(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
            let address = socket.local_addr()?;
            Ok::<_, std::io::Error>((socket, address))
        };
        let (socket, address) = bind().expect("there is a free port");
        Self {
            address: address
                .as_socket()
                .expect("an IPv4 socket has such an address"),
            _socket: socket,
        }
    }

    /// The address.
    #[must_use]
    pub fn get(&self) -> SocketAddr {
        self.address
    }
}

impl Default for ReservedAddress {
    fn default() -> Self {
        Self::new()
    }
}

/// An address on the loopback interface that no process listens on at this moment. Another process
/// can take it before the program under test does, so use it only for a program that can neither
/// listen on port 0 nor share its port.
#[must_use]
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("there is a free port")
}
