#!/usr/bin/env bash
# Three nodes (etcd, Patroni, Postgres), and HAProxy, which leads to the one that is the leader: all on this machine's
# loopback addresses, until Ctrl-C. Needs Debian's postgresql, patroni, etcd-server, haproxy, curl and openssl.
#
#     deploy/dev/verify/patroni_cluster.sh
#
# Another script may source it for its functions.
set -euo pipefail
# Every program in a process group of its own: Ctrl-C is for this script alone, which ends them in order.
set -m
patroni=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../patroni" && pwd)

# Every node has the same ports, on an address of its own.
postgres_port=23001 patroni_port=23002 etcd_port=23003 etcd_peer_port=23004
leader_port=23000
address() { echo "127.0.23.$1"; }

# Becomes a command of node $1, which here is a part of this machine.
exec_on_node() { shift; exec "$@"; }

# Postgres refuses to run as root.
account=()
[ "$(id -u)" != 0 ] || account=(setpriv --reuid=postgres --regid=postgres --init-groups)

work=$(mktemp -d)
chmod 755 "$work"
password=$(openssl rand -hex 16)

# The process id of each program that runs, by its name; and the names, in the order of their starts.
declare -A running=()
names=()

fail() { echo "FAILED: $*" >&2; tail -n 5 "$work"/*.log >&2 || true; exit 1; }

# Waits, at most two minutes, until a command succeeds.
until_true() {
    local patience=$((SECONDS + 120))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$patience" ] || fail "never came true: $*"
        sleep 0.1
    done
}

# Starts program $1 in the background. What it prints goes to a log of its name.
start() {
    "${@:2}" >>"$work/$1.log" 2>&1 </dev/null &
    running[$1]=$!
    names+=("$1")
}

# Ends programs by a signal, and waits until they have ended. Fails if one had ended before, or did not end well.
end() {
    local signal=$1 name status=0
    shift
    for name; do kill "-$signal" "${running[$name]}" 2>/dev/null || status=1; done
    for name; do
        wait "${running[$name]}" 2>/dev/null || status=1
        unset "running[$name]"
    done
    return "$status"
}

# Ends all programs, the last one first: whoever uses Postgres before it, and Postgres before etcd. That may be killed at
# any time; asked to end, it would wait for another member to take over from it.
finish() {
    local last name signal
    for ((last = ${#names[@]} - 1; last >= 0; last--)); do
        name=${names[last]}
        [[ $name = etcd* ]] && signal=KILL || signal=TERM
        [ ! -v "running[$name]" ] || end "$signal" "$name" || true
    done
    rm -rf "$work"
}

# Patroni uses version 2 of etcd's interface: by version 3, Debian's Patroni lets an old leader that comes back take the
# lock from the new one (see README.md). The pre-vote keeps a member that comes back from calling for an election.
start_etcd() {
    local clients peers members n
    clients=http://$(address "$1"):$etcd_port
    peers=http://$(address "$1"):$etcd_peer_port
    members=$(for n in 1 2 3; do echo "node$n=http://$(address "$n"):$etcd_peer_port"; done | paste -sd,)
    start "etcd$1" exec_on_node "$1" "${account[@]}" etcd --name "node$1" --data-dir "$work/node$1/etcd" \
        --listen-client-urls "$clients" --advertise-client-urls "$clients" \
        --listen-peer-urls "$peers" --initial-advertise-peer-urls "$peers" --initial-cluster "$members" \
        --enable-v2 --pre-vote
}

start_patroni() {
    local node=$work/node$1 here hosts programs n
    here=$(address "$1")
    hosts=$(for n in 1 2 3; do echo "'$(address "$n"):$etcd_port'"; done | paste -sd,)
    programs=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
    start "patroni$1" exec_on_node "$1" "${account[@]}" env HOME="$node" \
        PATRONI_NAME="node$1" PATRONI_ETCD_HOSTS="$hosts" \
        PATRONI_RESTAPI_LISTEN="$here:$patroni_port" PATRONI_RESTAPI_CONNECT_ADDRESS="$here:$patroni_port" \
        PATRONI_POSTGRESQL_LISTEN="$here:$postgres_port" PATRONI_POSTGRESQL_CONNECT_ADDRESS="$here:$postgres_port" \
        PATRONI_POSTGRESQL_BIN_DIR="$programs" PATRONI_POSTGRESQL_DATA_DIR="$node/data" \
        PATRONI_SUPERUSER_USERNAME=postgres PATRONI_SUPERUSER_PASSWORD="$password" \
        PATRONI_REPLICATION_USERNAME=replicator PATRONI_REPLICATION_PASSWORD="$password" \
        PATRONI_REWIND_USERNAME=rewinder PATRONI_REWIND_PASSWORD="$password" \
        patroni "$patroni/node.yaml"
}

start_haproxy() {
    start haproxy env LISTEN="127.0.0.1:$leader_port" PATRONI_PORT="$patroni_port" \
        NODE_1="$(address 1):$postgres_port" NODE_2="$(address 2):$postgres_port" NODE_3="$(address 3):$postgres_port" \
        haproxy -db -f "$patroni/haproxy.cfg"
}

# An authority; and for each node a certificate of the name by which clients look for the leader.
certify() {
    local n
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj /CN=cluster \
        -keyout "$work/ca.key" -out "$work/ca.crt"
    for n in 1 2 3; do
        mkdir -m 700 "$work/node$n"
        openssl req -x509 -CA "$work/ca.crt" -CAkey "$work/ca.key" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc \
            -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:false \
            -keyout "$work/node$n/server.key" -out "$work/node$n/server.crt"
        [ "$(id -u)" != 0 ] || chown -R postgres: "$work/node$n"
    done
}

# The way to database $2 of the leader, as role $1.
url() { echo "postgres://$1:$password@localhost:$leader_port/$2?sslmode=verify-full&sslrootcert=$work/ca.crt"; }

# Runs SQL in database $1 of the leader, as a superuser.
sql() { psql "$(url postgres "$1")" -qAtX -v ON_ERROR_STOP=1 "${@:2}"; }

# Asks the Patroni of node $1.
ask_patroni() { curl -sf --max-time 2 "http://$(address "$1"):$patroni_port/$2" >/dev/null; }

# The nodes of which Patroni says so: primary, sync.
nodes_that_are() {
    local n
    for n in 1 2 3; do ! ask_patroni "$n" "$1" || echo "$n"; done
}

# Whether both standbys follow the leader, and etcd knows which of them is the synchronous one.
is_whole() {
    [[ $(nodes_that_are sync) = [123] ]] &&
        [ "$(sql postgres -c "select count(*) from pg_stat_replication where state = 'streaming'")" = 2 ]
}

start_cluster() {
    local n role
    certify 2>"$work/openssl.log"
    for n in 1 2 3; do start_etcd "$n"; done
    for n in 1 2 3; do start_patroni "$n"; done
    start_haproxy
    until_true is_whole
    sql postgres -f "$patroni/../postgres/roles.sql"
    for role in max_two_owner max_two_worker max_two_api; do
        sql postgres -c "alter role $role password '$password'"
    done
    sql postgres -c "create database max_two owner max_two_owner"
}

[ "${BASH_SOURCE[0]}" = "$0" ] || return 0
trap finish EXIT
trap 'exit 0' INT TERM
start_cluster
echo "The leader's database: $(url max_two_owner max_two)"
wait
