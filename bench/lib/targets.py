"""The targets as a table: what was promised, what was measured, met or not."""

import statistics

import suite
from peers import label
from places import title
from report import Figures, seconds, table
from system import MB


def markdown(document):
    figures = Figures(document["results"])
    options = document["about"]["options"]
    judged = [judge(figures, target, options) for target in suite.TARGETS]
    head = ["target", "place", "ours", "s", "against", "s", "at most", "measured", "n", "verdict"]
    return "## Targets\n\n" + table(head, [row for _, row in judged]) + "\n" + costs(figures) + memory(figures)


def judge(figures, target, options):
    """Against each of the peers that was measured the quickest counts."""
    ours = figures.median(target.place, target.image, target.scenario, target.ours)
    walls = {peer: figures.median(target.place, target.image, target.scenario, peer) for peer in target.peers}
    walls = {peer: wall for peer, wall in walls.items() if wall is not None}
    limit = target.most
    if walls and limit is not None and min(walls.values()) < options["fast"]:
        limit = max(limit, suite.FAST_MOST)
    most = "-" if limit is None else f"x{limit:.3g}"
    if ours is None or not walls:
        return None, [target.name, title(target.place), label(target.ours), seconds(ours), " or ".join(target.peers), "-", most, "-", "-", "not measured"]
    peer = min(walls, key=walls.get)
    measured = ours / walls[peer]
    counts = [figures.runs(target.place, target.image, target.scenario, name) for name in (target.ours, peer)]
    verdict = "" if limit is None else "met" if measured <= limit else "missed"
    # Only a row of which both sides are quick needs many runs: where one side takes seconds the ratio does not hang on noise.
    if max(ours, walls[peer]) < options["fast"] and min(counts) < options["fast_rounds"]:
        verdict = f"{verdict}, too few runs".lstrip(", ")
    return verdict, [
        target.name, title(target.place), label(target.ours), seconds(ours), label(peer), seconds(walls[peer]), most, f"x{measured:.3f}",
        f"{counts[0]}, {counts[1]}", verdict or "-",
    ]


def costs(figures):
    rows = []
    for cost in suite.COSTS:
        values = [figures.of("loopback", "app", "cold", peer, cost.what) for peer in (cost.ours, "docker")]
        if not all(values):
            continue
        ours, docker = map(statistics.median, values)
        measured = ours / docker
        rows.append([cost.name, f"x{cost.most:.3g}", f"x{measured:.3f}", "met" if measured <= cost.most else "missed"])
    if not rows:
        return ""
    return "Against docker push, a new image of 400 MB:\n\n" + table(["what", "at most", "measured", "verdict"], rows) + "\n"


def memory(figures):
    """The most that the command itself held in any cold push of the largest image, by source."""
    rows = []
    for (place, image), (scenarios, peers) in figures.groups().items():
        if image != suite.MEMORY_IMAGE:
            continue
        for peer in peers:
            values = [value for scenario in scenarios for value in figures.of(place, image, scenario, peer, "command_rss")]
            most = max(values) / MB
            verdict = "-" if suite.MEMORY_LIMIT is None or not peer.startswith("ours") else "met" if most <= suite.MEMORY_LIMIT else "missed"
            rows.append([label(peer), f"{most:.1f}", "-" if suite.MEMORY_LIMIT is None else str(suite.MEMORY_LIMIT), verdict])
    if not rows:
        return ""
    return "Peak resident memory of the command alone, MB, the largest value seen with the 2 GB image:\n\n" + table(["peer", "MB", "at most", "verdict"], rows)
