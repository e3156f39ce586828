//! Asking a running program whether it is well, for images that hold no other tool to ask with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use ureq::Agent;

/// How long each of two answers may take: who runs this mostly waits for three seconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks the program whose admin listener is at this address, on this machine, whether it is alive and ready, and says the
/// first no on standard error. Returns the status to exit with.
#[must_use]
pub fn run(admin: SocketAddr) -> ExitCode {
    let agent = Agent::new_with_config(
        Agent::config_builder()
            .proxy(None)
            .timeout_global(Some(PATIENCE))
            .build(),
    );
    let admin = reachable(admin);
    for path in ["/livez", "/readyz"] {
        if let Err(error) = agent.get(format!("http://{admin}{path}")).call() {
            eprintln!("{path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// An address to ask at, where one listens on all that there are.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
