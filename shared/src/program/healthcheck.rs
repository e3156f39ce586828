//! Health checks over HTTP: one GET on this machine, for container images that hold no HTTP client.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::cli::print_error;

/// How long a check may take. Two of them fit in the usual three seconds of a container's check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks `/livez` and `/readyz` of the program whose admin listener has this address on this
/// machine. Prints the first failure on standard error, and returns the status to exit with.
#[must_use]
pub fn run(admin: SocketAddr) -> ExitCode {
    let admin = connectable(admin);
    let checks = async {
        for path in ["/livez", "/readyz"] {
            check(admin, path).await.map_err(|error| (path, error))?;
        }
        Ok(())
    };
    let result = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ("starting the runtime", CheckError::Io(error)))
        .and_then(|runtime| runtime.block_on(checks));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((what, error)) => {
            print_error(&format_args!("{what}: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Sends a GET over a new connection, and checks that the status is 2xx. The body is not read.
///
/// # Errors
/// When the address is unreachable, the response is not HTTP or its status is not 2xx, or all of it
/// takes longer than a second.
pub async fn check(address: SocketAddr, path: &str) -> Result<(), CheckError> {
    let status = timeout(CHECK_TIMEOUT, get(address, path))
        .await
        .map_err(|_| CheckError::Timeout(CHECK_TIMEOUT))??;
    if status.is_success() {
        Ok(())
    } else {
        Err(CheckError::Status(status))
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<StatusCode, CheckError> {
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The connection's task ends with this function, however it ends.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    Ok(sender.send_request(request).await?.status())
}

/// The address to connect to, for a listener that may be bound to all addresses.
fn connectable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// Why a health check failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There was no response in time.
    #[error("no response within {0:?}")]
    Timeout(Duration),
    /// The address is unreachable.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The connection broke, or the response is not HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The path is not valid in a request.
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    /// The status is not 2xx.
    #[error("status {0}")]
    Status(StatusCode),
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers one request with these bytes and then keeps the connection open.
    async fn server(response: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("the loopback interface has a free port");
        let address = listener.local_addr().expect("the listener is bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client connects");
            let mut request = [0; 1024];
            let length = stream
                .read(&mut request)
                .await
                .expect("the client sends a request");
            assert!(request[..length].starts_with(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1:"));
            stream
                .write_all(response.as_bytes())
                .await
                .expect("the client reads the response");
            std::future::pending::<()>().await;
        });
        address
    }

    #[tokio::test]
    async fn only_a_2xx_response_in_time_passes() {
        for (response, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n", None),
            ("HTTP/1.1 204 No Content\r\n\r\n", None),
            (
                "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
                Some("status 302 Found"),
            ),
            (
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 9\r\n\r\n",
                Some("status 503 Service Unavailable"),
            ),
            ("SSH-2.0-server\r\n", Some("invalid HTTP version parsed")),
            ("", Some("no response within 1s")),
        ] {
            let result = check(server(response).await, "/readyz").await;
            let error = result.err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), expected, "{response:?}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_checked_on_the_loopback_address() {
        for (listen, connect) in [
            ("0.0.0.0:9000", "127.0.0.1:9000"),
            ("[::]:9000", "[::1]:9000"),
            ("10.0.0.1:9000", "10.0.0.1:9000"),
        ] {
            let address = |text: &str| -> SocketAddr { text.parse().expect("it is an address") };
            assert_eq!(connectable(address(listen)), address(connect));
        }
    }
}
