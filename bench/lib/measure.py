"""The measuring: one push, one round, the repetition of what is too quick to be measured three times."""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import time

import peers as clients
from images import IMAGES, build
from places import FAR_ADDRESS, PORT, Place
from states import States
from system import MB, busy_time, carried, children_of, cpu_of, forget_peak, peak_of, run, say

# Name: (the registry has the image, the clients' memories are kept, the twin is pushed, the tag)
SCENARIOS = {
    "cold": (False, False, False, "v1"),
    "fresh": (True, False, False, "v1"),
    "fresh-but-one": (True, False, True, "v1"),
    "warm": (True, True, False, "v1"),
    "changed": (True, True, True, "v1"),
    "newtag": (True, False, False, "v2"),
}
MANIFESTS = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"


class Bench:
    def __init__(self, chosen, folder):
        self.chosen, self.folder = chosen, folder
        self.ours = os.path.abspath(chosen.binary)
        self.memory = clients.Memory(folder)
        self.engine, self.daemons = None, []
        self.results, self.images, self.failures = [], {}, []
        self.states = None

    def path(self, *names):
        return os.path.join(self.folder, *names)

    # The set-up, inside the namespaces.

    def enter(self, path):
        with contextlib.suppress(OSError):
            os.nice(-10)
            with open("/proc/self/autogroup", "w") as file:
                file.write("-10")
        os.makedirs("/var/lib/containers", exist_ok=True)
        for name in ("home", "tmp", "docker", "registry"):
            os.makedirs(self.path(name))
        for words in (
            ["mount", "--make-rprivate", "/"],
            ["mount", "-t", "proc", "proc", "/proc"],
            ["ip", "link", "set", "lo", "up"],
            ["mount", "-t", "tmpfs", "tmpfs", "/run"],
            # skopeo remembers there which blobs are where.
            ["mount", "-t", "tmpfs", "tmpfs", "/var/lib/containers"],
            ["mount", "-t", "tmpfs", "-o", "size=75%", "tmpfs", self.path("registry")],
        ):
            subprocess.run(words, check=True)
        programs = {name: os.environ[name] for name in clients.VARIABLES if name in os.environ}
        os.environ.clear()
        os.environ.update(
            programs,
            PATH=path,
            HOME=self.path("home"),
            TMPDIR=self.path("tmp"),
            DOCKER_HOST=f"unix://{self.path('docker.sock')}",
            DOCKER_BUILDKIT="0",
            BENCH=self.folder,
        )
        self.states = States(self.path("registry"), self.memory)

    def start_engine(self):
        log = open(self.path("dockerd.log"), "wb")
        words = [
            *self.other_root(), "dockerd", "--data-root", self.path("docker"), "--exec-root", "/run/docker", "--pidfile", "/run/dockerd.pid",
            "-H", os.environ["DOCKER_HOST"], "--iptables=false", "--ip6tables=false", "--bridge=none",
            "--insecure-registry", f"{FAR_ADDRESS}:{PORT}",
        ]
        self.engine = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "version"], capture_output=True).returncode:
            if time.monotonic() > deadline or self.engine.poll() is not None:
                raise SystemExit("dockerd did not start:\n" + tail(self.path("dockerd.log")))
            time.sleep(0.1)
        self.daemons = [self.engine.pid, *children_of(self.engine.pid)]

    def other_root(self):
        """What to put before dockerd so that it is another system's, with the containerd image store."""
        root = self.chosen.engine
        if not root:
            return []
        # containerd cannot unpack where the root is no mount of its own.
        for words in (["--bind", root, root], ["-t", "proc", "proc", f"{root}/proc"], ["--rbind", "/sys", f"{root}/sys"],
                      ["--rbind", "/dev", f"{root}/dev"], ["-t", "tmpfs", "tmpfs", f"{root}/run"], ["-t", "tmpfs", "tmpfs", f"{root}/var/tmp"],
                      ["-t", "tmpfs", "tmpfs", f"{root}/etc/docker"]):
            os.makedirs(words[-1], exist_ok=True)
            run("mount", *words)
        os.makedirs(root + self.folder)
        run("mount", "--bind", self.folder, root + self.folder)
        with open(f"{root}/etc/docker/daemon.json", "w") as file:
            json.dump({"features": {"containerd-snapshotter": True}}, file)
        return ["chroot", root]

    def stop_engine(self):
        if self.engine and self.engine.poll() is None:
            self.engine.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.engine.wait(20)

    # All groups.

    def measure(self, groups):
        started = time.monotonic()
        for group in groups:
            # Built when first needed, in all the forms that any group needs.
            if group.image not in self.images:
                same = [other for other in groups if other.image == group.image]
                forms = {clients.form(peer) for other in same for peer in other.peers}
                twin = any(SCENARIOS[scenario][2] for other in same for scenario in other.scenarios)
                self.images[group.image] = build(group.image, self.folder, forms, twin, clients.podman(self.folder))
            with Place(group.place, self.folder) as place:
                Group(self, group, place).measure()
            self.states.drop()
            say(f"{len(self.results)} pushes, {time.monotonic() - started:.0f} s so far")


class PushFailed(Exception):
    pass


