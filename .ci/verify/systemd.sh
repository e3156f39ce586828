#!/usr/bin/env bash
# Verifies deploy/systemd: checks the units with systemd-analyze, then boots a systemd in a
# container over this machine's /usr, with a network of its own, and starts, restarts and kills the
# services there. Takes half a minute once built. Needs root or sudo, curl, postgresql, systemd and
# systemd-container.
#
#     .ci/verify/systemd.sh
. "$(dirname "$0")/lib.sh"

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

build

units=$work/etc/systemd/system
binaries=$work/usr/local/bin
mkdir -p "$units" "$binaries" "$work/usr/lib"
cp -r deploy/systemd/max-two-* "$units"
cp "$programs"/max-two{,-api,-worker} "$binaries"

echo "-- systemd-analyze"
# Our units refer to systemd's own.
cp -r /usr/lib/systemd "$work/usr/lib"
ln -s usr/lib "$work/lib"
# It exits with 0 even if it doesn't know a setting.
warnings=$(systemd-analyze --root="$work" verify max-two-api{,-admin}.socket max-two-{api,worker}.service 2>&1) || true
[ -z "$warnings" ] || fail "$warnings"
for service in max-two-api max-two-worker; do
    # The exposure, of at most 100; a service without any protection has 96.
    systemd-analyze --root="$work" security --offline=true --threshold=15 --no-pager $service.service >"$work/rating" ||
        { cat "$work/rating"; fail "$service has too many rights"; }
    tail -n 1 "$work/rating"
done

echo "-- in a container with a systemd of its own"
cp .ci/verify/lib.sh "$work"
cat >"$units/verify.service" <<'UNIT'
[Unit]
SuccessAction=exit
FailureAction=exit

[Service]
Type=oneshot
ExecStart=/bin/bash /verify/inside.sh
StandardOutput=file:/verify/inside.out
StandardError=inherit
TimeoutStartSec=3min
UNIT
cat >"$work/inside.sh" <<'INSIDE'
PROGRAMS=/usr/local/bin
. /verify/lib.sh
show_logs() { journalctl --no-pager -o cat -u "max-two-*" | tail -n 30; }
trap 'echo "FAILED: line $LINENO of inside.sh"' ERR

start_launcher --users 1000
mkdir /etc/max-two
(
    umask 077
    for role in worker api; do database_url $role >"/etc/max-two/$role.url"; done
)

systemctl start max-two-api.socket max-two-api-admin.socket max-two-worker.service
[ "$(systemctl show -P ActiveState max-two-api.service)" = inactive ]
# The first connection starts the replica.
query() { curl -sf http://127.0.0.1:4000/; }
wait_until query
curl -sf http://127.0.0.1:9000/metrics | grep '^max_two_api_responses_total{status="200"}' >/dev/null
wait_until curl -sf http://127.0.0.1:9001/readyz
[ "$(curl -s -o /dev/null -w "%{http_code}" http://127.0.0.1:4000/metrics)" = 404 ]
curl -sf http://[::1]:4000/ >/dev/null
echo "the replica serves each socket by its name, IPv6 and IPv4; the worker is ready"

systemd-run --quiet --unit=without-ipv6 --property="RestrictAddressFamilies=AF_UNIX AF_INET" \
    --setenv=DATABASE_URL_FILE=/etc/max-two/worker.url --setenv=ADMIN_LISTEN=[::]:9002 /usr/local/bin/max-two-worker
wait_until curl -sf http://127.0.0.1:9002/readyz
echo "where there is no IPv6, [::] is IPv4 alone"

for service in max-two-api max-two-worker; do
    status=/proc/$(systemctl show -P MainPID $service)/status
    grep -qP '^Seccomp:\t2' "$status"
    grep -qP '^CapBnd:\t0+$' "$status"
    grep -qP '^Uid:\t[1-9]' "$status"
done
echo "both run without root's rights, under a system call filter"

query_while_file_exists() {
    while [ -e "$work/restarting" ]; do
        # Any status will do: the connection was neither refused nor closed.
        curl -s -o /dev/null http://127.0.0.1:4000/
        echo "got a response"
    done
}
touch "$work/restarting"
start queries query_while_file_exists
systemctl restart max-two-api
rm "$work/restarting"
join queries
echo "$(wc -l <"$work/queries.log") queries during a restart, each over a connection of its own: all got a response"

for service in max-two-api max-two-worker; do systemctl kill --kill-whom=main --signal=KILL $service; done
wait_until curl -sf http://127.0.0.1:9001/readyz
wait_until query
for service in max-two-api max-two-worker; do [ "$(systemctl show -P NRestarts $service)" = 1 ]; done
echo "both are started again after a crash"
INSIDE
as_root systemd-nspawn --quiet --register=no --keep-unit --private-network --volatile=yes --directory=/ \
    --machine=max-two-$$ --bind-ro=/etc/passwd --bind-ro=/etc/group --bind="$work:/verify" \
    --bind-ro="$units:/etc/systemd/system" --bind-ro="$binaries:/usr/local/bin" \
    --boot systemd.unit=verify.service systemd.firstboot=no </dev/null >"$work/console" 2>&1 ||
    { cat "$work/inside.out" || cat "$work/console"; fail "see above"; } >&2
cat "$work/inside.out"
