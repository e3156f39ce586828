//! The limit on open files, of which each connection is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Open files that are not public connections: for the database, the admin listener, the runtime.
const RESERVED_FILES: usize = 128;

/// Raises the soft limit to the hard one. Returns how many connections are possible then:
/// `max_connections`, or fewer.
pub(crate) fn raise_limit(max_connections: usize) -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, hard)| {
        let is_raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
        usize::try_from(if is_raised { hard } else { soft }).unwrap_or(usize::MAX)
    });
    let allowed = limit.map_or(max_connections, |limit| {
        limit.saturating_sub(RESERVED_FILES).max(1)
    });
    if allowed < max_connections {
        warn!(
            event = "open_files_limited",
            max_connections,
            allowed,
            "the limit on open files allows fewer connections than MAX_CONNECTIONS"
        );
    }
    max_connections.min(allowed)
}
