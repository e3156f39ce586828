#!/usr/bin/env bash
# Starts deploy/patroni on this machine's loopback addresses: three nodes (etcd, Patroni, Postgres),
# and HAProxy, which forwards to the leader. Prints the database's URL and stops all of it on
# Ctrl-C. Starts within half a minute. Needs curl, etcd-server, haproxy, openssl, patroni and
# postgresql.
#
#     .ci/verify/patroni_cluster.sh
#
# patroni.sh sources it for its functions.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
WAIT_TIMEOUT=120

# All nodes have the same ports, each on an address of its own.
postgres_port=23001 patroni_port=23002 etcd_port=23003 etcd_peer_port=23004
leader_port=23000
address() { echo "127.0.23.$1"; }

# Replaces this process by a command on node $1, which here is this machine.
exec_on_node() { shift; exec "$@"; }

# Postgres refuses to run as root.
account=()
[ "$(id -u)" != 0 ] || account=(setpriv --reuid=postgres --regid=postgres --init-groups)

password=$(openssl rand -hex 16)

# etcd may be killed at any time. On SIGTERM it would wait until another member takes over.
stop_signal() { case $1 in etcd*) echo KILL ;; *) echo TERM ;; esac; }

# Patroni uses version 2 of etcd's API: with version 3, Debian's Patroni lets an old leader that
# comes back overwrite the new leader's lock (see deploy/patroni/README.md). Pre-vote keeps a member
# that comes back from forcing an election.
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
    local node=$work/node$1 here hosts binaries n
    here=$(address "$1")
    hosts=$(for n in 1 2 3; do echo "'$(address "$n"):$etcd_port'"; done | paste -sd,)
    binaries=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
    start "patroni$1" exec_on_node "$1" "${account[@]}" env HOME="$node" \
        PATRONI_NAME="node$1" PATRONI_ETCD_HOSTS="$hosts" \
        PATRONI_RESTAPI_LISTEN="$here:$patroni_port" PATRONI_RESTAPI_CONNECT_ADDRESS="$here:$patroni_port" \
        PATRONI_POSTGRESQL_LISTEN="$here:$postgres_port" PATRONI_POSTGRESQL_CONNECT_ADDRESS="$here:$postgres_port" \
        PATRONI_POSTGRESQL_BIN_DIR="$binaries" PATRONI_POSTGRESQL_DATA_DIR="$node/data" \
        PATRONI_SUPERUSER_USERNAME=postgres PATRONI_SUPERUSER_PASSWORD="$password" \
        PATRONI_REPLICATION_USERNAME=replicator PATRONI_REPLICATION_PASSWORD="$password" \
        PATRONI_REWIND_USERNAME=rewinder PATRONI_REWIND_PASSWORD="$password" \
        patroni deploy/patroni/node.yaml
}

start_haproxy() {
    start haproxy env LISTEN="127.0.0.1:$leader_port" PATRONI_PORT="$patroni_port" \
        NODE_1="$(address 1):$postgres_port" NODE_2="$(address 2):$postgres_port" NODE_3="$(address 3):$postgres_port" \
        haproxy -db -f deploy/patroni/haproxy.cfg
}

# A certificate authority, and for each node a certificate with the host name that clients use.
make_certificates() {
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

# The URL of database $2 of the leader, as role $1.
url() { echo "postgres://$1:$password@localhost:$leader_port/$2?sslmode=verify-full&sslrootcert=$work/ca.crt"; }

# Runs SQL in database $1 of the leader, as a superuser.
sql() { psql "$(url postgres "$1")" -qAtX -v ON_ERROR_STOP=1 "${@:2}"; }

# The nodes whose Patroni has a role: primary, sync.
nodes_with_role() {
    local n
    for n in 1 2 3; do
        ! curl -sf --max-time 2 "http://$(address "$n"):$patroni_port/$1" >/dev/null || echo "$n"
    done
}

# Whether both standbys follow the leader, and etcd knows which of them is the synchronous one.
is_complete() {
    [[ $(nodes_with_role sync) = [123] ]] &&
        [ "$(sql postgres -c "select count(*) from pg_stat_replication where state = 'streaming'")" = 2 ]
}

start_cluster() {
    local n role
    make_certificates 2>"$work/openssl.log"
    for n in 1 2 3; do start_etcd "$n"; done
    for n in 1 2 3; do start_patroni "$n"; done
    start_haproxy
    wait_until is_complete
    sql postgres -f deploy/postgres/roles.sql
    for role in max_two_owner max_two_worker max_two_api; do
        sql postgres -c "alter role $role password '$password'"
    done
    sql postgres -c "create database max_two owner max_two_owner"
}

[ "${BASH_SOURCE[0]}" = "$0" ] || return 0
trap 'exit 0' INT TERM
start_cluster
echo "The leader's database: $(url max_two_owner max_two)"
wait
