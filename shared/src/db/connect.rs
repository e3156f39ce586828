//! Opens a session with a host whose name has several addresses, some of which may be silent.
//!
//! sqlx connects to one address after the other and waits for each as long as the kernel does, so
//! a silent one would use up all of the time. It can't be given an address apart from the host
//! name, which the server's certificate must match.

use std::net::SocketAddr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener, lookup_host};
use tokio::time::{Instant, timeout};

/// Opens a session. If the host has several addresses, each gets an equal share of what is left of
/// `limit`.
pub(super) async fn open_session(
    options: &PgConnectOptions,
    limit: Duration,
) -> Result<PgConnection, sqlx::Error> {
    let host = options.get_host();
    if options.get_socket().is_some() || host.starts_with('/') {
        return options.connect().await;
    }
    let addresses: Vec<_> = lookup_host((host, options.get_port())).await?.collect();
    connect_to(&addresses, options, limit).await
}

async fn connect_to(
    addresses: &[SocketAddr],
    options: &PgConnectOptions,
    limit: Duration,
) -> Result<PgConnection, sqlx::Error> {
    let deadline = Instant::now() + limit;
    let mut some_are_silent = false;
    for (index, &address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        // The only one, or all before it refused: sqlx reaches it without a detour.
        if left == 1 && !some_are_silent {
            break;
        }
        let attempt = async {
            match TcpStream::connect(address).await {
                Ok(server) if some_are_silent => Some(connect_over(server, options).await),
                // No address before this one is silent, so sqlx reaches it in time by itself.
                Ok(_) => Some(options.connect().await),
                // It refuses at once, so it would not delay sqlx.
                Err(_) => None,
            }
        };
        match timeout((deadline - Instant::now()) / left, attempt).await {
            Ok(Some(result)) => return result,
            Ok(None) => {}
            Err(_) => some_are_silent = true,
        }
    }
    options.connect().await
}

/// Opens a session over this connection, which sqlx reaches through a Unix socket of this process.
async fn connect_over(
    mut server: TcpStream,
    options: &PgConnectOptions,
) -> Result<PgConnection, sqlx::Error> {
    server.set_nodelay(true)?;
    // In Linux' abstract namespace: it needs no writable folder, and vanishes with the listener.
    let folder = format!("\0max-two-{:032x}", rand::random::<u128>());
    let listener = UnixListener::bind(format!("{folder}/.s.PGSQL.{}", options.get_port()))?;
    let options = options.clone().socket(folder);
    let forward = async {
        let (mut client, _) = listener.accept().await?;
        // Ends with either side. What it could report, sqlx notices by itself.
        tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        Ok(())
    };
    let (session, forwarding) = tokio::join!(options.connect(), forward);
    forwarding.and(session)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use sqlx::Connection as _;
    use testkit::TestDatabase;
    use tokio::net::TcpSocket;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(6);

    #[tokio::test]
    async fn an_address_that_is_silent_or_refuses_does_not_keep_the_next_from_its_share() {
        let database = TestDatabase::with_users(1).await;
        let real: SocketAddr = ([127, 0, 0, 1], database.server.lock().await.port()).into();
        let options: PgConnectOptions = database.api.parse().expect("it is a URL");

        // A full backlog: the kernel drops what comes next, as a firewall would.
        let socket = TcpSocket::new_v4().expect("there is a socket");
        socket
            .bind(([127, 0, 0, 1], 0).into())
            .expect("there is a port");
        let listener = socket.listen(1).expect("it can listen");
        let silent = listener.local_addr().expect("it is bound");
        let mut pending = Vec::new();
        while let Ok(connection) = timeout(LIMIT / 20, TcpStream::connect(silent)).await {
            pending.push(connection);
        }
        let refusing = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("there is a free port");

        // Accepts, and never answers.
        let mute = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let mute_address = mute.local_addr().expect("it is bound");

        // By name, sqlx reaches the silent one.
        let unreachable = options.clone().port(silent.port());
        for addresses in [
            &[silent, real][..],
            &[refusing, silent, real],
            &[mute_address, real],
        ] {
            let session = timeout(LIMIT, connect_to(addresses, &unreachable, LIMIT)).await;
            let mut session = session.expect("within the limit").expect("it connects");
            session.ping().await.expect("it works");
            // The forwarder ends with the session.
            session.close().await.expect("it can be closed");
        }
        for addresses in [&[refusing, real][..], &[real, silent], &[real]] {
            let session = timeout(LIMIT, connect_to(addresses, &options, LIMIT)).await;
            session.expect("within the limit").expect("it connects");
        }
    }
}
