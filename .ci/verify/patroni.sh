#!/usr/bin/env bash
# Verifies deploy/patroni: two workers and four replicas run over the cluster, under load, while its
# leader is switched over, killed and cut off. No acknowledged write may be lost. Takes three to
# four minutes once built. Needs root, iproute2, nftables, wrk, and what patroni_cluster.sh needs.
#
#     .ci/verify/patroni.sh
#
# Each node has a network namespace of its own, attached to a bridge, so that a node can be cut off
# and neither side gets a FIN or RST. All are inside a network namespace of this script's own.
set -euo pipefail

if [ "${1:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || { echo "FAILED: only root can make network namespaces" >&2; exit 1; }
    (. "$(dirname "$0")/lib.sh" && build)
    exec unshare --net "$0" inside
fi

. "$(dirname "$0")/patroni_cluster.sh"

address() { echo "10.23.0.$1"; }
exec_on_node() { exec nsenter --net="/proc/${running[network$1]}/ns/net" "${@:2}"; }

echo "-- three networks and a bridge"
has_network() { [ "$(readlink "/proc/${running[network$1]}/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }
ip link set lo up
ip link add bridge up type bridge
ip address add 10.23.0.254/24 dev bridge
for n in 1 2 3; do
    start "network$n" unshare --net sleep infinity
    wait_until has_network "$n"
    ip link add "node$n" up master bridge type veth peer name eth0 netns "${running[network$n]}"
    (exec_on_node "$n" ip link set lo up)
    (exec_on_node "$n" ip address add "$(address "$n")/24" dev eth0)
    (exec_on_node "$n" ip link set eth0 up)
done

echo "-- the cluster"
start_cluster
for command in migrate "seed --users 10000"; do
    # shellcheck disable=SC2086 # The command's arguments are words of their own.
    DATABASE_URL=$(url max_two_owner max_two) "$programs/max-two" worker $command 2>>"$work/setup.log"
done
sql max_two -f deploy/postgres/grants.sql
sql max_two -f shared/testkit/src/checker/audit.sql
sql max_two -c "create table audit.writes (number integer primary key)"

echo "-- two workers, four replicas, a load balancer"
for n in 1 2; do
    start "worker$n" env DATABASE_URL="$(url max_two_worker max_two)" ADMIN_LISTEN="127.0.0.1:2302$n" \
        SCHEDULE="*/2 * * * * *" COOLDOWN=0s "$programs/max-two" worker
done
# Two share each port that the load balancer knows.
for n in 1 2 3 4; do
    start "replica$n" env DATABASE_URL="$(url max_two_api max_two)" ADMIN_LISTEN="127.0.0.1:2303$n" \
        LISTEN="127.0.0.1:2301$((1 + n % 2))" REUSE_PORT=true DRAIN_DELAY=0s "$programs/max-two" api
done
site=http://127.0.0.1:23010/
start load-balancer env LISTEN=127.0.0.1:23010 REPLICA_1=127.0.0.1:23011 REPLICA_2=127.0.0.1:23012 \
    haproxy -db -f deploy/load-balancer/haproxy.cfg
has_round_since() { [ "$(sql max_two -c "select max(tick_at) > to_timestamp($1) from rounds")" = t ]; }
wait_until has_round_since 0
wait_until curl -sf "$site"

# A client that sends one query after the other, and records when it sent each, when the response
# came, and the response.
query_and_record() {
    local sent response
    while sent=$EPOCHREALTIME; do
        response=$(curl -s --max-time 10 -w '\t%{http_code}\t%{content_type}' "$site") || true
        printf '%s\t%s\t%s\n' "$sent" "$EPOCHREALTIME" "${response//$'\n'/ }" >>"$work/responses"
        sleep 0.02
    done
}
# A client that writes one number after the other through HAProxy, and records which were
# acknowledged, when, and by which node. A write that takes longer than two seconds counts neither
# as acknowledged nor as lost.
write_and_record() {
    local number=0 node
    while number=$((number + 1)); do
        if node=$(timeout 2 psql "$(url postgres max_two)" -qAtX \
            -c "insert into audit.writes values ($number) returning host(inet_server_addr())"); then
            printf '%s\t%s\t%s\n' "$number" "$EPOCHREALTIME" "$node" >>"$work/writes"
        fi
        sleep 0.05
    done
}
start query-client query_and_record
start write-client write_and_record
wait_until test -s "$work/responses"
wait_until test -s "$work/writes"

# Injects a failure into the node that has this role, waits for the condition, ends the failure with
# the recovery, and waits until the cluster is complete again. All three get the node's number. When
# the failure began and what the load got go to the report's table.
inject() {
    local name=$1 role=$2 failure=$3 condition=$4 recovery=$5 node began met
    node=$(nodes_with_role "$role")
    echo "-- $name: node $node"
    start load wrk -t1 -c32 -d600s --timeout 10s -s .ci/verify/patroni_statuses.lua "$site"
    began=$EPOCHREALTIME
    "$failure" "$node" || fail "$name: could not be injected"
    wait_until "$condition" "$node"
    met=$EPOCHREALTIME
    "$recovery" "$node"
    wait_until is_complete
    wait_until has_round_since "$met"
    end INT load || fail "the load ended too early"
    printf '%s\t%s\t%s\n' "$began" "$name" "$(tail -n 1 "$work/load.log" | tr ' ' '\t')" >>"$work/failures"
}

switch_over() { curl -sf "http://$(address "$1"):$patroni_port/switchover" -d "{\"leader\": \"node$1\"}" >/dev/null; }
kill_postgres() { kill -KILL "$(head -n 1 "$work/node$1/data/postmaster.pid")"; }
kill_node() { kill_postgres "$1"; end KILL "patroni$1" "etcd$1" || true; }
start_node() { start_etcd "$1"; start_patroni "$1"; }
# HAProxy is on the bridge itself, so it keeps its connection to the node.
cut_off_from_nodes() {
    nft "table bridge cut {
        chain forward { type filter hook forward priority 0; iifname node$1 drop; oifname node$1 drop; }
    }"
}
reconnect_nodes() { nft delete table bridge cut; }
detach() { ip link set "node$1" nomaster; }
attach() { ip link set "node$1" master bridge; }
kill_etcd() { end KILL etcd1 etcd2 etcd3 || true; }
start_all_etcd() { for n in 1 2 3; do start_etcd "$n"; done; }
no_recovery() { :; }

another_node_writes() { [ "$(tail -n 1 "$work/writes" | cut -f 3)" != "$(address "$1")" ]; }
another_node_is_sync() { [[ $(nodes_with_role sync) = [!$1] ]]; }
# By then the lock of the leader has long expired.
has_seen_no_etcd_for_25_s() {
    local seen
    seen=$(curl -sf "http://$(address "$1"):$patroni_port/patroni" | sed 's/.*"dcs_last_seen": \([0-9]*\).*/\1/')
    [ $((EPOCHSECONDS - seen)) -gt 25 ]
}

inject "switchover" primary switch_over another_node_writes no_recovery
inject "Postgres of the leader killed" primary kill_postgres another_node_writes no_recovery
inject "node of the leader killed" primary kill_node another_node_writes start_node
inject "leader cut off from the other nodes" primary cut_off_from_nodes another_node_writes reconnect_nodes
inject "leader cut off from all" primary detach another_node_writes attach
inject "synchronous standby cut off" sync detach another_node_is_sync attach
inject "etcd lost" primary kill_etcd has_seen_no_etcd_for_25_s start_all_etcd

echo "-- the report"
end TERM query-client write-client || true
for name in worker1 worker2 replica1 replica2 replica3 replica4; do
    end TERM "$name" || fail "$name ended too early or exited with a failure"
done
findings=$(<shared/testkit/src/checker/findings.sql)
report_sql=$PWD/.ci/verify/patroni_report.sql
cd "$work"
sql max_two -v findings="$findings" -f "$report_sql"
[ ! -s violations ] || { cat violations >&2; fail "promises were broken"; }
