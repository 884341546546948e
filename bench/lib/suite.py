"""What is measured when nothing is chosen, and what is expected of it."""

from dataclasses import dataclass

FAST = "--compression=gzip:fast"
ZSTD = "--compression=zstd"


@dataclass
class Group:
    place: str
    image: str
    scenarios: list
    peers: list
    rounds: int


APP_PEERS = [
    "docker", "skopeo-daemon", "skopeo-archive", "skopeo-oci", "skopeo2-archive", "podman", "buildah", "crane-archive", "crane-oci",
    "regctl-archive", "regctl-oci", "oras-oci",
    "ours-daemon", f"ours-daemon:{FAST}", f"ours-daemon:{ZSTD}", "ours-daemon-api", "ours-archive", f"ours-archive:{FAST}", "ours-oci",
]
BIG_PEERS = [
    "docker", "skopeo-daemon", "skopeo-archive", "skopeo2-archive", "crane-archive", "crane-oci", "oras-oci",
    "ours-daemon", f"ours-daemon:{FAST}", "ours-daemon-api", "ours-archive", f"ours-archive:{FAST}", "ours-oci",
]
FEW_PEERS = [
    "docker", "skopeo-archive", "skopeo2-archive", "crane-archive", "crane-oci", "regctl-oci", "oras-oci",
    "ours-daemon", f"ours-daemon:{FAST}", "ours-archive", "ours-oci",
]
MOST = ["cold", "fresh", "fresh-but-one", "warm", "changed"]


def standard(rounds):
    """Groups of one image follow each other closely, so that it is in memory."""
    return [
        Group("loopback", "app", MOST, APP_PEERS, rounds),
        Group("20ms-1000mbit", "app", ["cold", "fresh", "changed"], FEW_PEERS, rounds),
        Group("20ms-1000mbit", "many", MOST, FEW_PEERS, rounds),
        Group("loopback", "many", ["cold", "changed"], FEW_PEERS, rounds),
        Group("loopback", "small", MOST, FEW_PEERS, rounds),
        Group("loopback", "big", ["cold"], BIG_PEERS, min(rounds, 2)),
    ]


@dataclass
class Target:
    """Ours, by median, takes at most `most` times what the quickest of `peers` takes. Without `most` the ratio is shown and not judged.

    Where that peer is quicker than what counts as fast, a limit below FAST_MOST is raised to it, and many runs are needed."""

    name: str
    place: str
    image: str
    scenario: str
    ours: str
    peers: list
    most: float = None


FAST_MOST = 1.05
LINK = "20ms-1000mbit"
DAEMON = "ours-daemon"
TARGETS = [
    Target("fresh runner, registry has all", "loopback", "app", "fresh", DAEMON, ["docker"], 1 / 50),
    Target("fresh runner, all but one small layer", "loopback", "app", "fresh-but-one", DAEMON, ["docker"], 1 / 25),
    Target("cold, from dockerd, default gzip", "loopback", "app", "cold", DAEMON, ["docker"], 1 / 3.2),
    Target("cold, from dockerd, gzip:fast", "loopback", "app", "cold", f"{DAEMON}:{FAST}", ["docker"], 1 / 5),
    Target("cold, from dockerd, zstd", "loopback", "app", "cold", f"{DAEMON}:{ZSTD}", ["docker"], 1 / 6),
    Target("cold, Engine API only", "loopback", "app", "cold", "ours-daemon-api", ["docker"], 1 / 1.5),
    Target("cold, Engine API only", "loopback", "app", "cold", "ours-daemon-api", ["skopeo-daemon"], 1 / 1.3),
    Target("cold, from an archive, default gzip", "loopback", "app", "cold", "ours-archive", ["skopeo-archive"], 1 / 1.3),
    Target("cold, from an archive, default gzip", "loopback", "app", "cold", "ours-archive", ["crane-archive"], 1 / 2.2),
    Target("cold, from an archive, gzip:fast", "loopback", "app", "cold", f"ours-archive:{FAST}", ["skopeo-archive"], 1 / 2),
    Target("cold, from an archive, gzip:fast", "loopback", "app", "cold", f"ours-archive:{FAST}", ["crane-archive"], 1 / 3.5),
    Target("cold, from a layout", "loopback", "app", "cold", "ours-oci", ["crane-oci", "oras-oci"], 1),
    Target("one layer changed, warm host", "loopback", "app", "changed", DAEMON, ["docker"], 1),
    Target("one layer changed, warm host, layout", "loopback", "app", "changed", "ours-oci", ["crane-oci"], 1),
    Target("the same push again", "loopback", "app", "warm", DAEMON, ["docker"], 1),
    Target("the same push again, layout", "loopback", "app", "warm", "ours-oci", ["crane-oci"], 1),
    Target("2 GB, one layer of 1.2 GB, cold, dockerd", "loopback", "big", "cold", DAEMON, ["docker"], 1 / 4),
    Target("60 x 2 MB at 20 ms, cold, dockerd", LINK, "many", "cold", DAEMON, ["docker"], 1 / 3),
    Target("60 x 2 MB at 20 ms, cold, layout", LINK, "many", "cold", "ours-oci", ["crane-oci", "oras-oci", "regctl-oci"], 1 / 2),
]
@dataclass
class Cost:
    """What a push costs besides time: ours, by median, is at most `most` times docker push's."""

    name: str
    what: str
    ours: str
    most: float


