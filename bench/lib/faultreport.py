"""The table of bench/faults."""

import faultrows

TITLES = {"ours": "ecr-push", "docker": "docker push", "skopeo": "skopeo", "skopeo-retry": "skopeo `--retry-times 5`", "podman": "podman push"}

# Not of this run: v0.21.10 could not be had where it was made. Measured on 2026-11-23 with faults of the same rows given by other means
# (iptables on the TLS port, a proxy behind nginx); bytes counted on the TLS port.
EARLIER = {
    "1": "done, 7–10 s", "2": "recovered 3/3, ×1.36–1.38", "3": "recovered 2/4, ×0.77–1.64", "3+": "recovered 1/4, ×0.60–1.54",
    "4": "**hung**", "5": "recovered, ×1.00", "6": "recovered, ×1.00", "6w": "recovered, ×1.18", "6s": "recovered, ×1.03",
    "7": "recovered, ×1.02", "7w": "recovered 2/2, ×1.18–1.20", "7s": "recovered, ×1.00", "8": "recovered, ×1.46",
    "9": "failed 2/2, ×0.63–0.65", "10": "done 2/2, ×0.94–0.95", "11": "recovered, ×1.01",
}


def wrong(document):
    return [trial for trial in document["trials"] if trial["outcome"] == "wrong"]


def span(values, form):
    least, most = form(min(values)), form(max(values))
    return least if least == most else f"{least}–{most}"


def cell(row, trials):
    if not trials:
        return "—"
    met = [trial for trial in trials if trial["hits"] or row is faultrows.CLEAN]
    if not met:
        return "not hit"
    done = [trial for trial in met if trial["outcome"] == "done"]
    word = {"done": "done" if row is faultrows.CLEAN or row.name == "10" else "recovered", "failed": "failed", "hung": "**hung**", "wrong": "**WRONG**"}
    if len(met) == 1 or len(done) == len(met):
        text = word[met[0]["outcome"]]
        if len(met) > 1:
            text += f" {len(done)}/{len(met)}"
    else:
        text = f"recovered {len(done)}/{len(met)}" if done else f"{word[met[0]['outcome']]} {len(met)}/{len(met)}"
    if any(trial["outcome"] in ("hung", "wrong") for trial in met) and "**" not in text:
        text += f" ({', '.join(sorted({word[trial['outcome']] for trial in met if trial['outcome'] in ('hung', 'wrong')}))})"
    text += f", {span([trial['seconds'] for trial in met], lambda seconds: f'{seconds:.0f}')} s"
    clean = next((trial["clean"] for trial in met if trial["clean"]), None)
    if clean:
        text += f", ×{span([trial['bytes'] / clean for trial in met], lambda part: f'{part:.2f}')}"
    if any(trial["tagged"] for trial in met if trial["outcome"] != "done"):
        text += ", **left a tag**"
    return text


def longer(trials, usual):
    """Which rows had more time."""
    limits = {}
    for trial in trials:
        if trial.get("limit", usual) > usual:
            limits.setdefault(trial["limit"], {})[trial["row"]] = None
    return "".join(f" ({limit} s in {', '.join(rows)})" for limit, rows in sorted(limits.items()))


def markdown(document):
    about, trials = document["about"], document["trials"]
    rows = [row for row in faultrows.ROWS if any(trial["row"] == row.name for trial in trials)]
    clients = [client for client in TITLES if any(trial["client"] == client for trial in trials)]
    of = lambda row, client: [trial for trial in trials if (trial["row"], trial["client"]) == (row.name, client)]
    lines = [
        "| | fault | " + " | ".join(TITLES[client] for client in clients) + " | *crane, earlier, other run* |",
        "|---" * (len(clients) + 3) + "|",
        *(f"| {row.name} | {row.title} | " + " | ".join(cell(row, of(row, client)) for client in clients) + f" | *{EARLIER.get(row.name, '—')}* |" for row in rows),
        "",
        f"A cell is: outcome, seconds, bytes of uploads relative to the same client's push without a fault. \"hung\" is still running after {about['limit']} s{longer(trials, about['limit'])}; "
        "\"not hit\" means that no request or connection met the fault. Where there is chance in a row, there are several trials: \"recovered k/n\". "
        f"Rows are numbered as in an earlier run by other means. Answers of 429 say TOOMANYREQUESTS and \"Rate exceeded\" as ECR's do, and answers come before the body is read. In row 4 `ecr-push` is given `{' '.join(row_of('4').ours)}`. "
        "The last column is no part of this run: crane could not be had here, and its figures are of 2026-11-23, by other means (iptables on the TLS port).",
        "",
        "Programs: " + ", ".join(f"{name} {version}" for name, version in about["programs"].items()) + f". {about['date']}, {about['machine']}.",
        *about.get("notes", []),
        "",
    ]
    said = [(row, client) for row in rows if not row.possible for client in clients if of(row, client)]
    if said:
        lines += ["Last lines where no push can succeed:", "", "| | client | last line |", "|---|---|---|"]
        for row, client in said:
            line = of(row, client)[0]["said"].replace("|", "\\|")
            lines.append(f"| {row.name} | {TITLES[client]} | {f'`{line[:300]}`' if line else '(none)'} |")
        lines.append("")
    return "\n".join(lines)


def row_of(name):
    return next(row for row in faultrows.ROWS if row.name == name)
