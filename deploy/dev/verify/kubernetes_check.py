"""What can be said of rendered manifests without a cluster, beyond that they are rendered at all.

Its arguments are files of what `kubectl kustomize` printed; verify calls it. It prints what it counted, a complaint for
all that does not hold, and exits with 1 if there was one.
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

# The oldest release that the manifests are for, and the newest that is known here.
RELEASES = ["1.30", kubernetes_validate.latest_version()]
WORKLOADS = ["Deployment", "StatefulSet", "Job"]
# What a container may do at the most.
LEAST = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
# Of a server's 100 connections, by default, 3 are for superusers alone.
CONNECTIONS = 97


def name(manifest):
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def containers(template):
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]


def schema(manifest):
    """Every field is one that Kubernetes, or the Prometheus Operator, knows, and holds what it may."""
    if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
        # These models refuse a wrong value, and leave out what they do not know.
        model = getattr(prometheus_operator, manifest["kind"])
        try:
            known = model.model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_unset=True)
        except ValueError as error:
            yield f"{name(manifest)}: {error}"
            return
        if known != manifest:
            yield f"{name(manifest)}: it has fields that are not known, or values of another kind: {known}"
        return
    for release in RELEASES:
        try:
            kubernetes_validate.validate(manifest, release, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name(manifest)}, Kubernetes {release}: {error.message}"


def references(manifests):
    """Labels select pods, ports have the name that is asked for, probes and mounts too."""
    workloads = {name(manifest): manifest["spec"] for manifest in manifests if manifest["kind"] in WORKLOADS}
    templates = [spec["template"] for spec in workloads.values()]

    def pods(selector):
        def fits(labels):
            expressions = selector.get("matchExpressions", [])
            return selector.get("matchLabels", {}).items() <= labels.items() and all(
                labels.get(expression["key"]) in expression["values"] for expression in expressions
            )

        return [template for template in templates if fits(template["metadata"]["labels"])]

    def ports(template):
        return {port["name"] for container in template["spec"]["containers"] for port in container.get("ports", [])}

    def ends_at(selector, asked):
        """What is wrong with a way to these ports of the pods that are selected."""
        found = pods(selector)
        if not found:
            yield "it selects no pod"
        for port in set(asked) - {port for template in found for port in ports(template)}:
            yield f"no pod that it selects has a port {port}"

    def wrong(manifest):
        kind, spec = manifest["kind"], manifest.get("spec")
        if kind == "Service":
            yield from ends_at({"matchLabels": spec["selector"]}, [port["targetPort"] for port in spec["ports"]])
        elif kind == "PodDisruptionBudget":
            yield from ends_at(spec["selector"], [])
        elif kind == "HorizontalPodAutoscaler":
            if f"{spec['scaleTargetRef']['kind']} {spec['scaleTargetRef']['name']}" not in workloads:
                yield "it scales nothing"
        elif kind == "NetworkPolicy":
            incoming, outgoing = spec.get("ingress", []), spec.get("egress", [])
            yield from ends_at(spec["podSelector"], [port["port"] for rule in incoming for port in rule["ports"]])
            for peer in [peer for rule in incoming + outgoing for peer in rule.get("from", []) + rule.get("to", [])]:
                if peer.keys() == {"podSelector"} and not pods(peer["podSelector"]):
                    yield "a peer of it selects no pod"
        elif kind == "ServiceMonitor":
            served = [
                port["name"]
                for service in manifests
                if service["kind"] == "Service"
                and spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
                for port in service["spec"]["ports"]
            ]
            if any(endpoint["port"] not in served for endpoint in spec["endpoints"]):
                yield "no Service has such a port"
        elif kind in WORKLOADS:
            template = spec["template"]
            if pods(spec.get("selector", {"matchLabels": template["metadata"]["labels"]})) != [template]:
                yield "its selector does not select its own pods alone"
            claims = [claim["metadata"] for claim in spec.get("volumeClaimTemplates", [])]
            volumes = {volume["name"] for volume in template["spec"]["volumes"] + claims}
            for container in containers(template):
                if {mount["name"] for mount in container["volumeMounts"]} - volumes:
                    yield f"{container['name']} mounts a volume that is not there"
                for probe in ["livenessProbe", "readinessProbe"]:
                    asked = container.get(probe, {}).get("httpGet")
                    if asked and asked["port"] not in ports(template):
                        yield f"its {probe} asks at a port that is not there"

    for manifest in manifests:
        yield from (f"{name(manifest)}: {complaint}" for complaint in wrong(manifest))


def restricted(manifests):
    """The namespace admits these pods: no more is asked for than Pod Security's `restricted` gives, and less."""
    for manifest in manifests:
        if manifest["kind"] not in WORKLOADS:
            continue
        template = manifest["spec"]["template"]
        pod, account = template["spec"], template["spec"].get("securityContext", {})
        if not (account.get("runAsNonRoot") and account.get("runAsUser") and account.get("fsGroup")):
            yield f"{name(manifest)}: it may be root"
        if account.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name(manifest)}: it may call whatever the kernel has"
        if any(pod.get(shared) for shared in ["hostNetwork", "hostPID", "hostIPC"]):
            yield f"{name(manifest)}: it shares something with its node"
        if pod.get("automountServiceAccountToken", True):
            yield f"{name(manifest)}: it has a token for the cluster"
        if any(volume.keys() & {"projected", "configMap", "emptyDir"} == set() for volume in pod["volumes"]):
            yield f"{name(manifest)}: it has a volume of a kind that it needs not"
        for container in containers(template):
            if container.get("securityContext") != LEAST:
                yield f"{name(manifest)}: {container['name']} may do more than it has to"


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def drain(manifest):
    """A replica's grace is longer than all that it does after it was told to go."""
    spec = manifest["spec"]["template"]["spec"]
    container = spec["containers"][0]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    steps = [
        container["lifecycle"]["preStop"]["sleep"]["seconds"],
        seconds(environment["DRAIN_DELAY"]),
        seconds(environment["CLOSE_TIMEOUT"]),
    ]
    grace = spec["terminationGracePeriodSeconds"]
    print(f"  drain: {' + '.join(map(str, steps))} = {sum(steps)} s, within {grace} s")
    if sum(steps) >= grace:
        yield f"{name(manifest)}: it is killed before it is done"


