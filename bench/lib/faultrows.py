"""The faults of bench/faults, as rules of `local-ecr fault-proxy`."""

from dataclasses import dataclass, field

UPLOADS = "/blobs/uploads/"
ALL = "GET|HEAD|PATCH|POST|PUT /v2/"


@dataclass
class Row:
    name: str
    title: str
    # Rules; {clean} is what the client sends without a fault, with a divisor as in {clean/3}; {seed} counts the trials.
    rules: list = field(default_factory=list)
    # Something that is done once so much of the clean push has arrived: (what, the part).
    event: tuple = None
    # Whether more than one trial says more.
    chance: bool = False
    # Whether a push can get through at all.
    possible: bool = True
    # More words for ecr-push's command.
    ours: list = field(default_factory=list)
    # Seconds after which who still runs is said to hang, if that has to be more than usual.
    limit: int = 0


CLEAN = Row("1", "none")

ROWS = [
    CLEAN,
    Row("2", "resets past 5 MB of a connection, for 4 s", ["connection reset=5000000 lasting=4s"], chance=True),
    Row("3", "resets at random, 3 in a clean push's bytes", ["connection reset-at-random={clean/3} seed={seed}"], chance=True, limit=420),
    Row("3+", "the same, twice as many", ["connection reset-at-random={clean/6} seed={seed}"], chance=True, limit=420),
    Row("4", "link dead past 3 MB of a connection, for good", ["connection stall=3000000"], possible=False, ours=["--retry-budget", "10s"]),
    Row("5", "the same, healed after 15 s", ["connection stall=3000000 lasting=15s"]),
    Row("6", "503 to the first 3 PATCH/PUT of blobs", [f"PATCH|PUT {UPLOADS} times=3 early=503"]),
    Row("6w", "503 to new upload requests for 3 s, from 1 s on", [f"PATCH|POST|PUT {UPLOADS} later=1s lasting=3s early=503"]),
    Row("6s", "503 to everything for the push's first 3 s", [f"{ALL} lasting=3s early=503"]),
    Row("7", "429 to the first 3 PATCH/PUT of blobs", [f"PATCH|PUT {UPLOADS} times=3 early=429 code=TOOMANYREQUESTS message=\"Rate exceeded\""]),
    Row("7r", "the same with Retry-After: 2", [f"PATCH|PUT {UPLOADS} times=3 early=429 code=TOOMANYREQUESTS message=\"Rate exceeded\" retry-after=2"]),
    Row("7w", "429 to new upload requests for 3 s, from 1 s on", [f"PATCH|POST|PUT {UPLOADS} later=1s lasting=3s early=429 code=TOOMANYREQUESTS message=\"Rate exceeded\""]),
    Row("7s", "429 to everything for the push's first 3 s", [f"{ALL} lasting=3s early=429 code=TOOMANYREQUESTS message=\"Rate exceeded\""]),
    Row("8", "registry killed at 40 %, back after 3 s (502 meanwhile)", event=("kill", 0.4)),
    Row("9", "password revoked at 40 %, for good", event=("revoke", 0.4), possible=False),
    Row("10", "client killed at half, run again: the second run", event=("kill client", 0.5), chance=True),
    Row("11", "500 on the manifest PUT, once", ["PUT /manifests/ times=1 early=500"]),
]


def rules(row, clean, seed):
    def fill(rule):
        for part in (3, 6):
            rule = rule.replace(f"{{clean/{part}}}", str((clean or 0) // part))
        return rule.replace("{seed}", str(seed))

    return [fill(rule) for rule in row.rules]
