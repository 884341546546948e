"""Tables in Markdown out of the single measurements."""

import statistics

import suite
from images import TITLES
from peers import label
from places import title
from system import MB


class Figures:
    """The measurements, and questions to them."""

    def __init__(self, results):
        self.results = results
        self.cells = {}
        for result in results:
            key = (result["place"], result["image"], result["scenario"], result["peer"])
            self.cells.setdefault(key, []).append(result)

    def of(self, place, image, scenario, peer, what="wall"):
        return [result[what] for result in self.cells.get((place, image, scenario, peer), [])]

    def median(self, *key):
        values = self.of(*key)
        return statistics.median(values) if values else None

    def runs(self, place, image, scenario, peer):
        return len(self.cells.get((place, image, scenario, peer), []))

    def requests(self, *key):
        """By method, of the last push."""
        counts = self.of(*key, "requests")
        return counts[-1] if counts else {}

    def groups(self):
        """Place and image pairs with their scenarios and peers, in the order in which they were measured first."""
        found = {}
        for result in self.results:
            scenarios, peers = found.setdefault((result["place"], result["image"]), ([], []))
            for value, known in ((result["scenario"], scenarios), (result["peer"], peers)):
                if value not in known:
                    known.append(value)
        return found


def table(head, rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def seconds(value):
    return "-" if value is None else f"{value:.3f}" if value < 0.3 else f"{value:.2f}"


def ratio(value, to):
    return f"x{value / to:.2f}" if to and value / to >= 0.1 else f"x{value / to:.3f}" if to else ""


def markdown(document):
    figures = Figures(document["results"])
    parts = ["# Results\n", about(document["about"]), failures(document.get("failures", []))]
    for (place, image), (scenarios, peers) in figures.groups().items():
        parts += group(figures, place, image, scenarios, sorted(peers, key=order))
    return "\n".join(part for part in parts if part)


def order(peer):
    known = [*suite.APP_PEERS, *suite.BIG_PEERS]
    return (known.index(peer) if peer in known else len(known), peer)


def about(facts):
    lines = [f"- Measured on {facts['date']} by `{facts['command']}`.", f"- Machine: {facts['machine']}."]
    programs = [f"{name.lower()} {fact['version']}" + (f" [{fact['go']}]" if fact["go"] else "") for name, fact in facts["programs"].items()]
    lines.append("- Programs [the Go release each was built with]: " + "; ".join(programs) + ".")
    for image, sizes in facts["images"].items():
        layout = f", {sizes['layout'] / MB:.0f} MB as skopeo compresses it" if sizes["layout"] else ""
        lines.append(f"- Image {image}: {TITLES[image]}; {sizes['archive'] / MB:.0f} MB{layout}.")
    return "\n".join([*lines, *(f"- {note}" for note in facts["notes"])]) + "\n"


def failures(failed):
    if not failed:
        return ""
    rows = [[f["place"], f["image"], f["scenario"], label(f["peer"]), " ".join(f["error"].split())[-200:].replace("|", "\\|")] for f in failed]
    return "## Failed pushes\n\n" + table(["place", "image", "scenario", "peer", "the end of what it said"], rows)


def group(figures, place, image, scenarios, peers):
    yield f"## {TITLES[image]}, {title(place)}\n"
    yield "Wall seconds, median; the ratio to docker push where that was measured.\n"
    rows = []
    for peer in peers:
        row = [label(peer)]
        for scenario in scenarios:
            value, docker = figures.median(place, image, scenario, peer), figures.median(place, image, scenario, "docker")
            compared = f" ({ratio(value, docker)})" if value is not None and docker and peer != "docker" else ""
            row.append("-" if value is None else f"{seconds(value)}{compared}")
        rows.append(row)
    yield table(["peer", *scenarios], rows)
    for scenario in scenarios:
        yield f"{scenario}: what it takes, medians.\n"
        yield table(
            ["peer", "n", "wall s, least to most", "CPU s", "of it the command", "registry CPU s", "peak MB", "of it the command", "requests",
             "wire MB", "stored MB", "others"],
            [costs(figures, (place, image, scenario, peer)) for peer in peers if figures.of(place, image, scenario, peer)],
        )


def costs(figures, key):
    median = lambda what: figures.median(*key, what)
    walls = figures.of(*key)
    requests = " ".join(f"{method} {count}" for method, count in sorted(figures.requests(*key).items()))
    return [
        label(key[3]), str(len(walls)), f"{seconds(min(walls))} to {seconds(max(walls))}", f"{median('cpu'):.2f}", f"{median('command_cpu'):.2f}",
        f"{median('registry_cpu'):.2f}", f"{median('rss') / MB:.0f}", f"{median('command_rss') / MB:.0f}", requests,
        f"{median('wire') / MB:.1f}", f"{median('stored') / MB:.1f}", f"{median('others'):.0%}",
    ]
