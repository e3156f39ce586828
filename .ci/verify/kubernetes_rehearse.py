"""Rehearses an overlay without a cluster: runs as processes what its pods would run.

    kubernetes_rehearse.py MANIFESTS PROGRAMS PORT      called by kubernetes.sh; uses ten ports from PORT on

Commands, environment, mounted files, users, ports, probes, memory limits and grace periods are
those of the rendered manifests; only paths, addresses and the database's host are replaced.
Scheduling, network policies and rollouts are not covered.
"""

import base64
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

SQL = Path(__file__).resolve().parents[2] / "postgres"
ROOT = os.geteuid() == 0


def expect(condition, problem):
    if not condition:
        sys.exit(f"  WRONG: {problem}")


def wait_until(condition, what, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        expect(time.monotonic() < deadline, f"not true within {timeout} s: {what}")
        time.sleep(0.05)


def run(*command, **options):
    # To a file: a server that is started here keeps its standard output open.
    with tempfile.TemporaryFile("w+") as output:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)
        output.seek(0)
        text = output.read().strip()
    expect(ended.returncode == 0, f"{' '.join(map(str, command))}: {text}")
    return text


class Postgres:
    """A server at localhost with its own certificate authority; `authentication` is of pg_hba.conf."""

    def __init__(self, folder, port, authentication):
        self.folder, self.port = folder, port
        self.programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda programs: int(programs.parent.name))
        # Postgres refuses to be run by root.
        self.account = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": folder} if ROOT else {}
        folder.mkdir()
        if ROOT:
            shutil.chown(folder, "postgres", "postgres")
        certificate = ["openssl", "req", "-x509", "-noenc", "-days", "2", "-newkey", "rsa:2048"]
        authority, server = folder / "ca", folder / "server"
        self.run(*certificate, "-subj", "/CN=authority", "-keyout", f"{authority}.key", "-out", f"{authority}.crt")
        self.run(*certificate, "-subj", "/CN=localhost", "-keyout", f"{server}.key", "-out", f"{server}.crt",
                 "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key",
                 "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=DNS:localhost")
        self.run(self.programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust")
        (folder / "hba").write_text(f"local all postgres trust\n{authentication}\n")
        settings = {
            "port": port, "listen_addresses": "localhost", "unix_socket_directories": folder,
            "hba_file": folder / "hba", "ssl": "on", "ssl_cert_file": f"{server}.crt", "ssl_key_file": f"{server}.key",
        }
        flags = " ".join(f"-c {setting}={value}" for setting, value in settings.items())
        self.run(self.programs / "pg_ctl", "start", "-w", "-D", folder / "data", "-o", flags)

    def run(self, *command):
        run(*command, **self.account)

    def superuser(self, *arguments):
        return run("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.folder, "-p", str(self.port), "-U", "postgres",
                   *arguments)

    def stop(self):
        self.run(self.programs / "pg_ctl", "stop", "-w", "-m", "immediate", "-D", self.folder / "data")


class Cluster:
    """The rendered manifests, and what stands for their paths, ports and hosts on this machine."""

    def __init__(self, manifests, folder, programs, port, database):
        self.manifests, self.folder, self.programs = manifests, folder, programs
        self.ports, self.next_port, self.database = {}, port, database

    def find(self, kind, name):
        return next(manifest for manifest in self.manifests
                    if manifest["kind"] == kind and manifest["metadata"]["name"] == name)

    def files(self, volume):
        """The files of a projected volume or a ConfigMap's, by name."""
        sources = volume["projected"]["sources"] if "projected" in volume else [{"configMap": volume["configMap"]}]
        for source in sources:
            [(kind, reference)] = source.items()
            held = self.find({"secret": "Secret", "configMap": "ConfigMap"}[kind], reference["name"])["data"]
            for item in reference["items"]:
                text = held[item["key"]]
                yield item["path"], base64.b64decode(text).decode() if kind == "secret" else text

    def container(self, workload, name):
        """The command of a container, and the options of its process."""
        spec = workload["spec"]["template"]["spec"]
        containers = spec.get("initContainers", []) + spec["containers"]
        container = next(container for container in containers if container["name"] == name)
        account = spec["securityContext"]
        folder = self.folder / f"{workload['metadata']['name']}.{name}"
        folder.mkdir(exist_ok=True)
        replacements = {"/usr/local/bin": str(self.programs), "@postgres/": f"@localhost:{self.database}/"}
        for port in container.get("ports", []):
            self.next_port += 1
            self.ports[workload["metadata"]["name"], port["name"]] = self.next_port
            replacements[f"0.0.0.0:{port['containerPort']}"] = f"127.0.0.1:{self.next_port}"
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        replacements |= {path: str(folder / volume) for volume, path in mounts.items()}

        def localize(text):
            for there, here in replacements.items():
                text = text.replace(there, here)
            return text

        for volume in spec["volumes"]:
            if volume["name"] in mounts:
                (folder / volume["name"]).mkdir(exist_ok=True)
                for file, text in self.files(volume):
                    path = folder / volume["name"] / file
                    path.unlink(missing_ok=True)
                    path.write_text(localize(text))
                    # As the kubelet does: owned by root and the pod's group.
                    if ROOT:
                        os.chown(path, 0, account["fsGroup"])
                    path.chmod(volume.get("projected", {}).get("defaultMode", 0o644))
        environment = {variable["name"]: localize(variable["value"]) for variable in container.get("env", [])}
        options = {"env": {"PATH": os.environ["PATH"]} | environment, "cwd": "/"}
        if ROOT:
            options |= {"user": account["runAsUser"], "group": account["runAsGroup"], "extra_groups": []}
        return [localize(word) for word in container["command"]], options

    def complete(self, job):
        spec = job["spec"]["template"]["spec"]
        for container in spec["initContainers"] + spec["containers"]:
            command, options = self.container(job, container["name"])
            run(*command, **options)


class Pod:
    """A pod of one container that runs until it is stopped."""

    def __init__(self, cluster, workload):
        self.name, self.cluster = workload["metadata"]["name"], cluster
        self.spec = workload["spec"]["template"]["spec"]
        [self.container] = self.spec["containers"]
        command, options = cluster.container(workload, self.container["name"])
        self.log = (cluster.folder / f"{self.name}.log").open("w")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **options
        )

    def get(self, port, path):
        """The status of the response, or 0 without one, and its body."""
        try:
            url = f"http://127.0.0.1:{self.cluster.ports[self.name, port]}{path}"
            with urllib.request.urlopen(url, timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def probe(self, which):
        request = self.container[f"{which}Probe"]["httpGet"]
        return self.get(request["port"], request["path"])[0]

    def stop(self):
        """Stops it as the kubelet does after preStop, and prints how long that took."""
        grace = self.spec["terminationGracePeriodSeconds"]
        grace -= self.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        mebibytes = int(peak[1]) // 1024
        limit = int(self.container["resources"]["limits"]["memory"].removesuffix("Mi"))
        expect(mebibytes < limit, f"{self.name} used {mebibytes} MiB, and would be killed at {limit}")
        began = time.monotonic()
        self.process.terminate()
        if "http" in [port["name"] for port in self.container["ports"]]:
            wait_until(lambda: self.probe("readiness") == 503, f"{self.name} is not ready any more", timeout=4)
            expect(self.get("http", "/")[0] == 200, f"{self.name} does not answer queries while it drains")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        status = self.process.poll()
        expect(status == 0, f"{self.name} has not exited with 0 within {grace} s: its status is {status}")
        took = time.monotonic() - began
        print(f"  {self.name}: exited with 0 after {took:.1f} of {grace} s; at most {mebibytes} of {limit} MiB")


def prerequisites(secrets, authority):
    """What the production overlay refers to, and operators create by deploy/kubernetes/README.md."""
    for role, url in secrets.items():
        text = base64.b64encode(url.encode()).decode()
        yield {"kind": "Secret", "metadata": {"name": f"max-two-{role}"}, "data": {"url": text}}
    yield {"kind": "ConfigMap", "metadata": {"name": "max-two-database-ca"}, "data": {"ca.crt": authority.read_text()}}


def rehearse(manifests, programs, port, folder):
    own_database = any(manifest["kind"] == "StatefulSet" for manifest in manifests)
    authentication = "host all all all trust" if own_database else "hostssl all all all scram-sha-256"
    server = Postgres(folder / "postgres", port, authentication)
    cluster = Cluster(manifests, folder, programs, port, port)
    pods = []
    try:
        if own_database:
            spec = cluster.find("StatefulSet", "postgres")["spec"]["template"]["spec"]
            volume = next(volume for volume in spec["volumes"] if volume["name"] == "initialization")
            for name, text in sorted(cluster.files(volume)):
                script = folder / name
                script.write_text(text)
                server.superuser("-f", script)
        else:
            server.superuser("-f", SQL / "roles.sql", "-c", "create database max_two owner max_two_owner")
            urls = {}
            for role in ["owner", "worker", "api"]:
                server.superuser("-c", f"alter role max_two_{role} password 'of-{role}'")
                urls[role] = (
                    f"postgres://max_two_{role}:of-{role}@localhost:{port}/max_two"
                    "?sslmode=verify-full&sslrootcert=/run/secrets/max-two/ca.crt\n"
                )
            cluster.manifests = manifests + list(prerequisites(urls, folder / "postgres/ca.crt"))

        for name in ["max-two-worker", "max-two-api"]:
            pods.append(Pod(cluster, cluster.find("Deployment", name)))
        for pod in pods:
            wait_until(lambda: pod.probe("liveness") == 200, f"{pod.name} is alive")
            status = pod.probe("readiness")
            expect(status == 503, f"before the migration the readiness probe of {pod.name} gets {status}")
        migrate = cluster.find("Job", "max-two-migrate")
        cluster.complete(migrate)
        for pod in pods:
            wait_until(lambda: pod.probe("readiness") == 200, f"{pod.name} is ready after the migration")
        print("  all started at once: not ready before the migration is complete, ready soon after")

        worker, api = pods
        done = re.compile(r'max_two_worker_round_attempts_total\{outcome="done"\} [1-9]')
        wait_until(lambda: done.search(worker.get("admin", "/metrics")[1]), "the first round is done")
        users = server.superuser("-d", "max_two", "-c", "select count(*) from users where updated_at > inserted_at")
        steps = migrate["spec"]["template"]["spec"]["initContainers"]
        seed = next(container for container in steps if container["name"] == "seed")
        expect(users == seed["command"][-1], f"the first round renewed {users} users")
        status, body = api.get("http", "/")
        expect(status == 200 and '"timestamp":null' in body, f"the first response is {status} {body}")
        print(f"  the first round renewed {users} users; the first response is {body}")

        # A superuser does this once; the next release's Job must not undo it.
        server.superuser("-d", "max_two", "-f", SQL / "grants.sql")
        cluster.complete(migrate)
        privilege = "select has_function_privilege('max_two_{}', 'pg_try_advisory_xact_lock(bigint)', 'execute')"
        for role, expected in [("worker", "t"), ("api", "f")]:
            granted = server.superuser("-d", "max_two", "-c", privilege.format(role))
            expect(granted == expected, f"the privilege of {role} to take the worker's lock: {granted}")
        print("  the migration again: no change, and the api still can't take the worker's lock")

        for pod in pods:
            pod.stop()
    except SystemExit:
        for pod in pods:
            print(f"-- {pod.name}", *Path(pod.log.name).read_text().splitlines()[-5:], sep="\n")
        raise
    finally:
        for pod in pods:
            pod.process.kill()
            pod.process.wait()
        server.stop()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    manifests = list(yaml.safe_load_all(Path(sys.argv[1]).read_text()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        # A folder from which any user may run them.
        programs = folder / "programs"
        programs.mkdir()
        for program in ["max-two-api", "max-two-worker"]:
            shutil.copy(Path(sys.argv[2]) / program, programs)
        rehearse(manifests, programs, int(sys.argv[3]), folder)


main()
