#!/usr/bin/env bash
# Workers and replicas over the cluster, under load, while its leader is moved, killed and cut off. Takes three minutes,
# and those of a build; what it starts ends with it. Needs root, wrk, nftables, and what `cluster` needs.
#
#     deploy/dev/verify/patroni.sh
#     PROGRAMS=target/release deploy/dev/verify/patroni.sh     builds nothing, and takes the programs there
#
# Every node has a network of its own, plugged into a switch: who is cut off really is, and neither side is told. All of
# that is inside a network that nobody else sees.
set -euo pipefail
cd "$(dirname "$0")/../../.."
# Times have a point in them.
export LC_ALL=C

if [ "${1:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || { echo "FAILED: only root can make networks and cut them" >&2; exit 1; }
    [ -n "${PROGRAMS:-}" ] || cargo build --workspace --locked
    exec unshare --net deploy/dev/verify/patroni.sh inside
fi
program=${PROGRAMS:-$PWD/target/debug}/max-two

. deploy/dev/verify/patroni_cluster.sh
trap finish EXIT
trap 'exit 1' INT TERM

address() { echo "10.23.0.$1"; }
exec_on_node() { exec nsenter --net="/proc/${running[network$1]}/ns/net" "${@:2}"; }

echo "-- three networks, and a switch between them"
has_network() { [ "$(readlink "/proc/${running[network$1]}/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }
ip link set lo up
ip link add switch up type bridge
ip address add 10.23.0.254/24 dev switch
for n in 1 2 3; do
    start "network$n" unshare --net sleep infinity
    until_true has_network "$n"
    ip link add "node$n" up master switch type veth peer name eth0 netns "${running[network$n]}"
    (exec_on_node "$n" ip link set lo up)
    (exec_on_node "$n" ip address add "$(address "$n")/24" dev eth0)
    (exec_on_node "$n" ip link set eth0 up)
done

echo "-- the cluster"
start_cluster
for command in migrate "seed --users 10000"; do
    # shellcheck disable=SC2086 # The command's arguments are words of their own.
    DATABASE_URL=$(url max_two_owner max_two) "$program" worker $command 2>>"$work/setup.log"
done
sql max_two -f deploy/postgres/grants.sql
sql max_two -f deploy/dev/testkit/src/checker/audit.sql
sql max_two -c "create table audit.writes (number integer primary key)"

echo "-- two workers, two replicas, a load balancer"
for n in 1 2; do
    start "worker$n" env DATABASE_URL="$(url max_two_worker max_two)" ADMIN_LISTEN="127.0.0.1:2302$n" \
        SCHEDULE="*/2 * * * * *" COOLDOWN=0s "$program" worker
    start "replica$n" env DATABASE_URL="$(url max_two_api max_two)" ADMIN_LISTEN="127.0.0.1:2303$n" \
        LISTEN="127.0.0.1:2301$n" DRAIN_DELAY=0s "$program" api
done
site=http://127.0.0.1:23010/
start load-balancer env LISTEN=127.0.0.1:23010 REPLICA_1=127.0.0.1:23011 REPLICA_2=127.0.0.1:23012 \
    haproxy -db -f deploy/load-balancer/haproxy.cfg
has_round_since() { [ "$(sql max_two -c "select max(tick_at) > to_timestamp($1) from rounds")" = t ]; }
until_true has_round_since 0
until_true curl -sf "$site"

# A client that asks one question after the other, and notes when it asked, when it was answered, and what.
ask() {
    local asked answer
    while asked=$EPOCHREALTIME; do
        answer=$(curl -s --max-time 10 -w '\t%{http_code}\t%{content_type}' "$site") || true
        printf '%s\t%s\t%s\n' "$asked" "$EPOCHREALTIME" "${answer//$'\n'/ }" >>"$work/answers"
        sleep 0.02
    done
}
# One that writes one number after the other by way of the leader, and notes which were acknowledged, when, and by which
# node. It does not wait for more than two seconds: such a write may be there or not.
write() {
    local number=0 node
    while number=$((number + 1)); do
        if node=$(timeout 2 psql "$(url postgres max_two)" -qAtX \
            -c "insert into audit.writes values ($number) returning host(inet_server_addr())"); then
            printf '%s\t%s\t%s\n' "$number" "$EPOCHREALTIME" "$node" >>"$work/writes"
        fi
        sleep 0.05
    done
}
start asking ask
start writing write
until_true test -s "$work/answers"
until_true test -s "$work/writes"

# Lets something happen to the node that is now primary or sync, undoes it once its condition is met, and waits until all
# is whole again. The time and the load's numbers go to the table.
failure() {
    local name=$1 role=$2 strike=$3 condition=$4 undo=$5 node began met
    node=$(nodes_that_are "$role")
    echo "-- $name: node $node"
    start load wrk -t1 -c32 -d600s --timeout 10s -s deploy/dev/verify/patroni_statuses.lua "$site"
    began=$EPOCHREALTIME
    "$strike" "$node" || fail "$name: it could not be done"
    until_true "$condition" "$node"
    met=$EPOCHREALTIME
    "$undo" "$node"
    until_true is_whole
    until_true has_round_since "$met"
    end INT load || fail "the load ended before its time"
    printf '%s\t%s\t%s\n' "$began" "$name" "$(tail -n 1 "$work/load.log" | tr ' ' '\t')" >>"$work/failures"
}

move() { curl -sf "http://$(address "$1"):$patroni_port/switchover" -d "{\"leader\": \"node$1\"}" >/dev/null; }
kill_postgres() { kill -KILL "$(head -n 1 "$work/node$1/data/postmaster.pid")"; }
kill_node() { kill_postgres "$1"; end KILL "patroni$1" "etcd$1" || true; }
start_node() { start_etcd "$1"; start_patroni "$1"; }
# HAProxy, which is at the switch itself, still reaches it.
part_from_nodes() {
    nft "table bridge cut {
        chain forward { type filter hook forward priority 0; iifname node$1 drop; oifname node$1 drop; }
    }"
}
rejoin_nodes() { nft delete table bridge cut; }
unplug() { ip link set "node$1" nomaster; }
plug_in() { ip link set "node$1" master switch; }
kill_etcd() { end KILL etcd1 etcd2 etcd3 || true; }
start_all_etcd() { for n in 1 2 3; do start_etcd "$n"; done; }

nothing() { :; }
another_writes() { [ "$(tail -n 1 "$work/writes" | cut -f 3)" != "$(address "$1")" ]; }
another_is_sync() { [[ $(nodes_that_are sync) = [!$1] ]]; }
# Its lock has run out long before.
has_seen_no_etcd_for_25_s() {
    local seen
    seen=$(curl -sf "http://$(address "$1"):$patroni_port/patroni" | sed 's/.*"dcs_last_seen": \([0-9]*\).*/\1/')
    [ $((EPOCHSECONDS - seen)) -gt 25 ]
}

failure "switchover" primary move another_writes nothing
failure "Postgres of the leader killed" primary kill_postgres another_writes nothing
failure "node of the leader killed" primary kill_node another_writes start_node
failure "leader cut off from the other nodes" primary part_from_nodes another_writes rejoin_nodes
failure "leader cut off from everybody" primary unplug another_writes plug_in
failure "synchronous standby cut off" sync unplug another_is_sync plug_in
failure "etcd lost" primary kill_etcd has_seen_no_etcd_for_25_s start_all_etcd

echo "-- the end"
end TERM asking writing || true
for name in worker1 worker2 replica1 replica2; do
    end TERM "$name" || fail "$name did not run from the beginning to the end, or did not end well"
done
cd "$work"
sql max_two -v findings="$(<"deploy/dev/testkit/src/checker/findings.sql")" -f "deploy/dev/verify/patroni_report.sql"
[ ! -s complaints ] || { cat complaints >&2; fail "promises were broken"; }
