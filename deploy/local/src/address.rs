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
    // All sockets have SO_REUSEADDR when they are bound, because of earlier connections in
    // TIME_WAIT. Linux lets two such sockets share an address until one listens. So this one
    // listens, which only one process can do, until the reservation needs SO_REUSEADDR no more.
    let listener = socket(address)?;
    listener.bind(&address.into())?;
    listener.listen(1)?;
    let address = listener
        .local_addr()?
        .as_socket()
        .expect("it was bound to an IP address");
    listener.set_reuse_port(true)?;
    let reservation = socket(address)?;
    reservation.set_reuse_port(true)?;
    reservation.bind(&address.into())?;
    reservation.set_reuse_address(false)?;
    Ok((reservation, address))
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

    #[test]
    fn a_reserved_address_is_for_replicas_alone() {
        let (reservation, address) = reserve(ANY_PORT.into()).expect("there is a free port");
        let replicas: Vec<_> = (0..2)
            .map(|_| {
                let replica = socket(address).expect("a socket");
                replica.set_reuse_port(true).expect("Linux has it");
                replica.bind(&address.into()).expect("it shares the port");
                replica.listen(1).expect("it shares the port");
                replica
            })
            .collect();
        let in_use = |outcome: io::Result<_>| {
            outcome.is_err_and(|error: io::Error| error.kind() == io::ErrorKind::AddrInUse)
        };
        assert!(in_use(reserve(address)));
        drop(replicas);
        assert!(in_use(reserve(address)), "without a listener");
        drop(reservation);
        reserve(address).expect("it is free again");
    }

    #[test]
    fn of_those_that_reserve_an_address_at_once_one_succeeds_at_most() {
        const RIVALS: usize = 4;
        let (_, address) = reserve(ANY_PORT.into()).expect("there is a free port");
        for _ in 0..200 {
            let barrier = Barrier::new(RIVALS);
            let rival = || {
                barrier.wait();
                let reservation = reserve(address);
                // Each keeps its own until all have tried.
                barrier.wait();
                usize::from(reservation.is_ok())
            };
            let reservations: usize = thread::scope(|scope| {
                let rivals: Vec<_> = (0..RIVALS).map(|_| scope.spawn(rival)).collect();
                let join = |rival: thread::ScopedJoinHandle<_>| rival.join().expect("no panic");
                rivals.into_iter().map(join).sum()
            });
            assert!(reservations <= 1, "{reservations} at once");
        }
    }
}