# Of cold pushes of the image of 400 MB on loopback.
COSTS = [
    Cost("CPU of command and engine, from dockerd, default gzip", "cpu", DAEMON, 0.4),
    Cost("bytes stored, default gzip", "stored", DAEMON, 1.05),
    Cost("bytes stored, gzip:fast", "stored", f"{DAEMON}:{FAST}", 1.12),
    Cost("bytes stored, zstd", "stored", f"{DAEMON}:{ZSTD}", 1.0),
]
# In MB, of the command alone, the largest value that was seen.
MEMORY_IMAGE, MEMORY_LIMIT = "big", 64


@dataclass
class Panel:
    """One group of bars of the chart. The ratios are to the first peer that was measured."""

    title: str
    place: str
    image: str
    scenario: str
    peers: list


FROM_DAEMON = ["docker", "skopeo-daemon", DAEMON, f"{DAEMON}:{FAST}", f"{DAEMON}:{ZSTD}", "ours-daemon-api"]
FROM_ARCHIVE = ["skopeo-archive", "skopeo2-archive", "crane-archive", "regctl-archive", "ours-archive", f"ours-archive:{FAST}"]
FROM_LAYOUT = ["crane-oci", "oras-oci", "regctl-oci", "skopeo-oci", "ours-oci"]
PANELS = [
    Panel("New image, from the engine or its storage", "loopback", "app", "cold", [*FROM_DAEMON[:2], "podman", "buildah", *FROM_DAEMON[2:]]),
    Panel("New image, from a docker save archive", "loopback", "app", "cold", FROM_ARCHIVE),
    Panel("New image, from an OCI layout", "loopback", "app", "cold", FROM_LAYOUT),
    Panel("Fresh runner, the registry has everything", "loopback", "app", "fresh", ["docker", "skopeo-archive", "podman", "crane-archive", DAEMON, "ours-daemon-api", "ours-archive"]),
    Panel("Fresh runner, one small layer is new", "loopback", "app", "fresh-but-one", ["docker", "skopeo-archive", "podman", "crane-archive", DAEMON, "ours-daemon-api", "ours-archive"]),
    Panel("Same machine, one small layer is new", "loopback", "app", "changed", ["docker", "skopeo-archive", "podman", "crane-oci", DAEMON, "ours-archive", "ours-oci"]),
    Panel("New image, from the engine", "loopback", "big", "cold", FROM_DAEMON),
    Panel("New image, from a docker save archive", "loopback", "big", "cold", FROM_ARCHIVE),
    Panel("New image, from the engine or an archive", LINK, "many", "cold", ["docker", "skopeo-archive", "crane-archive", DAEMON, f"{DAEMON}:{FAST}", "ours-archive"]),
    Panel("New image, from an OCI layout", LINK, "many", "cold", FROM_LAYOUT),
    Panel("Same machine, one small layer is new", LINK, "many", "changed", ["docker", "crane-oci", DAEMON, "ours-oci"]),
]
