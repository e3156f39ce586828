#!/usr/bin/env bash
# The units, as systemd reads them: verified, rated by what they may still do, and then run for real, by a systemd that
# is booted for it, in a container over this machine's own /usr, with a network of its own.
# Takes half a minute once built. Needs root or sudo, curl, postgresql, systemd and systemd-container.
#
#     deploy/dev/verify/systemd.sh          PROGRAMS=target/release: the programs there, instead of a build
set -euo pipefail
cd "$(dirname "$0")/../../.."

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

if [ -z "${PROGRAMS:-}" ]; then
    echo "-- building"
    cargo build --workspace --locked
fi

work=$(mktemp -d)
trap 'as_root rm -rf "$work"' EXIT
chmod 755 "$work"
units=$work/etc/systemd/system
programs=$work/usr/local/bin
mkdir -p "$units" "$programs" "$work/usr/lib"
cp -r deploy/systemd/max-two-* "$units"
cp "${PROGRAMS:-target/debug}"/max-two{,-api,-worker} "$programs"

echo "-- systemd-analyze"
# What the units order themselves by.
cp -r /usr/lib/systemd "$work/usr/lib"
ln -s usr/lib "$work/lib"
# It exits with 0 also after a word that it does not know.
complaints=$(systemd-analyze --root="$work" verify max-two-api.socket max-two-{api,worker}.service 2>&1) || true
if [ -n "$complaints" ]; then
    echo "FAILED: $complaints" >&2
    exit 1
fi
for service in max-two-api max-two-worker; do
    # Of 100; a service without any protection has 96.
    systemd-analyze --root="$work" security --offline=true --threshold=15 --no-pager $service.service >"$work/rating" ||
        { cat "$work/rating"; echo "FAILED: $service may do too much" >&2; exit 1; }
    tail -n 1 "$work/rating"
done

echo "-- systemd itself"
cat >"$units/verify.service" <<'UNIT'
[Unit]
SuccessAction=exit
FailureAction=exit

[Service]
Type=oneshot
ExecStart=/bin/bash /verify/inside
StandardOutput=file:/verify/out
StandardError=inherit
TimeoutStartSec=3min
UNIT
cat >"$work/inside" <<'INSIDE'
set -euo pipefail
trap 'journalctl --no-pager -o cat -u "max-two-*" | tail -n 30; echo "FAILED: line $LINENO of what ran inside"' ERR
# Waits, at most half a minute, until a command succeeds.
until_true() {
    local tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { echo "never came true: $*"; return 1; }
        sleep 0.1
    done
}
query() { curl -sf http://127.0.0.1:4000/; }

max-two --listen 127.0.0.1:0 --replicas 1 --users 1000 --data-dir /tmp/max-two >/tmp/launcher 2>&1 &
until_true grep "Its database" /tmp/launcher
database=$(sed -n 's/^Its database: //p' /tmp/launcher)
mkdir /etc/max-two
umask 077
for role in worker api; do echo "${database/max_two_owner/max_two_$role}" >"/etc/max-two/$role.url"; done

systemctl start max-two-api.socket max-two-worker.service
[ "$(systemctl show -P ActiveState max-two-api.service)" = inactive ]
# The first connection starts the replica.
until_true query
curl -sf http://127.0.0.1:9000/metrics | grep '^max_two_api_responses_total{status="200"}' >/dev/null
until_true curl -sf http://127.0.0.1:9001/readyz
echo "both sockets are handed over, in their order; the worker is ready"

for service in max-two-api max-two-worker; do
    status=/proc/$(systemctl show -P MainPID $service)/status
    grep -qP '^Seccomp:\t2' "$status"
    grep -qP '^CapBnd:\t0+$' "$status"
    grep -qP '^Uid:\t[1-9]' "$status"
done
echo "both run without root's rights, under a filter of system calls"

touch /tmp/asking
while [ -e /tmp/asking ]; do
    # Whatever the status is, it was neither refused nor cut off.
    curl -s -o /dev/null http://127.0.0.1:4000/
    echo answered
done >/tmp/answers &
asking=$!
systemctl restart max-two-api
rm /tmp/asking
wait "$asking"
echo "a restart under $(wc -l </tmp/answers) queries, each with a connection of its own: all were answered"

for service in max-two-api max-two-worker; do systemctl kill --kill-whom=main --signal=KILL $service; done
until_true curl -sf http://127.0.0.1:9001/readyz
until_true query
for service in max-two-api max-two-worker; do [ "$(systemctl show -P NRestarts $service)" = 1 ]; done
echo "both are started again after a crash"
INSIDE
as_root systemd-nspawn --quiet --register=no --keep-unit --private-network --volatile=yes --directory=/ \
    --machine=max-two-$$ --bind-ro=/etc/passwd --bind-ro=/etc/group --bind="$work:/verify" \
    --bind-ro="$units:/etc/systemd/system" --bind-ro="$programs:/usr/local/bin" \
    --boot systemd.unit=verify.service systemd.firstboot=no </dev/null >"$work/console" 2>&1 ||
    { cat "$work/out" || cat "$work/console"; exit 1; } >&2
cat "$work/out"
