"""One SVG: a panel for each case, a bar for each program, labelled with its time and its ratio to the first program of the panel."""

from html import escape

import suite
from images import TITLES
from peers import label
from places import title
from report import Figures

WIDTH, LEFT, RIGHT = 900, 230, 170
BAR, GAP, PANEL_HEAD, PANEL_FOOT = 15, 5, 46, 20
STYLE = """
  text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #24292f }
  .page { fill: #ffffff } .head { font-size: 17px; font-weight: 600 } .title { font-size: 13px; font-weight: 600 }
  .quiet { fill: #59636e } .axis { stroke: #d1d9e0 } .own { font-weight: 600 }
  .ours { fill: #0969da } .docker { fill: #8c6d1f } .others { fill: #8b949e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .page { fill: #0d1117 } .quiet { fill: #9198a1 } .axis { stroke: #3d444d }
    .ours { fill: #58a6ff } .docker { fill: #d4a72c } .others { fill: #6e7681 }
  }
"""


def svg(document):
    figures = Figures(document["results"])
    panels = [(panel, bars_of(figures, panel)) for panel in suite.PANELS]
    panels = [(panel, bars) for panel, bars in panels if len(bars) > 1]
    parts, top = [legend()], 84
    for panel, bars in panels:
        drawn, height = draw(panel, bars, top)
        parts += drawn
        top += height
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" role="img" '
        f'aria-label="Seconds that a push takes, by program">\n<style>{STYLE}</style>\n<rect class="page" width="{WIDTH}" height="{top}" rx="6"/>\n'
        f"{body}\n</svg>\n"
    )


def bars_of(figures, panel):
    walls = [(peer, figures.median(panel.place, panel.image, panel.scenario, peer)) for peer in panel.peers]
    return [(peer, wall) for peer, wall in walls if wall is not None]


def kind(peer):
    return "ours" if peer.startswith("ours") else "docker" if peer == "docker" else "others"


def legend():
    drawn = [text(20, 30, "Seconds that a push takes", "head"), text(20, 50, "Median wall time; shorter is better. Each panel has its own scale; ratios are to its first bar.", "quiet")]
    for at, (name, words) in enumerate([("ours", "ecr-push"), ("docker", "docker push"), ("others", "other programs")]):
        left = 20 + at * 130
        drawn += [f'<rect class="{name}" x="{left}" y="60" width="12" height="12" rx="2"/>', text(left + 18, 70, words)]
    return "\n".join(drawn)


def draw(panel, bars, top):
    longest = max(wall for _, wall in bars)
    first = bars[0][1]
    room = WIDTH - LEFT - RIGHT
    height = PANEL_HEAD + len(bars) * (BAR + GAP) + PANEL_FOOT
    bottom = top + height - PANEL_FOOT
    where = f"{TITLES[panel.image]}, {title(panel.place)}"
    drawn = [
        text(20, top + 20, panel.title, "title"),
        text(20, top + 36, where, "quiet"),
        f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{top + PANEL_HEAD - 3}" y2="{bottom}"/>',
    ]
    for at, (peer, wall) in enumerate(bars):
        y = top + PANEL_HEAD + at * (BAR + GAP)
        width = max(1.5, wall / longest * room)
        own = " own" if kind(peer) == "ours" else ""
        compared = "" if at == 0 else f", {times(wall / first)}"
        drawn += [
            text(LEFT - 8, y + 12, name_of(peer), own.strip(), "end"),
            f'<rect class="{kind(peer)}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>',
            text(LEFT + width + 7, y + 12, f"{wall:.2f} s{compared}" if wall >= 0.1 else f"{wall * 1000:.0f} ms{compared}", own.strip()),
        ]
    return drawn, height


def name_of(peer):
    """`ours-daemon gzip:fast` is shown as `ecr-push (daemon) gzip:fast`."""
    if peer == "docker":
        return "docker push"
    name, _, words = label(peer).partition(" ")
    program, _, source = name.partition("-")
    return f"{'ecr-push' if program == 'ours' else program} ({source or 'storage'}) {words}".rstrip()


def times(ratio):
    return f"×{ratio:.3f}" if ratio < 0.095 else f"×{ratio:.2f}" if ratio < 10 else f"×{ratio:.0f}"


def text(x, y, words, classes="", anchor="start"):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{f" class={chr(34)}{classes}{chr(34)}" if classes else ""}>{escape(words)}</text>'
