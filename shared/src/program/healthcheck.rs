//! Health checks over HTTP: one GET on this machine, for container images that hold no HTTP client.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use super::cli::print_error;

/// How long connecting, sending and each read may take. Two checks fit in the usual three seconds of
/// a container's.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks `/livez` and `/readyz` of the program whose admin listener has this address on this
/// machine. To connect to all addresses (`0.0.0.0`, `[::]`) is to connect to this machine. Prints the first failure on standard error, and returns the status to exit with.
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
/// Blocks for some seconds at most.
///
/// # Errors
/// When the address is unreachable or does not respond in time, the response is not HTTP, or its
/// status is not 2xx.
pub fn check(address: SocketAddr, path: &str) -> Result<(), CheckError> {
    let start = start_of_response(address, path).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => CheckError::Timeout(CHECK_TIMEOUT),
        _ => CheckError::Io(error),
    })?;
    match start.as_bytes() {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'2', ..] => Ok(()),
        _ => Err(CheckError::Response(start)),
    }
}

/// The version and the status of the response to a GET.
fn start_of_response(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, CHECK_TIMEOUT)?;
    stream.set_write_timeout(Some(CHECK_TIMEOUT))?;
    stream.set_read_timeout(Some(CHECK_TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut start = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut start)?;
    Ok(String::from_utf8_lossy(&start).into_owned())
}

/// Why a health check failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There was no response in time.
    #[error("no response within {0:?}")]
    Timeout(Duration),
    /// The address is unreachable, or the connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It begins like this: with another status, or it is not HTTP.
    #[error("the response begins with {0:?}")]
    Response(String),
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn only_a_2xx_response_in_time_passes_also_on_a_listener_on_all_addresses() {
        for (listen, response, expected) in [
            (
                "0.0.0.0:0",
                "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n",
                None,
            ),
            ("[::]:0", "HTTP/1.1 204 No Content\r\n\r\n", None),
            ("127.0.0.1:0", "HTTP/1.1 302 Found\r\n", Some("302")),
            (
                "127.0.0.1:0",
                "HTTP/1.1 503 Service Unavailable\r\n",
                Some("503"),
            ),
            ("127.0.0.1:0", "SSH-2.0-server\r\n", Some("SSH")),
            ("127.0.0.1:0", "", Some("no response within 1s")),
        ] {
            let listener = TcpListener::bind(listen).expect("there is a free port");
            let address = listener.local_addr().expect("it is bound");
            thread::scope(|scope| {
                let server = scope.spawn(move || {
                    let (mut stream, _) = listener.accept().expect("a client connects");
                    let mut request = [0; 1024];
                    let length = stream.read(&mut request).expect("it sends a request");
                    let request = String::from_utf8_lossy(&request[..length]);
                    assert!(
                        request.starts_with("GET /readyz HTTP/1.1\r\nHost: "),
                        "{request}"
                    );
                    stream
                        .write_all(response.as_bytes())
                        .expect("it reads the response");
                    // Held open: a response ends where its head says, or not at all.
                    stream
                });
                let result = check(address, "/readyz");
                drop(server.join().expect("the request was a GET"));
                match (result, expected) {
                    (Ok(()), None) => {}
                    (Err(error), Some(part)) if error.to_string().contains(part) => {}
                    (result, _) => panic!("{response:?}: {result:?}"),
                }
            });
        }
    }
}
