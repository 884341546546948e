"""Where the registry is: on loopback, or in another network namespace behind bench/link."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

FAR_NAMESPACE = "far"
FAR_ADDRESS = "198.18.0.2"
PORT = 5000
LINK = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "link")


def parse(name):
    """`loopback`, or a link such as `20ms-1000mbit`: (round trip in ms, Mbit/s) or None."""
    if name == "loopback":
        return None
    match = re.fullmatch(r"([0-9.]+)ms-([0-9.]+)mbit", name)
    if not match:
        raise ValueError(f"{name} is neither loopback nor of the form 20ms-1000mbit")
    return float(match[1]), float(match[2])


def title(name):
    shape = parse(name)
    if not shape:
        return "loopback"
    rate = f"{shape[1] / 1000:g} Gbit/s" if shape[1] >= 1000 else f"{shape[1]:g} Mbit/s"
    return f"{shape[0]:g} ms, {rate}"


class Place:
    """The registry, and the link to it, as long as a `with` lasts."""

    def __init__(self, name, folder):
        self.name, self.folder, self.shape = name, folder, parse(name)
        self.loopback = not self.shape
        self.registry = f"127.0.0.1:{PORT}" if self.loopback else f"{FAR_ADDRESS}:{PORT}"
        self.device = "lo" if self.loopback else "near0"
        self.log = os.path.join(folder, "registry.log")
        self.link = self.process = None

    def __enter__(self):
        try:
            words = ["docker-registry", "serve", self.configuration()]
            if not self.loopback:
                self.start_link()
                words = ["nsenter", f"--net=/run/netns/{FAR_NAMESPACE}", *words]
            log = open(self.log, "wb")
            self.process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            deadline = time.monotonic() + 30
            while not self.answers():
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit(f"docker-registry did not start: see {self.log}")
                time.sleep(0.05)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in (self.process, self.link):
            if process and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if self.link:
            subprocess.run(["ip", "netns", "delete", FAR_NAMESPACE], check=True)

    def configuration(self):
        path = os.path.join(self.folder, "registry.yml")
        config = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": os.path.join(self.folder, "registry", "live")}, "delete": {"enabled": True}},
            "http": {"addr": self.registry, "secret": "not a secret"},
        }
        with open(path, "w") as file:
            json.dump(config, file)
        return path

    def start_link(self):
        subprocess.run(["ip", "netns", "add", FAR_NAMESPACE], check=True)
        subprocess.run(["ip", "-n", FAR_NAMESPACE, "link", "set", "lo", "up"], check=True)
        rtt, rate = map(str, self.shape)
        self.link = subprocess.Popen(
            [sys.executable, LINK, "--far", FAR_NAMESPACE, "--rtt", rtt, "--rate", rate], stdout=subprocess.PIPE
        )
        if not self.link.stdout.readline():
            raise SystemExit("the link did not start")

    def request(self, path, **headers):
        return urllib.request.urlopen(urllib.request.Request(f"http://{self.registry}/v2/{path}", headers=headers), timeout=30)

    def answers(self):
        try:
            return self.request("").status == 200
        except (OSError, urllib.error.URLError):
            return False

    def requests_since(self, offset):
        """By method, as the registry's log has them; without those of this program."""
        counts = {}
        with open(self.log, "rb") as file:
            file.seek(offset)
            for line in file.read().splitlines():
                match = re.search(rb'"([A-Z]+) [^"]* HTTP/1\.', line)
                if match and b"Python-urllib" not in line:
                    method = match[1].decode()
                    counts[method] = counts.get(method, 0) + 1
        return counts
