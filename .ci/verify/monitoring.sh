#!/usr/bin/env bash
# Verifies that deploy/monitoring, the runbook's sections and the exported metrics fit together:
# every alert has a test and a section, every metric in use is exported, every query of the
# dashboard has a result. A Prometheus scrapes a worker, a replica, and a replica without a
# database; then they are stopped, and alerts must fire. Takes a minute once built. Needs curl, jq,
# postgresql, prometheus (with promtool) and python3-venv.
#
#     .ci/verify/monitoring.sh
. "$(dirname "$0")/lib.sh"
tests=.ci/verify/monitoring_rules.test.yaml

echo "-- rules and their tests, Prometheus' configuration, the dashboard's format"
promtool check config deploy/monitoring/prometheus.yaml
promtool test rules $tests
install_python_packages monitoring pyyaml==6.0.3
python3 - deploy/monitoring/rules.yaml $tests <<'PYTHON' || fail "alerts lack a test in $tests"
import sys

import yaml

rules, tests = (yaml.safe_load(open(file)) for file in sys.argv[1:])
cases = [case for test in tests["tests"] for case in test["alert_rule_test"]]
fires = {case["alertname"] for case in cases if case["exp_alerts"]}
silent = {case["alertname"] for case in cases if not case["exp_alerts"]}
alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
missing = [f"{alert}: no test in which it fires" for alert in alerts if alert not in fires]
missing += [f"{alert}: no test in which it does not fire" for alert in alerts if alert not in silent]
sys.exit("\n".join(missing) or None)
PYTHON
jq --indent 2 . deploy/monitoring/dashboard.json | diff - deploy/monitoring/dashboard.json

build

echo "-- a database"
start_launcher --users 1000

echo "-- a worker, a replica, and a replica without a database"
# A round each second, so that Prometheus soon sees some.
start worker env DATABASE_URL="$(database_url worker)" ADMIN_LISTEN=127.0.0.1:24020 SCHEDULE="* * * * * *" \
    "$programs/max-two-worker"
start replica env DATABASE_URL="$(database_url api)" LISTEN=127.0.0.1:24021 ADMIN_LISTEN=127.0.0.1:24022 \
    DRAIN_DELAY=0s "$programs/max-two-api"
# No process listens on port 1.
start replica-without-database env DATABASE_URL=postgres://max_two_api@127.0.0.1:1/max_two \
    LISTEN=127.0.0.1:24023 ADMIN_LISTEN=127.0.0.1:24024 DRAIN_DELAY=0s "$programs/max-two-api"
wait_until curl -sf http://127.0.0.1:24020/readyz
wait_until curl -sf http://127.0.0.1:24021/readyz
wait_until curl -sf http://127.0.0.1:24023/livez

echo "-- the text for scrapers that do not ask for OpenMetrics"
for port in 24020 24022; do curl -sf http://127.0.0.1:$port/metrics | promtool check metrics; done

query_both() { while true; do curl -s http://127.0.0.1:24021/ http://127.0.0.1:24023/ || true; sleep 0.2; done; }
start queries query_both

echo "-- Prometheus with deploy/monitoring/prometheus.yaml, but for targets and intervals"
cp deploy/monitoring/rules.yaml "$work"
sed -e 's/: 15s$/: 1s/' -e 's/dns_sd_configs/static_configs/' \
    -e 's/- {names: \[api\].*/- {targets: ["127.0.0.1:24022", "127.0.0.1:24024"]}/' \
    -e 's/- {names: \[worker\].*/- {targets: ["127.0.0.1:24020"]}/' -e 's/- {names: .*/- {targets: []}/' \
    deploy/monitoring/prometheus.yaml >"$work/prometheus.yaml"
start prometheus prometheus --config.file="$work/prometheus.yaml" --storage.tsdb.path="$work/tsdb" \
    --web.listen-address=127.0.0.1:24025
prometheus=http://127.0.0.1:24025
wait_until curl -sf "$prometheus/-/ready"

# Whether a query has a result that is a number.
has_result() { promtool query instant "$prometheus" "$1" | grep -qE '=> -?[0-9]'; }
wait_until has_result 'sum(up) == 3'

echo "-- the dashboard's queries"
jq -er '.panels[].targets[].expr' deploy/monitoring/dashboard.json >"$work/queries"
while IFS= read -r query; do
    # Grafana replaces its variable by the time of a few scrapes.
    wait_until has_result "${query//\$__rate_interval/1m}"
done <"$work/queries"

echo "-- the metrics in the rules and their tests"
curl -sf "$prometheus/api/v1/label/__name__/values" | jq -r '.data[]' | sort >"$work/exported"
grep -ohE '\bmax_?two_\w+' deploy/monitoring/rules.yaml $tests | sort -u >"$work/used"
unknown=$(comm -23 "$work/used" "$work/exported" | paste -sd' ')
[ -z "$unknown" ] || fail "no program exports $unknown"

echo "-- the runbook's sections"
alerts() { curl -sf "$prometheus/api/v1/rules?type=alert" | jq -r ".data.groups[].rules[] | $1"; }
alerts '.name + " " + .annotations.runbook' | sort >"$work/alerts"
sed -n 's/^### \(MaxTwo.*\)/\1 deploy\/RUNBOOK.md#\L\1/p' deploy/RUNBOOK.md | sort | diff - "$work/alerts" ||
    fail "the sections of deploy/RUNBOOK.md are not those of the alerts"

# Whether an alert's condition holds. It need not have held for as long as the rule's `for`.
is_pending() { alerts 'select(.state != "inactive") | .name' | grep -qx "$1"; }
expect_pending() { for alert; do wait_until is_pending "$alert"; done; }
echo "-- alerts that are made to fire"
expect_pending MaxTwoReplicaCutOff MaxTwoErrors
end TERM replica || fail "the replica exited with a failure"
expect_pending MaxTwoDatabaseAway MaxTwoDown
end TERM worker || fail "the worker exited with a failure"
expect_pending MaxTwoNoRounds
end TERM replica-without-database || fail "the replica without a database exited with a failure"
expect_pending MaxTwoNoReplica
broken=$(alerts 'select(.health != "ok") | .name')
[ -z "$broken" ] || fail "rules that can't be evaluated: $broken"
