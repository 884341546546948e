"""One registry behind nginx behind the fault proxy, and the clients that push to it."""

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
import time

import faultrows
import images
import peers
from system import MB, empty, run

HOST = "registry.test"
REPOSITORY = "bench/faults"
IMAGE = f"{HOST}/{REPOSITORY}:v1"
BEHIND, REGISTRY = "127.0.0.1:8081", "127.0.0.1:5000"
USER, PASSWORD = "user", "a-good-password"
RATE = 10 * MB
CLIENTS = ["ours", "docker", "skopeo", "skopeo-retry", "podman"]

NGINX = """
worker_processes 1; daemon off; user root; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 0; proxy_request_buffering off; proxy_buffering off; proxy_http_version 1.1; proxy_read_timeout 900;
  client_body_temp_path {folder}/nginx-body; proxy_temp_path {folder}/nginx-proxy; fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi; scgi_temp_path {folder}/nginx-scgi;
  map $http_host $scheme_outside {{ {host} https; default http; }}
  server {{
    listen {behind};
    location / {{ proxy_pass http://{registry}; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme_outside; }}
  }}
}}
"""


class Stand:
    def __init__(self, folder, ours, proxy):
        self.folder, self.ours, self.proxy = folder, ours, proxy
        self.memory = peers.Memory(folder)
        self.engine = self.nginx = self.registry = None
        self.image = {}

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def has(self, client):
        return client == "ours" or bool(shutil.which(client.split("-")[0]))

    def enter(self):
        path = os.environ.get("PATH", os.defpath)
        os.makedirs("/var/lib/containers", exist_ok=True)
        for name in ("home", "tmp", "docker", "registry"):
            os.makedirs(self.path(name))
        shutil.copytree("/etc", self.path("etc"), symlinks=True)
        shutil.rmtree(self.path("etc", "docker"), ignore_errors=True)
        self.certificates = self.path("etc", "docker", "certs.d", HOST, "ca.crt")
        os.makedirs(os.path.dirname(self.certificates))
        for name, text in (("hosts", f"127.0.0.1 localhost {HOST}\n"), ("resolv.conf", "nameserver 127.0.0.1\n")):
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.path("etc", name))
            self.write(f"etc/{name}", text)
        for words in (
            ["mount", "--make-rprivate", "/"],
            ["mount", "-t", "proc", "proc", "/proc"],
            ["ip", "link", "set", "lo", "up"],
            ["mount", "--bind", self.path("etc"), "/etc"],
            ["mount", "-t", "tmpfs", "tmpfs", "/run"],
            ["mount", "-t", "tmpfs", "tmpfs", "/var/lib/containers"],
        ):
            subprocess.run(words, check=True)
        os.environ.clear()
        os.environ.update(PATH=path, HOME=self.path("home"), TMPDIR=self.path("tmp"), DOCKER_HOST=f"unix://{self.path('docker.sock')}", DOCKER_BUILDKIT="0")

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)

    def serve(self, name, *words):
        log = open(self.path(f"{name}.log"), "ab")
        return subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    # The parts that stay.

    def start(self):
        for name, password in (("good", PASSWORD), ("revoked", "another-password")):
            self.write(f"htpasswd.{name}", run("htpasswd", "-Bbn", "-C", "4", USER, password) + "\n")
        auth = {"auths": {HOST: {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}}}
        os.makedirs(self.path("login"))
        self.write("login/config.json", json.dumps(auth))
        self.write("registry.yml", json.dumps({
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": self.path("registry")}},
            "http": {"addr": REGISTRY, "secret": "not a secret"},
            "auth": {"htpasswd": {"realm": "bench", "path": self.path("htpasswd")}},
        }))
        self.write("nginx.conf", NGINX.format(folder=self.folder, host=HOST, behind=BEHIND, registry=REGISTRY))
        self.nginx = self.serve("nginx", "nginx", "-c", self.path("nginx.conf"), "-e", self.path("nginx.log"))
        self.start_engine()
        self.build()

    def start_engine(self):
        words = ["--data-root", self.path("docker"), "--exec-root", "/run/docker", "--pidfile", "/run/dockerd.pid", "-H", os.environ["DOCKER_HOST"]]
        self.engine = self.serve("dockerd", "dockerd", *words, "--iptables=false", "--ip6tables=false", "--bridge=none")
        self.wait("dockerd", lambda: subprocess.run(["docker", "version"], capture_output=True).returncode == 0, self.engine)

    def stop_engine(self):
        if self.engine:
            self.engine.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.engine.wait(20)
            if self.engine.poll() is None:
                self.engine.kill()
                self.engine.wait()
            self.engine = None

    def start_registry(self):
        self.registry = self.serve("registry", "docker-registry", "serve", self.path("registry.yml"))
        self.wait("docker-registry", lambda: self.ask("/v2/") == 401, self.registry)

    def stop_registry(self):
        if self.registry:
            self.registry.kill()
            self.registry.wait()
            self.registry = None

    def stop(self):
        self.stop_registry()
        self.stop_engine()

    def wait(self, what, done, process):
        deadline = time.monotonic() + 60
        while not done():
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"{what} did not start")
            time.sleep(0.05)

    def ask(self, path, *words):
        """The status nginx gives, past the proxy; 0 for none."""
        url = f"http://{BEHIND}{path}"
        answer = subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *words, url], capture_output=True, text=True)
        return int(answer.stdout or 0)

    def build(self):
        """An image of eight layers: real files that compress, and noise that does not."""
        supply, layers = images.Supply(), [30 * MB, 26 * MB, 15 * MB, 12 * MB, 10 * MB, 6 * MB, 3 * MB, 1 * MB]
        noise = {1, 3, 6}
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for number, size in enumerate(layers):
                if number in noise:
                    images.put(tar, f"layer{number}/noise", random.Random(number).randbytes(size))
                else:
                    images.fill(tar, f"layer{number}", size, supply)
            copies = "".join(f"COPY layer{number} /layer{number}/\n" for number in range(len(layers)))
            images.put(tar, "Dockerfile", f"FROM scratch\n{copies}ENV PURPOSE=faults\n".encode())
        subprocess.run(["docker", "build", "-q", "-t", IMAGE, "-"], input=context.getvalue(), stdout=subprocess.DEVNULL, check=True)
        self.archive = self.path("image.tar")
        run("docker", "save", "-o", self.archive, IMAGE)
        self.id = run("docker", "image", "inspect", "-f", "{{.Id}}", IMAGE)
        if self.has("podman"):
            run(*peers.podman(self.folder), "load", "-q", "-i", self.archive)
        self.image = {"layers": len(layers), "archive_bytes": os.path.getsize(self.archive)}

    def versions(self):
        def version(*words):
            answer = subprocess.run(words, capture_output=True, text=True)
            numbers = re.search(r"[0-9]+(\.[0-9]+)+\S*", answer.stdout + answer.stderr)
            return numbers[0].rstrip(",") if numbers else "unknown"

        found = {"ecr-push": version(self.ours, "--version"), "dockerd": version("dockerd", "--version"), "docker": version("docker", "--version")}
        found["docker-registry"] = version("docker-registry", "--version")
        found["nginx"] = version("nginx", "-v")
        for name in ("skopeo", "podman"):
            if self.has(name):
                found[name] = version(name, "--version")
        return found

    # One trial.

    def command(self, client, row):
        return {
            "ours": [self.ours, "push", f"docker-archive:{self.archive}", "--to", f"{HOST}/{REPOSITORY}", "-t", "v1", *row.ours],
            "docker": ["docker", "push", IMAGE],
            "skopeo": ["skopeo", "--insecure-policy", "copy", f"docker-archive:{self.archive}", f"docker://{IMAGE}"],
            "skopeo-retry": ["skopeo", "--insecure-policy", "copy", "--retry-times", "5", f"docker-archive:{self.archive}", f"docker://{IMAGE}"],
            "podman": [*peers.podman(self.folder), "push", IMAGE, f"docker://{IMAGE}"],
        }[client]

    def trial(self, client, row, clean, seed, limit):
        empty(self.path("registry"))
        self.memory.wipe()
        shutil.copy(self.path("htpasswd.good"), self.path("htpasswd"))
        self.start_registry()
        record = self.path("record.json")
        with contextlib.suppress(FileNotFoundError):
            os.remove(record)
        rules = [word for rule in faultrows.rules(row, clean, seed) for word in ("--rule", rule)]
        words = ["--listen", "127.0.0.1:443", "--upstream", f"http://{BEHIND}", "--open-tls", "--ca-out", self.certificates, "--record", record]
        proxy = subprocess.Popen([self.proxy, "fault-proxy", *words, "--rate", str(RATE), *rules], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        if not proxy.stdout.readline():
            raise SystemExit("the proxy did not start")
        environment = {**os.environ, "SSL_CERT_FILE": self.certificates, "DOCKER_CONFIG": self.path("login"), "REGISTRY_AUTH_FILE": self.path("login", "config.json")}
        log = self.path("client.log")
        started = time.monotonic()
        before = 0
        with open(log, "wb") as output:
            start = lambda: subprocess.Popen(self.command(client, row), env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)
            status, happened = self.follow(start(), row, clean, record, started + limit)
            if happened and row.event[0] == "kill client":
                # The trial is the second run.
                before, started = quiet(record), time.monotonic()
                status, _ = self.follow(start(), faultrows.CLEAN, clean, record, started + limit)
        seconds = time.monotonic() - started
        proxy.send_signal(signal.SIGTERM)
        proxy.wait(20)
        with open(record) as file:
            seen = json.load(file)
        if client == "docker" and status is None:
            # A cancelled push may hold its slots in dockerd.
            self.stop_engine()
            self.start_engine()
        if not self.registry:
            self.start_registry()
        shutil.copy(self.path("htpasswd.good"), self.path("htpasswd"))
        wrong = self.check() if status == 0 else None
        tagged = self.ask(f"/v2/{REPOSITORY}/manifests/v1", "-u", f"{USER}:{PASSWORD}", "-H", "Accept: application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json") == 200
        self.stop_registry()
        with open(log, errors="replace") as file:
            text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", file.read().replace("\r", "\n"))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        hits = int(happened) if row.event else seen["hits"]
        outcome = "hung" if status is None else "failed" if status else "wrong" if wrong else "done"
        return {
            "row": row.name, "client": client, "seed": seed, "outcome": outcome, "status": status, "wrong": wrong, "tagged": tagged, "hits": hits,
            "seconds": round(seconds, 2), "bytes": sent(seen) - before, "before": before, "clean": clean, "requests": len(seen["requests"]), "limit": limit,
            "stall_said": stall_said(lines), "said": lines[-1] if lines else "", "log": lines[-40:],
        }

    def follow(self, process, row, clean, record, deadline):
        """Waits for the client, and lets happen what the row wants on the way. None is the status of one that hangs."""
        happened, back = False, None
        while process.poll() is None:
            time.sleep(0.05)
            if row.event and not happened and arrived(record) >= row.event[1] * clean:
                happened = True
                if row.event[0] == "kill":
                    self.stop_registry()
                    back = time.monotonic() + 3
                elif row.event[0] == "kill client":
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    shutil.copy(self.path("htpasswd.revoked"), self.path("htpasswd"))
            if back and time.monotonic() > back:
                self.start_registry()
                back = None
            if time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return None, happened
        return process.returncode, happened

    def check(self):
        """What is wrong with the image in the registry; None if nothing is."""
        target = self.path("pulled")
        shutil.rmtree(target, ignore_errors=True)
        words = ["--src-tls-verify=false", "--src-creds", f"{USER}:{PASSWORD}", f"docker://{BEHIND}/{REPOSITORY}:v1", f"dir:{target}"]
        pulled = subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", *words], capture_output=True, text=True)
        if pulled.returncode:
            return f"skopeo cannot bring it back: {pulled.stderr.strip()}"
        with open(os.path.join(target, "manifest.json")) as file:
            manifest = json.load(file)
        config_name = manifest["config"]["digest"].removeprefix("sha256:")
        with open(os.path.join(target, config_name), "rb") as file:
            config = file.read()
        if f"sha256:{hashlib.sha256(config).hexdigest()}" != self.id:
            return "the config is another one"
        for layer, wanted in zip(manifest["layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True):
            with open(os.path.join(target, layer["digest"].removeprefix("sha256:")), "rb") as file:
                if f"sha256:{hashlib.sha256(gzip.decompress(file.read())).hexdigest()}" != wanted:
                    return f"the layer {layer['digest']} does not unpack to its diff ID"
        return None


def sent(record):
    return sum(request["body_bytes"] for request in record["requests"] if faultrows.UPLOADS in request["path"])


def arrived(path):
    try:
        with open(path) as file:
            return sent(json.load(file))
    except FileNotFoundError:
        return 0


def quiet(path):
    """The bytes that have arrived, once no more do: what was under way is still taken in."""
    last, same = arrived(path), 0
    while same < 20:
        time.sleep(0.1)
        now = arrived(path)
        last, same = now, same + 1 if now == last else 0
    return last


def stall_said(lines):
    return any(re.search(r"stall|no progress|no byte|nothing (was )?sent|not moved", line, re.IGNORECASE) for line in lines)
