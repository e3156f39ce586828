#!/usr/bin/env bash
# The edge of a replica under the tools of others: schemathesis, slowhttptest, and a load balancer with rolling restarts.
# Takes about four minutes; what it starts ends with it. Needs haproxy, slowhttptest, wrk and python3-venv.
#
#     deploy/dev/verify/edge.sh [RESTARTS]      20 restarts by default
set -euo pipefail
cd "$(dirname "$0")/../../.."
restarts=${1:-20}

work=$(mktemp -d)
chmod 755 "$work"
started=()
finish() {
    for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
    wait || true
    rm -rf "$work"
}
trap finish EXIT

fail() { echo "FAILED: $*" >&2; tail -n 5 "$work"/*.log >&2 || true; exit 1; }

# Takes a process that has ended off the list, for its id may become another's.
forget() {
    local process left=()
    for process in "${started[@]}"; do [ "$process" = "$1" ] || left+=("$process"); done
    started=("${left[@]}")
}

# Waits, at most a minute, until a command succeeds.
until_true() {
    local tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || fail "never came true: $*"
        sleep 0.1
    done
}

figures=()
say() { echo "$*"; figures+=("$*"); }

echo "-- building"
cargo build --workspace --locked
program=$PWD/target/debug/max-two

echo "-- a database, with users and a round, from the launcher"
LISTEN=127.0.0.1:0 "$program" --replicas 1 --users 10000 --data-dir "$work/data" >"$work/launcher.out" 2>"$work/launcher.log" &
started+=($!)
until_true grep -q "Its database" "$work/launcher.out"
database=$(sed -n 's/^Its database: //p' "$work/launcher.out" | sed 's/max_two_owner/max_two_api/')

# Starts replica number $1 on its ports; its process id is left in $replica.
start_replica() {
    DATABASE_URL=$database LISTEN=127.0.0.1:$((4170 + $1)) ADMIN_LISTEN=127.0.0.1:$((4180 + $1)) \
        DRAIN_DELAY=1s IDLE_TIMEOUT=5s "$program" api 2>>"$work/replica$1.log" &
    replica=$!
    until_true curl -sf "http://127.0.0.1:$((4170 + $1))/readyz"
}
start_replica 1
one=$replica
started+=("$one")
url=http://127.0.0.1:4171

echo "-- schemathesis: requests of all kinds against the description"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'schemathesis>=4,<5'
(cd "$work" && "$work/venv/bin/schemathesis" run "$url/openapi.json" --checks all --max-examples 150 --seed 1 \
    >"$work/schemathesis.log" 2>&1) || { cat "$work/schemathesis.log"; fail "schemathesis"; }
say "schemathesis: $(grep -E 'Test cases:|[0-9]+ generated' "$work/schemathesis.log" | tail -n 1 | xargs)"

# Asks again and again while a process runs, and expects an answer each time.
good_clients() {
    local asked=0
    while kill -0 "$1" 2>/dev/null; do
        asked=$((asked + 1))
        curl -sf --max-time 5 "$url/" >/dev/null || fail "good client number $asked got no answer"
    done
    echo "$asked" >"$work/asked"
}

# How many connections the replica has open.
connections() {
    local open
    open=$(curl -sf http://127.0.0.1:4181/metrics | sed -n 's/^max_two_api_connections //p')
    echo "${open:-100000}"
}
# A body is refused at once, so that such connections are hardly ever seen.
#
# Attacks with 1,000 connections, opened within two seconds and held for 20 if the replica lets them, and expects that it
# has ended them all by second 12. It asks the replica: a slow reader has whole answers in its own kernel's buffer, and
# thinks itself connected until it has read them.
attack() {
    local name=$1 least=$2
    shift 2
    slowhttptest "$@" -c 1000 -r 500 -l 20 -p 3 -u "$url/" >"$work/$name.log" 2>&1 &
    local attacker=$! began=$SECONDS most=0 now
    good_clients "$attacker" &
    local clients=$!
    # All have been opened by second 3.
    while now=$(connections) && [ $((SECONDS - began)) -lt 3 ] || [ "$now" -gt 10 ]; do
        [ "$now" -le "$most" ] || most=$now
        [ $((SECONDS - began)) -le 12 ] || fail "slowhttptest $name: $now connections are open after 12 s"
        sleep 0.2
    done
    [ "$most" -ge "$least" ] || fail "slowhttptest $name: only $most connections at a time: that was no attack"
    say "slowhttptest $name: $most connections at a time at most, all ended by second $((SECONDS - began))"
    wait "$attacker" || true
    wait "$clients"
    say "slowhttptest $name: good clients got an answer to each of $(cat "$work/asked") requests"
}
echo "-- slowhttptest: slow headers, slow bodies, slow readers"
attack headers 900 -H -i 2
attack bodies 0 -B -i 2 -s 8192
attack readers 900 -X -w 10 -y 20 -n 2 -z 5 -k 3
say "memory of the replica at its peak: $(sed -n 's/^VmHWM:[[:space:]]*//p' /proc/"$one"/status)"

echo "-- $restarts rolling restarts of two replicas behind HAProxy"
start_replica 2
two=$replica
started+=("$two")
LISTEN=127.0.0.1:4190 REPLICA_1=127.0.0.1:4171 REPLICA_2=127.0.0.1:4172 \
    haproxy -db -f deploy/load-balancer/haproxy.cfg 2>"$work/haproxy.log" &
started+=($!)
until_true curl -sf http://127.0.0.1:4190/
wrk -t1 -c32 -d600s http://127.0.0.1:4190/ >"$work/wrk.log" 2>&1 &
load=$!
started+=("$load")
for ((number = 1; number <= restarts; number++)); do
    if ((number % 2)); then process=$one; else process=$two; fi
    kill -TERM "$process"
    wait "$process" || fail "a replica did not end well"
    forget "$process"
    start_replica $((2 - number % 2))
    started+=("$replica")
    if ((number % 2)); then one=$replica; else two=$replica; fi
    # The other one may go only when the load balancer has seen this one.
    sleep 0.5
done
kill -INT "$load"
wait "$load" || true
cat "$work/wrk.log"
! grep -qE "Socket errors|Non-2xx" "$work/wrk.log" || fail "requests failed during rolling restarts"
grep -qE "[1-9][0-9]* requests in" "$work/wrk.log" || fail "there was no load"
say "rolling restarts: $restarts, with $(grep -oE '[0-9]+ requests' "$work/wrk.log"), none failed"

echo "== What was seen"
printf '%s\n' "${figures[@]}"
