#!/usr/bin/env python3
"""Writes images that are hard to put together again from an engine's store.

    odd_images.py FOLDER

makes FOLDER/NAME.load for `docker load` and FOLDER/NAME.context for `docker build -`. Only the standard library, GNU tar and ldd.
"""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile

MTIME = 1_500_000_000
ODD_NAMES = ["caf\udce9", "\udcff\udcfe/low", "größe 測試", "<&>\u2028", "back\\slash", "new\nline", 'quo"te', "tab\t"]
ODD_NAMES += [" ", "\x01", "\ufffd"]
# CAP_NET_BIND_SERVICE, permitted and effective, as `setcap` stores it.
CAPABILITY = b"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
ROOM = "r" * 90


def noise(size, seed):
    return random.Random(seed).randbytes(size)


class Tar:
    """A tar in memory. Each call adds an entry and gives the tar."""

    def __init__(self, format=tarfile.PAX_FORMAT, **more):
        self.bytes = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.bytes, mode="w", format=format, errors="surrogateescape", **more)

    def file(self, name, content=b"", **fields):
        info = tarfile.TarInfo(name)
        info.size, info.mtime = len(content), MTIME
        for field, value in fields.items():
            setattr(info, field, value)
        self.tar.addfile(info, io.BytesIO(content))
        return self

    def files(self, names):
        for name in names:
            self.file(name, f"content of {name}".encode(errors="surrogateescape"))
        return self

    def folder(self, name, mode=0o755):
        return self.file(name, type=tarfile.DIRTYPE, mode=mode)

    def hard(self, name, to):
        return self.file(name, type=tarfile.LNKTYPE, linkname=to)

    def soft(self, name, to):
        return self.file(name, type=tarfile.SYMTYPE, linkname=to)

    def device(self, name, kind, major=0, minor=0):
        return self.file(name, type=kind, devmajor=major, devminor=minor)

    def done(self, padding=b""):
        self.tar.close()
        return self.bytes.getvalue() + padding


def without_end(tar):
    """A tar that just stops after its last entry."""
    stripped = tar.rstrip(b"\0")
    return stripped + b"\0" * (-len(stripped) % 512)


def before_posix(name, content):
    """A tar of one file with the header of Unix V7: no magic, no user names."""
    head = bytearray(512)
    for at, field in ((0, name), (100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"), (136, b"%011o\0" % MTIME)):
        head[at : at + len(field)] = field
    head[124:136], head[148:156] = b"%011o\0" % len(content), b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content + b"\0" * (-len(content) % 512 + 1024)


def with_holes():
    """What GNU tar makes of a file with holes, in the form that other programs understand."""
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "holes"), "wb") as file:
            file.truncate(8 << 20)
            file.seek(3 << 20)
            file.write(noise(100_000, "holes"))
        words = ["tar", "-C", folder, "--sparse", "--format=posix", "--sparse-version=1.0", "-cf", "-", "holes"]
        return subprocess.run(words, check=True, capture_output=True).stdout


def programs(names):
    """Programs of this machine with the libraries they need, by the path they have in an image."""
    files = {}
    for name in names:
        program = shutil.which(name, path="/usr/bin:/bin")
        files[f"bin/{name}"] = program
        for word in subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout.split():
            if word.startswith("/"):
                files[word.lstrip("/")] = word
    return {path: open(file, "rb").read() for path, file in files.items()}


