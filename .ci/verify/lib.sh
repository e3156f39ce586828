# Sourced by the scripts beside it and by .ci/run: a temporary folder, background processes that end
# with the script, conditions to wait for, and a launcher with a database.
#
# From the environment:
#     PROGRAMS   a folder with the built programs; without it the scripts build them
#     PROFILE    the cargo profile to build with: dev by default
#
# A script may redefine show_logs, before_cleanup and stop_signal, and set WAIT_TIMEOUT.
# shellcheck shell=bash
set -euo pipefail
# Each background process gets a process group of its own: Ctrl-C goes to the script alone, which
# ends them in order.
set -m
# With a decimal point in EPOCHREALTIME.
export LC_ALL=C.UTF-8
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PROFILE=${PROFILE:-dev}
programs=$(realpath -m "${PROGRAMS:-target/${PROFILE/#dev/debug}}")
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
# Prints the signal that ends process $1.
stop_signal() { echo TERM; }

# Ends all background processes, the last one first.
cleanup() {
    local status=$? last name
    [ "$status" = 0 ] || show_logs >&2
    before_cleanup
    for ((last = ${#names[@]} - 1; last >= 0; last--)); do
        name=${names[last]}
        [ ! -v "running[$name]" ] || end "$(stop_signal "$name")" "$name" || true
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

# Sends signal $1 to processes and waits for them. Fails if one had already ended, or ends with a
# failure.
end() {
    local signal=$1 name status=0
    shift
    for name; do kill "-$signal" "${running[$name]}" 2>/dev/null || status=1; done
    for name; do join "$name" || status=1; done
    return "$status"
}

# Waits until a command succeeds, at most WAIT_TIMEOUT seconds.
wait_until() {
    local deadline=$((SECONDS + WAIT_TIMEOUT))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || fail "not true within $WAIT_TIMEOUT s: $*"
        sleep 0.1
    done
}

# Prints a result, and keeps it for the summary.
report() {
    echo "   $1: $2"
    printf '%-40s %s\n' "$1" "$2" >>"$work/summary"
}
print_summary() {
    echo "== Summary of ${0##*/}, after $((SECONDS / 60)) min $((SECONDS % 60)) s"
    cat "$work/summary"
}

build() {
    [ -z "${PROGRAMS:-}" ] || return 0
    echo "-- building"
    cargo build --workspace --locked --profile "$PROFILE"
}

# Installs Python packages into $work/venv.
install_python_packages() {
    [ -d "$work/venv" ] || python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"
}

# Starts a launcher, with more arguments, and waits until its database is there.
start_launcher() {
    start launcher env LISTEN=127.0.0.1:0 "$programs/max-two" --replicas 1 --data-dir "$work/data" "$@"
    wait_until grep -q "^Its database: " "$work/launcher.log"
}
# Prints the URL of the launcher's database for a role: owner, worker or api.
database_url() { sed "s/max_two_owner/max_two_$1/" "$work/data/database-url"; }
