"""Checks rendered manifests without a cluster: schemas, references, sums, secrets, checkov's scan.

    kubernetes_check.py FILE...      files that `kubectl kustomize` printed; called by kubernetes.sh

Prints what it counted and each problem, and exits with 1 if there is a problem. checkov checks what
the pods are allowed to do, kubernetes_rehearse.py whether mounts and probes work.
"""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

# The oldest release that the manifests support, and the newest that the validator knows.
RELEASES = ["1.30", kubernetes_validate.latest_version()]
WORKLOADS = ["Deployment", "StatefulSet", "Job"]
# By default a server has 100 connections, and 3 of them are reserved for superusers.
MAX_CONNECTIONS = 97


def name(manifest):
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def schema(manifest):
    """Every field is known to Kubernetes, or the Prometheus Operator, and its value is valid."""
    if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
        # These models reject a wrong value, but drop an unknown field silently.
        model = getattr(prometheus_operator, manifest["kind"])
        try:
            known = model.model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_unset=True)
        except ValueError as error:
            yield f"{name(manifest)}: {error}"
            return
        if known != manifest:
            yield f"{name(manifest)}: unknown fields, or values of another type; known are {known}"
        return
    for release in RELEASES:
        try:
            kubernetes_validate.validate(manifest, release, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name(manifest)}, Kubernetes {release}: {error.message}"


def references(manifests):
    """Selectors match pods, and named ports and scale targets exist."""
    workloads = {name(manifest): manifest["spec"] for manifest in manifests if manifest["kind"] in WORKLOADS}
    templates = [spec["template"] for spec in workloads.values()]

    def pods(selector):
        def matches(labels):
            expressions = selector.get("matchExpressions", [])
            return selector.get("matchLabels", {}).items() <= labels.items() and all(
                labels.get(expression["key"]) in expression["values"] for expression in expressions
            )

        return [template for template in templates if matches(template["metadata"]["labels"])]

    def ports(template):
        return {port["name"] for container in template["spec"]["containers"] for port in container.get("ports", [])}

    def selected(selector, wanted_ports):
        found = pods(selector)
        if not found:
            yield "selects no pod"
        for port in set(wanted_ports) - {port for template in found for port in ports(template)}:
            yield f"no selected pod has a port {port}"

    def dangling(manifest):
        kind, spec = manifest["kind"], manifest.get("spec")
        if kind == "Service":
            yield from selected({"matchLabels": spec["selector"]}, [port["targetPort"] for port in spec["ports"]])
        elif kind == "PodDisruptionBudget":
            yield from selected(spec["selector"], [])
        elif kind == "HorizontalPodAutoscaler":
            if f"{spec['scaleTargetRef']['kind']} {spec['scaleTargetRef']['name']}" not in workloads:
                yield "its target does not exist"
        elif kind == "NetworkPolicy":
            ingress, egress = spec.get("ingress", []), spec.get("egress", [])
            yield from selected(spec["podSelector"], [port["port"] for rule in ingress for port in rule["ports"]])
            for peer in [peer for rule in ingress + egress for peer in rule.get("from", []) + rule.get("to", [])]:
                if peer.keys() == {"podSelector"} and not pods(peer["podSelector"]):
                    yield "a peer selects no pod"
        elif kind == "ServiceMonitor":
            service_ports = [
                port["name"]
                for service in manifests
                if service["kind"] == "Service"
                and spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
                for port in service["spec"]["ports"]
            ]
            if any(endpoint["port"] not in service_ports for endpoint in spec["endpoints"]):
                yield "no Service has such a port"
        elif kind in WORKLOADS:
            template = spec["template"]
            if pods(spec.get("selector", {"matchLabels": template["metadata"]["labels"]})) != [template]:
                yield "its selector does not match exactly its own pods"

    for manifest in manifests:
        yield from (f"{name(manifest)}: {problem}" for problem in dangling(manifest))


def restricted(manifests):
    """What Pod Security's `restricted` asks for and checkov accepts all the same."""
    for manifest in manifests:
        if manifest["kind"] in WORKLOADS:
            pod = manifest["spec"]["template"]["spec"]
            if not pod.get("securityContext", {}).get("runAsNonRoot"):
                yield f"{name(manifest)}: runAsNonRoot is not set"
            if any(volume.keys().isdisjoint({"projected", "configMap", "emptyDir"}) for volume in pod["volumes"]):
                yield f"{name(manifest)}: a volume of another type than projected, configMap or emptyDir"


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def drain(manifest):
    """A replica's grace period is longer than all steps of its shutdown."""
    spec = manifest["spec"]["template"]["spec"]
    container = spec["containers"][0]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    steps = [
        container["lifecycle"]["preStop"]["sleep"]["seconds"],
        seconds(environment["DRAIN_DELAY"]),
        seconds(environment["CLOSE_TIMEOUT"]),
    ]
    grace = spec["terminationGracePeriodSeconds"]
    print(f"  shutdown: {' + '.join(map(str, steps))} = {sum(steps)} s of {grace} s grace period")
    if sum(steps) >= grace:
        yield f"{name(manifest)}: killed before its shutdown is complete"