def loaded():
    """Images by name, each a list of layers."""
    base = Tar().files(["etc/keep", "etc/gone", "dir/one", "dir/two", "opaque/old"]).done()
    empty = Tar().done()
    hard = Tar().file("a", noise(70_000, 1)).hard("b", "a").folder("d").hard("d/c", "a").file("d/x", b"x").hard("y", "d/x")
    colour = {"SCHILY.xattr.user.colour": "blue"}
    capability = {"SCHILY.xattr.security.capability": CAPABILITY.decode(errors="surrogateescape")}
    odd_pax = {"comment": "no more than a comment", "atime": "1234567890.5", "ctime": "1234567891.25", "EXAMPLE.own": "value"}
    devices = Tar().device("null", tarfile.CHRTYPE, 1, 3).device("loop", tarfile.BLKTYPE, 7, 0).device("pipe", tarfile.FIFOTYPE)
    modes = Tar().file("setuid", b"u", mode=0o4755).file("setgid", b"g", mode=0o2711).folder("sticky", 0o1777)
    modes.file("none", b"n", mode=0).file("user", b"u", uid=1234, gid=4321, uname="someone", gname="some")
    times = Tar().file("epoch", b"e", mtime=0).file("before", b"b", mtime=-5).file("parts", b"p", mtime=1.123456789)
    times.file("far", b"f", mtime=2**34)
    dots = Tar().folder("./").file("./a", b"a").file("b/../c", b"c").file("/absolute", b"r").file("d//e", b"e")
    linked = Tar().folder("real").soft("link", "real")

    yield "one-file", [Tar().file("file", b"one\n").done()]
    yield "hard-links", [hard.done()]
    yield "extended-attributes", [Tar().file("user", b"u", pax_headers=colour).file("program", b"p", pax_headers=capability).done()]
    for kind, format in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        names = Tar(format).file("n" * 101, b"101").file("m" * 255, b"255").file(f"{ROOM}/{ROOM}/{'o' * 120}", b"302")
        yield f"long-names-{kind}", [names.soft("soft", "s" * 300).done()]
        yield f"odd-names-{kind}", [Tar(format).files(ODD_NAMES).done()]
    yield "ustar-prefix", [Tar(tarfile.USTAR_FORMAT).file(f"{ROOM}/{ROOM}", b"prefix").done()]
    yield "deleted", [base, Tar().file("etc/.wh.gone").file("dir/.wh.one").done(), Tar().file(".wh.dir").file("new", b"new").done()]
    yield "opaque", [base, Tar().file("opaque/.wh..wh..opq").file("opaque/new", b"new").done()]
    swapped = Tar().file("dir", b"a file").folder("etc/keep").file("etc/keep/in", b"in").done()
    yield "replaced", [base, swapped, Tar().file(".wh.dir").folder("dir").file("dir/3", b"3").done()]
    yield "empty-layers", [empty, base, empty, Tar().done(b"\0" * (2 << 20))]
    yield "repeated-layers", [base, hard.bytes.getvalue(), base, base]
    yield "empty-files", [Tar().file("a").file("b").folder("d").file("d/c", mode=0o600).done()]
    linked.soft("dangling", "../nowhere").soft("loop", "loop").soft("real/up", "../real").file("real/file", b"file")
    yield "symlinks", [linked.done()]
    yield "through-a-symlink", [Tar().folder("real").soft("link", "real").file("link/file", b"by way of a link").done()]
    below = Tar().folder("real").soft("link", "real").done()
    yield "through-a-symlink-below", [below, Tar().file("link/file", b"in a folder of its own").done()]
    yield "devices", [devices.file("after", b"after").done()]
    yield "modes", [modes.file("large-ids", b"l", uid=2**31 - 2, gid=2**31 - 2).done()]
    yield "times", [times.done()]
    headers = Tar(pax_headers={"comment": "for the whole tar"}).file("odd", b"odd", pax_headers=odd_pax)
    yield "pax-headers", [headers.file("plain", b"plain").done()]
    yield "dots", [dots.done()]
    yield "trailing", [Tar().file("a", b"a").done(noise(1_500_001, "trailing")), without_end(Tar().file("b", b"b" * 1000).done())]
    yield "before-posix", [before_posix(b"old", b"old\n")]
    yield "large", [Tar().file("large", noise(60 << 20, "large")).done()]
    yield "many", [Tar().files(f"{i % 40}/{i % 7}/{i}" for i in range(4000)).done()]


def built():
    """Build contexts by name, each a Dockerfile and files."""
    copied = {"a": b"a\n", "noise": noise((2 << 20) + 17, 2), "d/511": b"x" * 511, "d/512": b"y" * 512, "d/513": b"z" * 513, "empty": b""}
    yield "copied", "FROM scratch\nCOPY a /a\nCOPY . /all/\nENV A=B\nCOPY empty /empty\nCOPY a /all/noise\n", copied
    yield "sparse", "FROM scratch\nADD holes.tar /holes/\n", {"holes.tar": with_holes()}
    steps = ["rm -r /data/gone && mkdir /data/gone && echo new >/data/gone/new", "rm /data/file", "true", "ln /data/kept /data/hard"]
    steps += ["mv /data/folder /data/moved", "rm -r /data/swap && echo file >/data/swap", "mkfifo /data/pipe && chmod 4755 /data/kept"]
    data = {f"data/{name}": name.encode() for name in ("gone/old", "file", "kept", "folder/in", "swap/in")}
    files = programs(["sh", "rm", "mkdir", "ln", "mv", "mkfifo", "chmod"]) | data
    yield "run", "FROM scratch\nCOPY . /\n" + "".join(f"RUN {step}\n" for step in steps), files


def to_load(name, layers):
    """The archive of an image, as `docker load` takes it."""
    diff_ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    history = [{"created_by": f"{name} {number}"} for number in range(len(layers))]
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history}
    paths = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": [f"odd/{name}:1"], "Layers": paths}]
    archive = Tar().file("config.json", json.dumps(config).encode())
    for path, layer in zip(paths, layers):
        archive.file(path, layer)
    return archive.file("manifest.json", json.dumps(manifest).encode()).done()


def to_build(dockerfile, files):
    """A context of `docker build`."""
    context = Tar().file("Dockerfile", dockerfile.encode()).file(".dockerignore", b"Dockerfile\n.dockerignore\n")
    for path, content in files.items():
        context.file(path, content, mode=0o755)
    return context.done()


def main(folder):
    for name, layers in loaded():
        with open(os.path.join(folder, f"{name}.load"), "wb") as file:
            file.write(to_load(name, layers))
    for name, dockerfile, files in built():
        with open(os.path.join(folder, f"{name}.context"), "wb") as file:
            file.write(to_build(dockerfile, files))


if __name__ == "__main__":
    main(sys.argv[1])
