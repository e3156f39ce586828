#!/usr/bin/env bash
# Rules, dashboard and runbook against each other and against what the programs really export: a Prometheus scrapes a
# replica, a worker, and a replica that is cut off from the database; then one after the other is ended.
# Takes a minute once built; what it starts ends with it. Needs curl, jq, postgresql and prometheus (with promtool).
#
#     deploy/dev/verify/monitoring.sh       PROGRAMS=target/release: the programs there, instead of a build
set -euo pipefail
cd "$(dirname "$0")/../../.."

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

# Ends a process that was started here, and takes it off the list, for its id may become another's.
end() {
    local process left=()
    kill "$1"
    wait "$1" || true
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

echo "-- rules and their tests, the configuration, the dashboard's form"
promtool check config deploy/monitoring/prometheus.yaml
promtool test rules deploy/dev/verify/monitoring_rules.test.yaml
jq --indent 2 . deploy/monitoring/dashboard.json | diff - deploy/monitoring/dashboard.json

if [ -z "${PROGRAMS:-}" ]; then
    echo "-- building"
    cargo build --workspace --locked
fi
program=${PROGRAMS:-target/debug}/max-two

echo "-- a database, with users and a round, from the launcher"
LISTEN=127.0.0.1:0 "$program" --replicas 1 --users 1000 --data-dir "$work/data" \
    >"$work/launcher.out" 2>"$work/launcher.log" &
started+=($!)
until_true grep -q "Its database" "$work/launcher.out"
database=$(sed -n 's/^Its database: //p' "$work/launcher.out")

echo "-- what Prometheus is to scrape"
# A round each second, so that there is something to see soon.
DATABASE_URL=${database/max_two_owner/max_two_worker} ADMIN_LISTEN=127.0.0.1:24020 SCHEDULE="* * * * * *" \
    "$program" worker 2>"$work/worker.log" &
worker=$!
started+=("$worker")
DATABASE_URL=${database/max_two_owner/max_two_api} LISTEN=127.0.0.1:24021 ADMIN_LISTEN=127.0.0.1:24022 DRAIN_DELAY=0s \
    "$program" api 2>"$work/replica.log" &
replica=$!
started+=("$replica")
# Nobody listens on port 1.
DATABASE_URL=postgres://max_two_api@127.0.0.1:1/max_two LISTEN=127.0.0.1:24023 ADMIN_LISTEN=127.0.0.1:24024 \
    DRAIN_DELAY=0s "$program" api 2>"$work/cut-off.log" &
cut_off=$!
started+=("$cut_off")
until_true curl -sf http://127.0.0.1:24020/readyz
until_true curl -sf http://127.0.0.1:24021/readyz
until_true curl -sf http://127.0.0.1:24023/livez

# Queries go to both, so that some fail.
ask() { while true; do curl -s http://127.0.0.1:24021/ http://127.0.0.1:24023/ || true; sleep 0.2; done; }
ask >/dev/null &
started+=($!)

echo "-- Prometheus, by the configuration here, but for the addresses and the time between two looks"
cp deploy/monitoring/rules.yaml "$work"
sed -e 's/: 15s$/: 1s/' -e 's/dns_sd_configs/static_configs/' \
    -e 's/- {names: \[api\].*/- {targets: ["127.0.0.1:24022", "127.0.0.1:24024"]}/' \
    -e 's/- {names: \[worker\].*/- {targets: ["127.0.0.1:24020"]}/' -e 's/- {names: .*/- {targets: []}/' \
    deploy/monitoring/prometheus.yaml >"$work/prometheus.yaml"
prometheus --config.file="$work/prometheus.yaml" --storage.tsdb.path="$work/tsdb" \
    --web.listen-address=127.0.0.1:24025 2>"$work/prometheus.log" &
started+=($!)
prometheus=http://127.0.0.1:24025
until_true curl -sf "$prometheus/-/ready"

# Whether a query has a result that is a number.
has_result() { promtool query instant "$prometheus" "$1" | grep -qE '=> -?[0-9]'; }

# All three, and what they exported is there.
until_true has_result 'sum(up) == 3'

echo "-- every query of the dashboard"
queries=0
while IFS= read -r query; do
    # Grafana puts the time of a few scrapes in the place of its variable.
    query=${query//\$__rate_interval/1m}
    until_true has_result "$query"
    queries=$((queries + 1))
done < <(jq -r '.panels[].targets[].expr' deploy/monitoring/dashboard.json)
[ "$queries" -gt 0 ] || fail "the dashboard has no query"

echo "-- every name in the rules and their tests"
curl -sf "$prometheus/api/v1/label/__name__/values" | jq -r '.data[]' | sort >"$work/exported"
grep -ohE '\bmax_?two_\w+' deploy/monitoring/rules.yaml deploy/dev/verify/monitoring_rules.test.yaml | sort -u >"$work/used"
unknown=$(comm -23 "$work/used" "$work/exported")
[ -z "$unknown" ] || fail "nobody exports $unknown"

echo "-- every alert has its section in the runbook, and every section its alert"
alerts() { curl -sf "$prometheus/api/v1/rules?type=alert" | jq -r ".data.groups[].rules[] | $1"; }
alerts '.name + " " + .annotations.runbook' | sort >"$work/alerts"
sed -n 's/^### \(MaxTwo.*\)/\1 deploy\/RUNBOOK.md#\L\1/p' deploy/RUNBOOK.md | sort | diff - "$work/alerts" ||
    fail "the runbook's sections are not those of the alerts"

# Whether an alert's condition holds; its time need not be over.
pending() { alerts 'select(.state != "inactive") | .name' | grep -qx "$1"; }
seen=()
expect() { for alert in "$@"; do until_true pending "$alert"; seen+=("$alert"); done; }
echo "-- alerts, brought about"
expect MaxTwoReplicaCutOff MaxTwoErrors
end "$replica"
expect MaxTwoDatabaseAway MaxTwoDown
end "$worker"
expect MaxTwoNoRounds
end "$cut_off"
expect MaxTwoNoReplica
broken=$(alerts 'select(.health != "ok") | .name')
[ -z "$broken" ] || fail "rules that can't be evaluated: $broken"

echo "== What was seen"
echo "the dashboard: $queries queries, each with a result"
echo "the rules: $(wc -l <"$work/alerts") alerts, each with its section; $(wc -l <"$work/used") names, all exported"
echo "brought about: ${seen[*]}"