class Group:
    """Some peers and scenarios with one image at one place. In each round another peer begins."""

    def __init__(self, bench, group, place):
        self.bench, self.group, self.place = bench, group, place
        self.out = set()  # peers of which a push failed: they are left out from then on

    def measure(self):
        for number in range(self.group.rounds):
            for peer in rotated(self.group.peers, number):
                self.all_scenarios(peer, number)
        self.repeat_quick_ones()

    def all_scenarios(self, peer, number):
        if not self.bench.states.has(peer) or "cold" in self.group.scenarios:
            self.one(peer, "cold", number)
        for scenario in self.group.scenarios:
            if scenario != "cold":
                self.one(peer, scenario, number)

    def repeat_quick_ones(self):
        chosen = self.bench.chosen
        number = self.group.rounds
        while True:
            quick = [
                (scenario, peer)
                for scenario in self.group.scenarios
                for peer in rotated(self.group.peers, number)
                if peer not in self.out
                if len(walls := self.walls(peer, scenario)) < chosen.fast_rounds and statistics.median(walls) < chosen.fast
            ]
            if not quick:
                return
            for scenario, peer in quick:
                self.one(peer, scenario, number)
            number += 1

    def walls(self, peer, scenario):
        key = (self.place.name, self.group.image, peer, scenario)
        return [r["wall"] for r in self.bench.results if (r["place"], r["image"], r["peer"], r["scenario"]) == key]

    def one(self, peer, scenario, number):
        if peer in self.out:
            return
        try:
            self.cold(peer, number) if scenario == "cold" else self.again(peer, scenario, number)
        except PushFailed as failure:
            self.out.add(peer)
            self.bench.failures.append({"place": self.place.name, "image": self.group.image, "peer": peer, "scenario": scenario, "error": str(failure)})
            say(f"FAILED: {self.place.name} {self.group.image} {scenario} {peer}: {failure}")

    def cold(self, peer, number):
        self.bench.states.empty()
        result = self.push(peer, "cold")
        if "cold" in self.group.scenarios:
            self.note(peer, "cold", number, result)
        if len(self.group.scenarios) > 1 or "cold" not in self.group.scenarios:
            self.bench.states.save(peer)

    def again(self, peer, scenario, number):
        self.bench.states.restore(peer, memory=SCENARIOS[scenario][1])
        self.note(peer, scenario, number, self.push(peer, scenario))

    def note(self, peer, scenario, number, result):
        where = {"place": self.place.name, "image": self.group.image, "peer": peer, "scenario": scenario, "round": number + 1}
        self.bench.results.append({**where, **result})
        say(
            f"{self.place.name} {number + 1:2} {self.group.image:6} {scenario:13} {clients.label(peer):28} {result['wall']:7.3f} s  "
            f"cpu {result['cpu']:6.2f}  {result['rss'] / MB:6.1f} MB  {sum(result['requests'].values()):4} requests  "
            f"others {result['others']:.0%}"
        )

    def push(self, peer, scenario):
        bench, place, image = self.bench, self.place, self.group.image
        _, _, twin, tag = SCENARIOS[scenario]
        name = f"{image}-changed" if twin else image
        # docker push pushes a name in its store; the twin takes the name of the image for the time of a push.
        run("docker", "tag", f"{name}:1", f"{place.registry}/bench/{image}:{tag}")
        words = clients.command(peer, bench.ours, bench.folder, place, image, name, tag)
        result = timed(words, bench.daemons if clients.uses_daemon(peer) else [], place, bench.folder)
        self.check(name, tag)
        result["requests"] = place.requests_since(result.pop("log"))
        result["stored"] = bench.states.stored()
        return result

    def check(self, name, tag):
        """The tag is there and leads to the config of the image that was to be pushed."""
        image = self.group.image
        manifest = json.load(self.place.request(f"bench/{image}/manifests/{tag}", Accept=MANIFESTS))
        config = json.load(self.place.request(f"bench/{image}/blobs/{manifest['config']['digest']}"))
        if f"NAME={name}" not in config["config"]["Env"] or len(manifest["layers"]) != len(IMAGES[image]):
            raise PushFailed(f"what is under the tag is not {name}")


def timed(words, daemons, place, folder):
    """Runs a command and says what it, the daemons, the registry and the link used meanwhile."""
    for pid in daemons:
        forget_peak(pid)
    helpers = {"registry_cpu": place.process.pid, "link_cpu": place.link.pid if place.link else None}
    cpu, busy, wire = sum(map(cpu_of, daemons)), busy_time(), carried(place.device)
    used = {what: cpu_of(pid) if pid else 0 for what, pid in helpers.items()}
    log = os.path.getsize(place.log)
    memory, errors = os.path.join(folder, "memory"), os.path.join(folder, "stderr")
    with open(errors, "wb") as stderr:
        start = time.monotonic()
        # By way of time(1): what wait4 says of a child includes this interpreter's own memory, as it was before exec.
        process = subprocess.Popen(["time", "-q", "-f", "%M", "-o", memory, *words], stdout=subprocess.DEVNULL, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
    process.returncode = status
    if status:
        raise PushFailed(f"{' '.join(words)}: status {os.waitstatus_to_exitcode(status)}\n{tail(errors)}")
    own = usage.ru_utime + usage.ru_stime
    cpu, busy = sum(map(cpu_of, daemons)) - cpu, busy_time() - busy
    used = {what: cpu_of(pid) - used[what] if pid else 0 for what, pid in helpers.items()}
    with open(memory) as file:
        command_rss = int(file.read().split()[-1]) * 1024
    return {
        "wall": wall,
        "cpu": own + cpu,
        "command_cpu": own,
        **used,
        "rss": command_rss + sum(map(peak_of, daemons)),
        "command_rss": command_rss,
        "wire": carried(place.device) - wire,
        "others": max(0, busy - own - cpu - sum(used.values())) / (wall * os.cpu_count()),
        "log": log,
    }


def rotated(things, number):
    first = number % len(things)
    return things[first:] + things[:first]


def tail(path):
    with open(path, errors="replace") as file:
        return file.read()[-2000:]
