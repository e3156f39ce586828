#!/usr/bin/env bash
# Verifies a replica's HTTP side and deploy/load-balancer with public tools: schemathesis, and rolling
# restarts behind HAProxy under wrk. Takes three minutes once built. Needs curl, haproxy,
# postgresql, python3-venv and wrk.
#
#     .ci/verify/edge.sh [RESTARTS]      20 restarts by default
. "$(dirname "$0")/lib.sh"
restarts=${1:-20}
connections=32

build
start_launcher --users 1000
start_replica() {
    start "replica$1" env DATABASE_URL="$(database_url api)" LISTEN="127.0.0.1:417$1" ADMIN_LISTEN="127.0.0.1:418$1" \
        DRAIN_DELAY=1s "$programs/max-two-api"
    wait_until curl -sf "http://127.0.0.1:417$1/readyz"
}
start_replica 1

echo "-- schemathesis: all kinds of requests against the OpenAPI description"
install_python_packages schemathesis 'schemathesis>=4,<5'
(cd "$work" && schemathesis run http://127.0.0.1:4171/openapi.json --checks all --max-examples 150 --seed 1 \
    >schemathesis.log 2>&1) || { cat "$work/schemathesis.log"; fail "schemathesis"; }
grep -E '[0-9]+ generated' "$work/schemathesis.log"

echo "-- $restarts rolling restarts of two replicas behind HAProxy"
start_replica 2
start haproxy env LISTEN=127.0.0.1:4190 REPLICA_1=127.0.0.1:4171 REPLICA_2=127.0.0.1:4172 \
    ADMIN_LISTEN=127.0.0.1:4191 haproxy -db -f deploy/load-balancer/haproxy.cfg
# The sum of HAProxy's metrics whose lines match a pattern.
haproxy_sum() { curl -sf http://127.0.0.1:4191/metrics | awk -v pattern="$1" '$0 ~ pattern { sum += $2 } END { print sum + 0 }'; }
has_both_replicas() { [ "$(haproxy_sum '^haproxy_server_status{proxy="replicas",.*,state="UP"}')" = 2 ]; }
wait_until has_both_replicas
start load wrk -t1 -c"$connections" -d600s http://127.0.0.1:4190/
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
# HAProxy sends a request again if a connection fails. It must not hide that replicas lose them.
retried=$(haproxy_sum '^haproxy_backend_(retry|redispatch)_warnings_total{proxy="replicas"}')
[ "$retried" -lt $((connections / 2)) ] || fail "HAProxy had to send $retried requests again"
echo "no request failed, $retried were sent again"
