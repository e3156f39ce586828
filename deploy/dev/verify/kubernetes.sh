#!/usr/bin/env bash
# The manifests, as far as they can be judged without a cluster: rendered, held against strict schemas, scanned, counted
# (check.py), and rehearsed: what their pods would run is run here, against a Postgres of its own (rehearse.py). Takes
# two to four minutes; what it starts ends with it. Needs kubectl 1.27 or newer, promtool, openssl, python3-venv and
# Postgres.
set -euo pipefail
cd "$(dirname "$0")/../../.."
here=deploy/kubernetes
verify=deploy/dev/verify

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }

echo "-- building"
cargo build --workspace --locked

echo "-- the tools"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'kubernetes-validate>=1.37,<2' 'cloudcoil-models-prometheus-operator<1' 'checkov>=3,<4'
python=$work/venv/bin/python

echo "-- rendering"
kubectl kustomize $here/base >"$work/base.yaml"
for overlay in dev production; do
    kubectl kustomize "$here/overlays/$overlay" >"$work/$overlay.yaml"
    # Once more, with the optional component.
    mkdir "$work/$overlay"
    from=$(realpath --relative-to="$work/$overlay" $here)
    cat >"$work/$overlay/kustomization.yaml" <<EOF
resources: [$from/overlays/$overlay]
components: [$from/components/monitoring]
EOF
    kubectl kustomize "$work/$overlay" >"$work/$overlay-monitored.yaml"
done

echo "-- the rules of the PrometheusRule"
rule=$here/components/monitoring/prometheus-rule.yaml
sed '1,/^spec:$/d; s/^  //' $rule >"$work/rules"
promtool check rules "$work/rules"
cmp "$work/rules" deploy/monitoring/rules.yaml || fail "$rule is no copy any more. To make it one:
    sed -i '/^spec:\$/q' $rule
    sed 's/^./  &/' deploy/monitoring/rules.yaml >>$rule"

echo "-- checking"
"$python" $verify/kubernetes_check.py "$work"/*.yaml | tee "$work/seen" || fail "see above"

for overlay in dev production; do
    echo "-- rehearsing $overlay"
    echo "$overlay, rehearsed:" >>"$work/seen"
    "$python" $verify/kubernetes_rehearse.py "$work/$overlay.yaml" target/debug 21010 | tee -a "$work/seen" || fail "see above"
done

echo "== What was seen"
cat "$work/seen"
