"""Small questions to the kernel and the file system."""

import os
import shutil
import subprocess
import sys

MB = 1_000_000
TICK = os.sysconf("SC_CLK_TCK")


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(*words, **more):
    done = subprocess.run(words, capture_output=True, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr.decode()}")
    return done.stdout.decode().strip()


def cpu_of(pid):
    """User and system time of a process and of the children it has waited for."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICK


def children_of(pid):
    """Any of its threads may have started them."""
    found = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found.update(map(int, file.read().split()))
    return sorted(found)


def forget_peak(pid):
    with open(f"/proc/{pid}/clear_refs", "w") as file:
        file.write("5")


def peak_of(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def busy_time():
    """Seconds that all cores together have worked."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK


def carried(device):
    """Bytes that crossed a network device, both ways. What loopback sends it also receives: it counts once."""
    with open("/proc/net/dev") as file:
        fields = next(line.split() for line in file if line.strip().startswith(f"{device}:"))
    return int(fields[9]) + (int(fields[1]) if device != "lo" else 0)


def empty(folder):
    if os.path.isdir(folder):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.remove(path)


def tree_size(folder):
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)


def go_version(path):
    """The Go release a program was built with, which decides how fast it compresses; None for other programs."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        return None
    at = content.rfind(b"\xff Go buildinf:")
    # Since Go 1.18: 32 bytes of header, then a length and the text.
    text = content[at + 33 : at + 33 + content[at + 32]] if at >= 0 else b""
    return text.decode().split()[0] if text.startswith(b"go1.") else None
