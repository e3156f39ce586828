#!/usr/bin/env bash
# Copies deploy/monitoring/rules.yaml into the PrometheusRule of deploy/kubernetes. To be run after
# a change of the rules; kubernetes.sh fails until then. Takes no time and needs nothing.
#
#     deploy/dev/verify/update_prometheus_rule.sh [FILE]      by default the PrometheusRule itself
set -euo pipefail
cd "$(dirname "$0")/../../.."
file=${1:-deploy/kubernetes/components/monitoring/prometheus-rule.yaml}
sed -i '/^spec:$/q' "$file"
sed 's/^./  &/' deploy/monitoring/rules.yaml >>"$file"
