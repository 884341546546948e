"""The images: built FROM scratch by dockerd out of regular files below /usr, drawn in an order that a fixed seed gives. The same on one
machine, not on two. The last layer is a small one. A twin differs from its image in that layer alone."""

import io
import os
import random
import tarfile

from system import MB, run, say, tree_size

IMAGES = {
    "small": [7 * MB] * 4 + [2 * MB],
    "app": [44.2 * MB] * 9 + [2 * MB],
    "many": [2 * MB] * 60,
    "big": [1200 * MB, 300 * MB, 200 * MB, 180 * MB, 118 * MB, 2 * MB],
}
TITLES = {"small": "30 MB in 5 layers", "app": "400 MB in 10 layers", "many": "60 layers of 2 MB", "big": "2 GB, one layer of 1.2 GB"}


class Supply:
    """Files of this machine. One that is too large for the place it was drawn for waits for a larger place."""

    def __init__(self):
        self.paths, self.spare = shuffled_paths(), []

    def take(self, largest):
        for at, (path, size) in enumerate(self.spare):
            if size <= largest:
                del self.spare[at]
                return path, size
        while self.paths:
            path = self.paths.pop()
            try:
                size = 0 if os.path.islink(path) or not os.access(path, os.R_OK) else os.path.getsize(path)
            except OSError:
                continue
            if 0 < size <= largest:
                return path, size
            if 0 < size < 64 * MB:
                self.spare.append((path, size))
        raise SystemExit("there are too few files below /usr for these images")


def shuffled_paths():
    paths = []
    for top in ("/usr/bin", "/usr/lib", "/usr/share", "/usr/local"):
        for folder, folders, files in os.walk(top):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            paths += [os.path.join(folder, name) for name in sorted(files)]
    random.Random(1).shuffle(paths)
    return paths


def fill(tar, folder, size, supply):
    """Until less than one hundredth is missing. No file is larger than a quarter of the layer."""
    left = size
    while left > size / 100:
        path, length = supply.take(min(left, size / 4))
        with open(path, "rb") as file:
            put(tar, folder + path, file.read())
        left -= length


def put(tar, name, content):
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = len(content), 0o644, 1_700_000_000
    tar.addfile(header, io.BytesIO(content))


def build(image, folder, forms, with_twin, podman):
    """In dockerd; as archive FOLDER/NAME.tar; as layout FOLDER/NAME.oci if "oci" is among the forms; in podman's storage if "podman" is."""
    sizes = IMAGES[image]
    supply = Supply()
    layers = "".join(f"COPY layer{number} /layer{number}/\n" for number in range(len(sizes) - 1))
    with Context(folder, f"FROM scratch\n{layers}") as context:
        for number, size in enumerate(sizes[:-1]):
            fill(context.tar, f"layer{number}", size, supply)
        context.build(f"{image}-base:1")
    for name in [image, f"{image}-changed"] if with_twin else [image]:
        with Context(folder, f"FROM {image}-base:1\nCOPY last /last/\nENV NAME={name}\n") as context:
            fill(context.tar, "last", sizes[-1], supply)
            context.build(f"{name}:1")
        path = os.path.join(folder, name)
        run("docker", "save", "-o", f"{path}.tar", f"{name}:1")
        if "oci" in forms:
            run("skopeo", "--insecure-policy", "copy", "-q", f"docker-archive:{path}.tar", f"oci:{path}.oci:v1")
        if "podman" in forms:
            run(*podman, "load", "-q", "-i", f"{path}.tar")
    archive, layout = os.path.join(folder, f"{image}.tar"), os.path.join(folder, f"{image}.oci")
    sizes = {"layers": len(IMAGES[image]), "archive": os.path.getsize(archive), "layout": tree_size(layout) if "oci" in forms else None}
    say(f"built {image}: {sizes}")
    return sizes


class Context:
    """What `docker build` is given."""

    def __init__(self, folder, dockerfile):
        self.path, self.dockerfile = os.path.join(folder, "context"), dockerfile

    def __enter__(self):
        self.tar = tarfile.open(self.path, "w", format=tarfile.GNU_FORMAT)
        put(self.tar, "Dockerfile", self.dockerfile.encode())
        return self

    def build(self, name):
        self.tar.close()
        with open(self.path, "rb") as context:
            run("docker", "build", "-q", "-t", name, "-", stdin=context)

    def __exit__(self, *_):
        os.remove(self.path)
