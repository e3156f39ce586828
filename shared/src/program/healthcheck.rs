//! Health checks over HTTP: one GET on this machine, for container images that hold no HTTP client.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use super::cli::print_error;

/// How long connecting, sending and each read may take. The first check that fails ends the
/// command, so that a program that hangs is noticed before a container's usual three seconds are
/// over.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks `/livez` and `/readyz` of the program whose admin listener has this address on this
/// machine. Prints the first failure on standard error, and returns the status to exit with.
#[must_use]
pub fn run(admin: SocketAddr) -> ExitCode {
    for path in ["/livez", "/readyz"] {
        if let Err(error) = check(admin, path) {
            print_error(&format_args!("{path}: {error}"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Sends a GET over a new connection, and checks that the status is 2xx. Only the status is read.
/// A listener on all addresses (`0.0.0.0`, `[::]`) is checked on the loopback interface. Blocks for
/// some seconds at most.
///
/// # Errors
/// When the address is unreachable or does not respond in time, the response is not HTTP, or its
/// status is not 2xx.
pub fn check(address: SocketAddr, path: &str) -> io::Result<()> {
    let connect = |ip: IpAddr| {
        TcpStream::connect_timeout(&SocketAddr::new(ip, address.port()), CHECK_TIMEOUT)
    };
    let mut stream = if address.ip().is_unspecified() {
        connect(Ipv4Addr::LOCALHOST.into()).or_else(|_| connect(Ipv6Addr::LOCALHOST.into()))?
    } else {
        connect(address.ip())?
    };
    stream.set_write_timeout(Some(CHECK_TIMEOUT))?;
    stream.set_read_timeout(Some(CHECK_TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut start = [0; b"HTTP/1.1 200".len()];
    stream
        .read_exact(&mut start)
        .map_err(|error| io::Error::new(error.kind(), format!("no response: {error}")))?;
    match start {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'2', ..] => Ok(()),
        _ => Err(io::Error::other(format!(
            "the response begins with {:?}",
            String::from_utf8_lossy(&start)
        ))),
    }
}
