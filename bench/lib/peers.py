"""The programs that push, how each is called, and what each remembers between pushes."""

import os
import re
import shutil
import subprocess

from system import empty, go_version, run

# Name: (program, whether dockerd takes part, the form of the image it reads)
PEERS = {
    "docker": ("docker", True, "daemon"),
    "skopeo-daemon": ("skopeo", True, "daemon"),
    "skopeo-archive": ("skopeo", False, "archive"),
    "skopeo-oci": ("skopeo", False, "oci"),
    "skopeo2-daemon": ("SKOPEO2", True, "daemon"),
    "skopeo2-archive": ("SKOPEO2", False, "archive"),
    "skopeo2-oci": ("SKOPEO2", False, "oci"),
    "podman": ("podman", False, "podman"),
    "buildah": ("buildah", False, "podman"),
    "crane-archive": ("CRANE", False, "archive"),
    "crane-oci": ("CRANE", False, "oci"),
    "regctl-archive": ("REGCTL", False, "archive"),
    "regctl-oci": ("REGCTL", False, "oci"),
    "oras-oci": ("ORAS", False, "oci"),
    "ours-daemon": ("ours", True, "daemon"),
    "ours-daemon-api": ("ours", True, "daemon"),
    "ours-archive": ("ours", False, "archive"),
    "ours-oci": ("ours", False, "oci"),
}
# Programs that are no part of a distribution's usual set are named by a variable of this name.
VARIABLES = ["CRANE", "REGCTL", "ORAS", "SKOPEO2"]


def split(peer):
    """`ours-daemon:--compression=gzip:fast:--threads=2` is a name of the table and further words for its command."""
    name, *more = re.split(r":(?=-)", peer)
    return name, more


def label(peer):
    """Short, for tables: `ours-daemon gzip:fast`."""
    name, more = split(peer)
    words = [re.sub(r"^--compression=", "", word) for word in more]
    return " ".join([name, *(word.lstrip("-").replace("=", " ") for word in words)])


def uses_daemon(peer):
    return PEERS[split(peer)[0]][1]


def form(peer):
    return PEERS[split(peer)[0]][2]


def program(peer, ours):
    """The path of the program, or None where it is not there."""
    name = PEERS[split(peer)[0]][0]
    name = ours if name == "ours" else os.environ.get(name) if name in VARIABLES else name
    return name and shutil.which(name)


def podman(folder, name="podman"):
    """podman and buildah share one storage."""
    words = [name, "--root", os.path.join(folder, "podman"), "--runroot", "/run/podman", "--storage-driver=overlay"]
    return words + ["--cgroup-manager=cgroupfs"] if name == "podman" else words


def command(peer, ours, folder, place, image, name, tag):
    """Pushes the image or its twin, called `name`, to the repository bench/IMAGE under the tag."""
    base, more = split(peer)
    program_path = program(peer, ours)
    target = f"{place.registry}/bench/{image}"
    source = os.path.join(folder, name)
    archive, layout = f"docker-archive:{source}.tar", f"oci:{source}.oci:v1"

    def skopeo(*words):
        return [program_path, "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *more, *words, f"docker://{target}:{tag}"]

    def containers(program_name, local):
        return [*podman(folder, program_name), "push", "-q", "--tls-verify=false", *more, local, f"docker://{target}:{tag}"]

    def ecr_push(what, *words):
        http = [] if place.loopback else ["--plain-http"]
        return [program_path, "push", what, "--to", target, "-t", tag, "--quiet", *http, *words, *more]

    def regctl(*words):
        return [program_path, "--host", f"reg={place.registry},tls=disabled", "image", *words]

    return {
        "docker": lambda: ["docker", "push", "-q", *more, f"{target}:{tag}"],
        "skopeo-daemon": lambda: skopeo(f"--src-daemon-host={os.environ['DOCKER_HOST']}", f"docker-daemon:{name}:1"),
        "skopeo-archive": lambda: skopeo(archive),
        "skopeo-oci": lambda: skopeo(layout),
        "podman": lambda: containers("podman", f"localhost/{name}:1"),
        "buildah": lambda: containers("buildah", f"localhost/{name}:1"),
        "crane-archive": lambda: [program_path, "push", "--insecure", *more, f"{source}.tar", f"{target}:{tag}"],
        "crane-oci": lambda: [program_path, "push", "--insecure", *more, f"{source}.oci", f"{target}:{tag}"],
        "regctl-archive": lambda: regctl("import", *more, f"{target}:{tag}", f"{source}.tar"),
        "regctl-oci": lambda: regctl("copy", *more, f"ocidir://{source}.oci:v1", f"{target}:{tag}"),
        "oras-oci": lambda: [program_path, "cp", "--from-oci-layout", "--to-plain-http", *more, f"{source}.oci:v1", f"{target}:{tag}"],
        "ours-daemon": lambda: ecr_push(f"docker-daemon:{name}:1"),
        "ours-daemon-api": lambda: ecr_push(f"docker-daemon:{name}:1", "--engine-store", "off"),
        "ours-archive": lambda: ecr_push(archive),
        "ours-oci": lambda: ecr_push(layout),
    }[base.replace("skopeo2", "skopeo")]()


class Memory:
    """What the clients remember: what dockerd and the users of containers/image know of blobs in registries, and the user's caches."""

    def __init__(self, folder):
        self.places = [
            os.path.join(folder, "docker", "image", "overlay2", "distribution"),
            "/var/lib/containers/cache",
            os.path.join(folder, "podman", "cache"),
            os.path.join(folder, "home", ".cache"),
        ]

    def wipe(self):
        for place in self.places:
            empty(place)

    def save(self, shelf):
        for number, place in enumerate(self.places):
            if os.path.isdir(place):
                shutil.copytree(place, os.path.join(shelf, str(number)), symlinks=True, dirs_exist_ok=True)

    def restore(self, shelf):
        self.wipe()
        for number, place in enumerate(self.places):
            saved = os.path.join(shelf, str(number))
            if os.path.isdir(saved):
                shutil.copytree(saved, place, symlinks=True, dirs_exist_ok=True)


def versions(peers, ours):
    """Name, version and Go release of everything that takes part. Needs dockerd to be up; its own containerd is part of it."""
    found = {}

    def note(name, words, path):
        answer = subprocess.run(words, capture_output=True, text=True)
        numbers = re.search(r"v?[0-9]+(\.[0-9]+)+\S*", answer.stdout)
        found[name] = {"version": numbers[0].rstrip(",") if numbers else "of unknown version", "go": path and go_version(path)}

    note("dockerd", ["docker", "version", "-f", "{{.Server.Version}}"], None)
    found["dockerd"]["go"] = run("docker", "version", "-f", "{{.Server.GoVersion}}")
    containerd_store = "io.containerd.snapshotter" in run("docker", "info", "-f", "{{.DriverStatus}}")
    found["dockerd"]["version"] += f" ({'containerd' if containerd_store else run('docker', 'info', '-f', '{{.Driver}}')} store)"
    note("docker", ["docker", "--version"], shutil.which("docker"))
    note("docker-registry", ["docker-registry", "--version"], shutil.which("docker-registry"))
    for peer in peers:
        name, path = PEERS[split(peer)[0]][0], program(peer, ours)
        if name not in found and path:
            word = "version" if name in ("CRANE", "REGCTL", "ORAS") else "--version"
            note(name, [path, word], path)
    return found