def connections(autoscaler, api, worker):
    """The most that all pods together can have, each beside one that is leaving; an operator's round is one more."""
    at_work = {
        "api": autoscaler["spec"]["maxReplicas"] + api["spec"]["strategy"]["rollingUpdate"]["maxSurge"],
        "worker": worker["spec"]["replicas"] + worker["spec"]["strategy"]["rollingUpdate"]["maxSurge"],
    }
    # A worker that is leaving uses a second one, to cancel its round.
    most = at_work["api"] * (1 + 1) + at_work["worker"] * (1 + 2) + 1 + 1
    print(f"  connections: {most} at the most, of {CONNECTIONS}")
    written = int(autoscaler["metadata"]["annotations"]["max-two/most-connections"])
    if most > CONNECTIONS:
        yield f"{most} connections are more than a server has"
    if most != written:
        yield f"{name(autoscaler)}: {written} connections are written down, but they can be {most}"


def secrets(manifests):
    """No secret is in here: none at all, or URLs without a password."""
    for manifest in manifests:
        if manifest["kind"] == "Secret":
            for key, value in manifest["data"].items():
                url = urlparse(base64.b64decode(value).decode())
                if url.scheme != "postgres" or url.password:
                    yield f"{name(manifest)}: {key} is a secret"


def scan(file, manifests):
    """What checkov finds is what is excepted, each with its reason, beside the object: no more, and no less."""
    excepted = set()
    for manifest in manifests:
        annotations = manifest["metadata"].get("annotations", {})
        for key in [key for key in annotations if key.startswith("checkov.io/skip")]:
            check, _, reason = annotations.pop(key).partition("=")
            if len(reason) < 10:
                yield f"{name(manifest)}: {check} is excepted for no reason"
            excepted.add((check, name(manifest)))
    bare = file.with_suffix(".scanned.yaml")
    bare.write_text(yaml.safe_dump_all(manifests))
    checkov = Path(sys.executable).parent / "checkov"
    options = ["--framework", "kubernetes", "--skip-download", "--output", "json", "--soft-fail"]
    outcome = json.loads(
        subprocess.run([checkov, "--file", bare, *options], stdout=subprocess.PIPE, check=True).stdout
    )
    found = {}
    for finding in outcome["results"]["failed_checks"]:
        kind, _, rest = finding["resource"].partition(".")
        found[finding["check_id"], f"{kind} {rest.rpartition('.')[2]}"] = finding["check_name"]
    passed = outcome["summary"]["passed"]
    print(f"  checkov: {passed} checks passed, {len(found)} did not, {len(excepted)} exceptions with a reason")
    if passed == 0 or outcome["summary"]["parsing_errors"]:
        yield "checkov has not scanned it"
    for check, where in found.keys() - excepted:
        yield f"{where}: {check}, {found[check, where]}"
    for check, where in excepted - found.keys():
        yield f"{where}: {check} is excepted, but nothing would be found"


def complaints(file):
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
    # The base names no release of its image, so it is for overlays alone, and those are scanned.
    if file.stem != "base":
        yield from scan(file, manifests)


def main():
    found = False
    for file in map(Path, sys.argv[1:]):
        for complaint in complaints(file):
            print(f"  WRONG: {complaint}")
            found = True
    sys.exit(found)


main()
