//! Health checks over HTTP: one GET on this machine, for container images that hold no HTTP client.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
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

/// Sends a GET over a new connection, and checks that the status is 2xx. Only the status is read. A
/// listener on all addresses (`0.0.0.0`, `[::]`) accepts IPv4, and is checked on 127.0.0.1. Blocks
/// for some seconds at most.
///
/// # Errors
/// When the address is unreachable or does not respond in time, the response is not HTTP, or its
/// status is not 2xx.
pub fn check(mut address: SocketAddr, path: &str) -> io::Result<()> {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let mut stream = TcpStream::connect_timeout(&address, CHECK_TIMEOUT)?;
    stream.set_write_timeout(Some(CHECK_TIMEOUT))?;
    stream.set_read_timeout(Some(CHECK_TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut start = [0; b"HTTP/1.1 200".len()];
    stream
        .read_exact(&mut start)
        .map_err(|error| io::Error::new(error.kind(), format!("no response: {error}")))?;
    if start.starts_with(b"HTTP/1.") && start[8..10] == *b" 2" {
        return Ok(());
    }
    let start = String::from_utf8_lossy(&start);
    Err(io::Error::other(format!(
        "the response begins with {start:?}"
    )))
}
