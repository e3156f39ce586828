# Sourced by the scripts beside it and by .ci/run: a temporary folder, background processes that end
# with the script, conditions to wait for, and a launcher with a database.
#
# From the environment:
#     PROGRAMS   a folder with the built programs; without it the scripts build them
#
# A script may redefine show_logs and before_cleanup, and set WAIT_TIMEOUT.
# shellcheck shell=bash
set -euo pipefail
# Each background process gets a process group of its own: Ctrl-C goes to the script alone, which
# ends them in order.
set -m
export LC_ALL=C.UTF-8
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

programs=$(realpath -m "${PROGRAMS:-target/debug}")
WAIT_TIMEOUT=60
work=$(mktemp -d)
# Postgres' account has to enter it.
chmod 755 "$work"
# The process id of each background process, by its name, and the names in the order of their
# starts.
declare -A running=()
names=()

fail() { echo "FAILED: $*" >&2; exit 1; }

# Runs when the script fails.
show_logs() { tail -n 5 "$work"/*.log 2>/dev/null || true; }
# Runs before the background processes are ended.
before_cleanup() { :; }

# Ends all background processes, the last one first.
cleanup() {
    local status=$? last name
    [ "$status" = 0 ] || show_logs >&2
    before_cleanup
    for ((last = ${#names[@]} - 1; last >= 0; last--)); do
        name=${names[last]}
        [ ! -v "running[$name]" ] || end TERM "$name" || true
    done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Starts a command as background process $1. It writes to $work/$1.log.
start() {
    "${@:2}" >>"$work/$1.log" 2>&1 </dev/null &
    running[$1]=$!
    names+=("$1")
}

# Waits until process $1 has ended by itself, and returns its exit status.
join() {
    local status=0
    wait "${running[$1]}" 2>/dev/null || status=$?
    unset "running[$1]"
    return "$status"
}

# Sends signal $1 to process $2 and waits for it. Fails if it had already ended, or ends with a
# failure.
end() { kill "-$1" "${running[$2]}" 2>/dev/null && join "$2"; }

# Waits until a command succeeds, at most WAIT_TIMEOUT seconds.
wait_until() {
    local deadline=$((SECONDS + WAIT_TIMEOUT))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || fail "not true within $WAIT_TIMEOUT s: $*"
        sleep 0.1
    done
}

build() { [ -n "${PROGRAMS:-}" ] || cargo build --workspace --locked; }

# Installs Python packages, unless they are there, into a virtual environment of the name $1, and
# puts its programs on the path.
install_python_packages() {
    local environment=${XDG_CACHE_HOME:-$HOME/.cache}/max-two-ci/$1
    [ -x "$environment/bin/pip" ] || python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check "${@:2}"
    PATH=$environment/bin:$PATH
}

# Starts a launcher, with more arguments, and waits until it is ready.
start_launcher() {
    start launcher env LISTEN=127.0.0.1:0 "$programs/max-two" --replicas 1 --data-dir "$work/data" "$@"
    wait_until grep -q "^Max Two is ready: " "$work/launcher.log"
}
# Prints the URL of the launcher's database for a role: owner, worker or api.
database_url() { sed "s/max_two_owner/max_two_$1/" "$work/data/database-url"; }
