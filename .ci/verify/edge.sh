#!/usr/bin/env bash
# Verifies a replica's HTTP side with public tools: schemathesis, slowhttptest, and rolling restarts
# behind HAProxy under wrk. Takes about four minutes once built. Needs curl, haproxy, postgresql,
# python3-venv, slowhttptest and wrk.
#
#     .ci/verify/edge.sh [RESTARTS]      20 restarts by default
. "$(dirname "$0")/lib.sh"
restarts=${1:-20}
url=http://127.0.0.1:4171

build

echo "-- a database"
start_launcher --users 10000

start_replica() {
    start "replica$1" env DATABASE_URL="$(database_url api)" LISTEN="127.0.0.1:417$1" ADMIN_LISTEN="127.0.0.1:418$1" \
        DRAIN_DELAY=1s IDLE_TIMEOUT=5s "$programs/max-two" api
    wait_until curl -sf "http://127.0.0.1:417$1/readyz"
}
start_replica 1

echo "-- schemathesis: all kinds of requests against the OpenAPI description"
install_python_packages 'schemathesis>=4,<5'
(cd "$work" && venv/bin/schemathesis run "$url/openapi.json" --checks all --max-examples 150 --seed 1 \
    >schemathesis.log 2>&1) || { cat "$work/schemathesis.log"; fail "schemathesis"; }
report "schemathesis" "$(grep -E 'Test cases:|[0-9]+ generated' "$work/schemathesis.log" | tail -n 1 | xargs)"

# Queries again and again while process $1 runs; every query must succeed.
query_while_running() {
    local queries=0
    while kill -0 "$1" 2>/dev/null; do
        queries=$((queries + 1))
        curl -sf --max-time 5 "$url/" >/dev/null || fail "query $queries of the well-behaved client failed"
    done
    echo "$queries" >"$work/queries"
}

open_connections() {
    local open
    open=$(curl -sf http://127.0.0.1:4181/metrics | sed -n 's/^max_two_api_connections //p')
    # Without a response, the caller must not take the connections for closed.
    echo "${open:-100000}"
}
# Makes attack $1 with 1,000 connections, opened within two seconds and held for 20 if the replica
# allows it. At least $2 of them must have been open at a time, and the replica must have closed
# them by second 12. The replica's metric counts them: a slow reader of slowhttptest still has
# responses in its kernel's buffer, and counts itself connected until it has read them.
attack() {
    local name=$1 least=$2 began=$SECONDS most=0 open
    shift 2
    start "$name" slowhttptest "$@" -c 1000 -r 500 -l 20 -p 3 -u "$url/"
    start well-behaved query_while_running "${running[$name]}"
    # All connections have been opened by second 3.
    while open=$(open_connections) && [ $((SECONDS - began)) -lt 3 ] || [ "$open" -gt 10 ]; do
        [ "$open" -le "$most" ] || most=$open
        [ $((SECONDS - began)) -le 12 ] || fail "slowhttptest $name: $open connections are open after 12 s"
        sleep 0.2
    done
    [ "$most" -ge "$least" ] || fail "slowhttptest $name: only $most connections at a time, too few for an attack"
    report "slowhttptest $name" "at most $most connections at a time, all closed by second $((SECONDS - began))"
    join "$name" || true
    join well-behaved || fail "a query failed during slowhttptest $name"
    report "well-behaved client meanwhile" "all $(cat "$work/queries") queries succeeded"
}
echo "-- slowhttptest: slow headers, slow bodies, slow readers"
attack headers 900 -H -i 2
# A body is refused at once, so these connections are short.
attack bodies 0 -B -i 2 -s 8192
attack readers 900 -X -w 10 -y 20 -n 2 -z 5 -k 3
report "peak memory of the replica" "$(sed -n 's/^VmHWM:[[:space:]]*//p' /proc/"${running[replica1]}"/status)"

echo "-- $restarts rolling restarts of two replicas behind HAProxy"
start_replica 2
start haproxy env LISTEN=127.0.0.1:4190 REPLICA_1=127.0.0.1:4171 REPLICA_2=127.0.0.1:4172 \
    ADMIN_LISTEN=127.0.0.1:4191 haproxy -db -f deploy/load-balancer/haproxy.cfg
has_both_replicas() {
    [ "$(curl -sf http://127.0.0.1:4191/metrics |
        grep -c '^haproxy_server_status{proxy="replicas",.*,state="UP"} 1$')" = 2 ]
}
wait_until has_both_replicas
start load wrk -t1 -c32 -d600s http://127.0.0.1:4190/
for ((number = 0; number < restarts; number++)); do
    replica=$((number % 2 + 1))
    end TERM "replica$replica" || fail "replica $replica exited with a failure"
    start_replica "$replica"
    wait_until has_both_replicas
done
end INT load || fail "the load ended too early"
cat "$work/load.log"
! grep -qE "Socket errors|Non-2xx" "$work/load.log" || fail "requests failed during rolling restarts"
grep -qE "[1-9][0-9]* requests in" "$work/load.log" || fail "there was no load"
report "$restarts rolling restarts" "$(grep -oE '[0-9]+ requests' "$work/load.log"), none failed"

print_summary
