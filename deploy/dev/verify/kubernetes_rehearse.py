"""A rehearsal of an overlay without a cluster: what its pods would run is run here, as processes.

Commands, environment, mounted files, users, ports, probes, memory and grace are those of the rendered manifests; only
paths, addresses and the database's host are turned to this machine. What is a cluster's own work (scheduling, policies,
rolling out) is not seen.

    rehearse.py MANIFESTS PROGRAMS PORT      by verify; from PORT on, ten ports are used
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


def expect(holds, what):
    if not holds:
        sys.exit(f"  WRONG: {what}")


def until(holds, what, within=60):
    deadline = time.monotonic() + within
    while not holds():
        expect(time.monotonic() < deadline, f"this never came true: {what}")
        time.sleep(0.05)


def run(*command, **options):
    # To a file, for a server that is started here keeps its standard output open.
    with tempfile.TemporaryFile("w+") as output:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)
        output.seek(0)
        text = output.read().strip()
    expect(ended.returncode == 0, f"{' '.join(map(str, command))}: {text}")
    return text


class Postgres:
    """A server of its own at localhost, with a certificate of its own authority, that trusts all or wants passwords."""

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
    """The rendered manifests, and what this machine has in the places that they name."""

    def __init__(self, manifests, folder, programs, port, database):
        self.manifests, self.folder, self.programs = manifests, folder, programs
        self.ports, self.next_port, self.database = {}, port, database

    def find(self, kind, name):
        return next(one for one in self.manifests if one["kind"] == kind and one["metadata"]["name"] == name)

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
        """What a container's process is started with, and whether as another user."""
        spec = workload["spec"]["template"]["spec"]
        container = next(one for one in spec.get("initContainers", []) + spec["containers"] if one["name"] == name)
        account = spec["securityContext"]
        place = self.folder / f"{workload['metadata']['name']}.{name}"
        place.mkdir(exist_ok=True)
        turned = {"/usr/local/bin": str(self.programs), "@postgres/": f"@localhost:{self.database}/"}
        for port in container.get("ports", []):
            self.next_port += 1
            self.ports[workload["metadata"]["name"], port["name"]] = self.next_port
            turned[f"0.0.0.0:{port['containerPort']}"] = f"127.0.0.1:{self.next_port}"
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        turned |= {path: str(place / volume) for volume, path in mounts.items()}

        def turn(text):
            for there, here in turned.items():
                text = text.replace(there, here)
            return text

        for volume in spec["volumes"]:
            if volume["name"] in mounts:
                (place / volume["name"]).mkdir(exist_ok=True)
                for file, text in self.files(volume):
                    path = place / volume["name"] / file
                    path.unlink(missing_ok=True)
                    path.write_text(turn(text))
                    # As the kubelet does it: root's, and the group's of the pod.
                    if ROOT:
                        os.chown(path, 0, account["fsGroup"])
                    path.chmod(volume.get("projected", {}).get("defaultMode", 0o644))
        environment = {variable["name"]: turn(variable["value"]) for variable in container.get("env", [])}
        options = {"env": {"PATH": os.environ["PATH"]} | environment, "cwd": "/"}
        if ROOT:
            options |= {"user": account["runAsUser"], "group": account["runAsGroup"], "extra_groups": []}
        return [turn(word) for word in container["command"]], options

    def complete(self, job):
        spec = job["spec"]["template"]["spec"]
        for container in spec["initContainers"] + spec["containers"]:
            command, options = self.container(job, container["name"])
            run(*command, **options)


