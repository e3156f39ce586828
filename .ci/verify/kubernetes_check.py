"""Checks what schemas and public linters can't know of rendered manifests.

    kubernetes_check.py PROGRAMS FILE...      called by kubernetes.sh

References lead somewhere; what a container sets and probes is what its program knows and listens
on; a replica's steps of stopping fit its grace period, and all connections fit a server. Prints
each problem, and exits with 1 if there is one.
"""

import re
import subprocess
import sys
from pathlib import Path

import yaml

WORKLOADS = ["Deployment", "Job"]
# By default a server has 100 connections, and 3 of them are reserved for superusers.
MAX_CONNECTIONS = 97


def name(manifest):
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def containers(template):
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]


def port_names(template):
    return {port["name"] for container in containers(template) for port in container.get("ports", [])}


def references(manifests):
    """Selectors match pods, and named ports and scale targets exist."""
    templates = [manifest["spec"]["template"] for manifest in manifests if manifest["kind"] in WORKLOADS]

    def pods(selector):
        labels = selector.get("matchLabels", {}).items()
        return [template for template in templates if labels <= template["metadata"]["labels"].items()]

    def selected(selector, wanted_ports=()):
        found = pods(selector)
        if not found:
            yield "selects no pod"
        for port in set(wanted_ports) - {port for template in found for port in port_names(template)}:
            yield f"no selected pod has a port {port}"

    def dangling(manifest):
        kind, spec = manifest["kind"], manifest.get("spec")
        if kind == "Service":
            yield from selected({"matchLabels": spec["selector"]}, [port["targetPort"] for port in spec["ports"]])
        elif kind == "PodDisruptionBudget":
            yield from selected(spec["selector"])
        elif kind == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            if f"{target['kind']} {target['name']}" not in map(name, manifests):
                yield "its target does not exist"
        elif kind == "NetworkPolicy":
            ports = [port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]]
            yield from selected(spec["podSelector"], ports)
        elif kind == "PodMonitor":
            yield from selected(spec["selector"], [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]])
        elif kind in WORKLOADS:
            template = spec["template"]
            if pods(spec.get("selector", {"matchLabels": template["metadata"]["labels"]})) != [template]:
                yield "its selector does not match exactly its own pods"

    for manifest in manifests:
        yield from (f"{name(manifest)}: {problem}" for problem in dangling(manifest))


def programs(folder, template):
    """Commands and variables are those of the program, and its ports are those that it listens on."""
    for container in containers(template):
        program, *arguments = container["command"]
        if "max-two" not in container["image"]:
            continue
        if not program.startswith("/usr/local/bin/max-two-"):
            yield f"container {container['name']}: its command is no program of the image"
            continue
        outcome = subprocess.run([folder / Path(program).name, *arguments, "--help"], stdout=subprocess.PIPE)
        if outcome.returncode:
            yield f"container {container['name']}: the program does not know {arguments}"
        settings = re.findall(r"\[env: (\w+)=", outcome.stdout.decode())
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        for variable in environment.keys() - set(settings):
            yield f"container {container['name']}: the program does not know {variable}"
        listens = {int(value.rpartition(":")[2]) for key, value in environment.items() if key.endswith("LISTEN")}
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        if listens != set(ports.values()):
            yield f"container {container['name']}: listens on {listens}, and its ports are {ports}"
        for probe in ["livenessProbe", "readinessProbe"]:
            if probe in container and container[probe]["httpGet"]["port"] not in ports:
                yield f"container {container['name']}: its {probe} has a port of another name"


def drain(api):
    """A replica's grace period is longer than all steps of its shutdown."""
    spec = api["spec"]["template"]["spec"]
    [container] = spec["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    steps = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    steps += sum(int(environment[step].removesuffix("s")) for step in ["DRAIN_DELAY", "CLOSE_TIMEOUT"])
    if steps >= spec["terminationGracePeriodSeconds"]:
        yield f"{name(api)}: killed before its {steps} s of shutdown are over"


def connections(autoscaler, api, worker):
    """All pods, each beside one that terminates, the migration and an operator's round find a connection."""
    replicas = autoscaler["spec"]["maxReplicas"] + api["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    workers = worker["spec"]["replicas"] + worker["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    most = replicas * 2 + workers * 2 + 1 + 1
    documented = int(autoscaler["metadata"]["annotations"]["max-two/most-connections"])
    if not most == documented <= MAX_CONNECTIONS:
        yield f"{name(autoscaler)}: at most {most} connections; documented are {documented} of {MAX_CONNECTIONS}"


def problems(folder, file):
    manifests = list(yaml.safe_load_all(file.read_text()))
    by_name = {name(manifest): manifest for manifest in manifests}
    api, worker = by_name["Deployment max-two-api"], by_name["Deployment max-two-worker"]
    yield from references(manifests)
    yield from drain(api)
    yield from connections(by_name["HorizontalPodAutoscaler max-two-api"], api, worker)
    for manifest in manifests:
        if manifest["kind"] in WORKLOADS:
            yield from (f"{name(manifest)}: {problem}" for problem in programs(folder, manifest["spec"]["template"]))
            # Pod Security's `restricted` asks for it, and checkov accepts a high user id all the same.
            if not manifest["spec"]["template"]["spec"]["securityContext"].get("runAsNonRoot"):
                yield f"{name(manifest)}: runAsNonRoot is not set"


def main():
    folder, *files = map(Path, sys.argv[1:])
    found = [f"WRONG in {file.stem}: {problem}" for file in files for problem in problems(folder, file)]
    print("\n".join(found) or f"{len(files)} renderings, no problem")
    sys.exit(bool(found))


main()