def connections(autoscaler, api, worker):
    """The maximum number of connections: of all pods, each beside one that terminates, and one round."""
    pods = {
        "api": autoscaler["spec"]["maxReplicas"] + api["spec"]["strategy"]["rollingUpdate"]["maxSurge"],
        "worker": worker["spec"]["replicas"] + worker["spec"]["strategy"]["rollingUpdate"]["maxSurge"],
    }
    # A worker that terminates uses a second connection to cancel its round.
    most = pods["api"] * (1 + 1) + pods["worker"] * (1 + 2) + 1 + 1
    print(f"  connections: at most {most} of {MAX_CONNECTIONS}")
    documented = int(autoscaler["metadata"]["annotations"]["max-two/most-connections"])
    if most > MAX_CONNECTIONS:
        yield f"{most} connections are more than a server has"
    if most != documented:
        yield f"{name(autoscaler)}: its annotation has {documented} connections, but there can be {most}"


def secrets(manifests):
    """No Secret holds a password."""
    for manifest in manifests:
        if manifest["kind"] == "Secret":
            for key, value in manifest["data"].items():
                url = urlparse(base64.b64decode(value).decode())
                if url.scheme != "postgres" or url.password:
                    yield f"{name(manifest)}: {key} is not a URL without a password"


def scan(file, manifests):
    """checkov finds exactly the exceptions for which the objects' annotations give a reason."""
    exceptions = set()
    for manifest in manifests:
        annotations = manifest["metadata"].get("annotations", {})
        for key in [key for key in annotations if key.startswith("checkov.io/skip")]:
            check, _, reason = annotations.pop(key).partition("=")
            if len(reason) < 10:
                yield f"{name(manifest)}: the exception for {check} has no reason"
            exceptions.add((check, name(manifest)))
    # Without the annotations, so that an exception that is not needed shows too.
    scanned = file.with_suffix(".scanned.yaml")
    scanned.write_text(yaml.safe_dump_all(manifests))
    checkov = Path(sys.executable).parent / "checkov"
    options = ["--framework", "kubernetes", "--skip-download", "--output", "json", "--soft-fail"]
    outcome = json.loads(
        subprocess.run([checkov, "--file", scanned, *options], stdout=subprocess.PIPE, check=True).stdout
    )
    findings = {}
    for finding in outcome["results"]["failed_checks"]:
        kind, _, rest = finding["resource"].partition(".")
        findings[finding["check_id"], f"{kind} {rest.rpartition('.')[2]}"] = finding["check_name"]
    passed = outcome["summary"]["passed"]
    print(f"  checkov: {passed} checks passed, {len(findings)} failed, {len(exceptions)} exceptions with a reason")
    if passed == 0 or outcome["summary"]["parsing_errors"]:
        yield "checkov has not scanned it"
    for check, where in findings.keys() - exceptions:
        yield f"{where}: {check}, {findings[check, where]}"
    for check, where in exceptions - findings.keys():
        yield f"{where}: the exception for {check} is not needed"


def problems(file):
    manifests = list(yaml.safe_load_all(file.read_text()))
    by_name = {name(manifest): manifest for manifest in manifests}
    api, worker = by_name["Deployment max-two-api"], by_name["Deployment max-two-worker"]
    print(f"{file.stem}: {len(manifests)} objects")
    for manifest in manifests:
        yield from schema(manifest)
    yield from references(manifests)
    yield from restricted(manifests)
    yield from secrets(manifests)
    yield from drain(api)
    autoscaler = by_name.get("HorizontalPodAutoscaler max-two-api")
    if autoscaler:
        yield from connections(autoscaler, api, worker)
    # The base is not scanned: it has no image tag, since overlays set it.
    if file.stem != "base":
        yield from scan(file, manifests)


def main():
    found = False
    for file in map(Path, sys.argv[1:]):
        for problem in problems(file):
            print(f"  WRONG: {problem}")
            found = True
    sys.exit(found)


main()