class Pod:
    """A pod of one container that goes on until it is told to stop."""

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
        """The status of an answer, or 0 where there is none, and its body."""
        try:
            url = f"http://127.0.0.1:{self.cluster.ports[self.name, port]}{path}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def probe(self, which):
        asked = self.container[f"{which}Probe"]["httpGet"]
        return self.get(asked["port"], asked["path"])[0]

    def stop(self):
        """As the kubelet does it, after preStop; how long it took."""
        grace = self.spec["terminationGracePeriodSeconds"]
        grace -= self.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        mebibytes = int(peak[1]) // 1024
        limit = int(self.container["resources"]["limits"]["memory"].removesuffix("Mi"))
        expect(mebibytes < limit, f"{self.name} had {mebibytes} MiB, and would be killed at {limit}")
        began = time.monotonic()
        self.process.terminate()
        if "http" in [port["name"] for port in self.container["ports"]]:
            until(lambda: self.probe("readiness") == 503, f"{self.name} says that it leaves", within=4)
            expect(self.get("http", "/")[0] == 200, f"{self.name} does not serve on while it drains")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        expect(self.process.poll() == 0, f"{self.name} has not ended within {grace} s, but {self.process.poll()}")
        took = time.monotonic() - began
        print(f"  {self.name}: ended well after {took:.1f} of {grace} s; {mebibytes} of {limit} MiB at its peak")


def given(secrets, authority):
    """What the production overlay refers to, as README.md has it made."""
    for role, url in secrets.items():
        text = base64.b64encode(url.encode()).decode()
        yield {"kind": "Secret", "metadata": {"name": f"max-two-{role}"}, "data": {"url": text}}
    yield {"kind": "ConfigMap", "metadata": {"name": "max-two-database-ca"}, "data": {"ca.crt": authority.read_text()}}


def rehearse(manifests, programs, port, folder):
    own_database = any(one["kind"] == "StatefulSet" for one in manifests)
    authentication = "host all all all trust" if own_database else "hostssl all all all scram-sha-256"
    server = Postgres(folder / "postgres", port, authentication)
    cluster = Cluster(manifests, folder, programs, port, port)
    pods = []
    try:
        if own_database:
            spec = cluster.find("StatefulSet", "postgres")["spec"]["template"]["spec"]
            volume = next(one for one in spec["volumes"] if one["name"] == "initialization")
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
            cluster.manifests = manifests + list(given(urls, folder / "postgres/ca.crt"))

        for name in ["max-two-worker", "max-two-api"]:
            pods.append(Pod(cluster, cluster.find("Deployment", name)))
        for pod in pods:
            until(lambda: pod.probe("liveness") == 200, f"{pod.name} is alive")
            status = pod.probe("readiness")
            expect(status == 503, f"{pod.name}, asked whether it is ready before the migration, says {status}")
        migrate = cluster.find("Job", "max-two-migrate")
        cluster.complete(migrate)
        for pod in pods:
            until(lambda: pod.probe("readiness") == 200, f"{pod.name} is ready after the migration")
        print("  all at once: nothing is ready before the migration is complete, and all of it soon after")

        worker, api = pods
        done = re.compile(r'max_two_worker_round_attempts_total\{outcome="done"\} [1-9]')
        until(lambda: done.search(worker.get("admin", "/metrics")[1]), "the first round is done")
        users = server.superuser("-d", "max_two", "-c", "select count(*) from users where updated_at > inserted_at")
        seed = next(one for one in migrate["spec"]["template"]["spec"]["initContainers"] if one["name"] == "seed")
        expect(users == seed["command"][-1], f"the first round renewed {users} users")
        status, body = api.get("http", "/")
        expect(status == 200 and '"timestamp":null' in body, f"the first answer is {status} {body}")
        print(f"  the first round renewed {users} users; the first answer is {body}")

        # Once, by a superuser; the next release's Job leaves it as it is.
        server.superuser("-d", "max_two", "-f", SQL / "grants.sql")
        cluster.complete(migrate)
        may = "select has_function_privilege('max_two_{}', 'pg_try_advisory_xact_lock(bigint)', 'execute')"
        for role, expected in [("worker", "t"), ("api", "f")]:
            answer = server.superuser("-d", "max_two", "-c", may.format(role))
            expect(answer == expected, f"may the {role} take the worker's lock: {answer}")
        print("  the migration again: nothing to do, and the worker's lock stays closed to the api")

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
        # Where any user may run them.
        programs = folder / "programs"
        programs.mkdir()
        for program in ["max-two-api", "max-two-worker"]:
            shutil.copy(Path(sys.argv[2]) / program, programs)
        rehearse(manifests, programs, int(sys.argv[3]), folder)


main()
