"""How long a step takes on many ranks: docs/benchmarks/scale.md, its tables and its picture.

    python asv_benchmarks/scale.py --measure     # the points of this machine, 1 to 4 ranks: minutes
    python asv_benchmarks/scale.py               # the page and the picture, from scale.json

scale.json holds what was measured here, and the constants of a cluster with their sources; the
model itself is numadam/bench/scale_model.py.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from numadam.bench import machine, mpi_cases, report, scale_model
from numadam.bench.case import machine_memory
from numadam.bench.scale_model import ITEM, STEP, TIMES, Layout, Machine

DOCS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
DATA, PAGE, PICTURE = (DOCS / f"scale.{kind}" for kind in ("json", "md", "png"))
_BEGIN = "<!-- written by asv_benchmarks/scale.py from here on -->"
_PARAMETERS, _PAIRS, _RANKS = 20_000_000, 7, (1, 2, 3, 4)
#: Ranks a node of the cluster, parameters and ranks of the tables.
EACH = 4
_SIZES = (1e8, 1e9, 1e10, 1e11, 1e12)
_MANY = (4, 40, 400, 4_000, 40_000, 100_000)
_LINES = {
    "mode 1": ("#2a7f3f", "-"),
    "mode 1, clip_norm": ("#2a7f3f", "--"),
    "mode 2": ("#7a4fa3", "o"),
    "mode 3": ("#c8741a", "--"),
    "modes 3 + 2": ("#1f5fa8", "-"),
    "replicated": ("#777777", ":"),
}


def measure():
    """Seconds of every mode on 1 to 4 ranks of this machine."""
    words = [str(_PARAMETERS), str(_PAIRS)]
    points = {}
    for ranks in _RANKS:
        text = mpi_cases.run_ranks("numadam.bench.scale_points", words, ranks)
        points[str(ranks)] = json.loads(text)
        print(ranks, {name: report.seconds(value) for name, value in points[str(ranks)].items()})
    about = machine.introduction(machine.machine()).replace("\n", ", ")
    return {"about": about, "parameters": _PARAMETERS, "cores": os.cpu_count(), "points": points}


def here(measured):
    """This machine, from what one or two ranks did alone."""
    n, points = measured["parameters"], measured["points"]
    one, two = points["1"], points["2"]
    half = ITEM * n / 2
    return Machine(
        cores=measured["cores"],
        memory=STEP * n / two["alone"],
        rank_memory=STEP * n / one["alone"],
        network=half / two["exchange"],
        stored=half / two["exchange stored"],
        latency=two["gather"],
        call=two["call"],
        message=two["small messages"] / 256,
        capacity=machine_memory() * 2**30,
        overlap=False,
    )


def cluster(data, measured):
    """The cluster: its constants are cited, but for the work of a message, measured here."""
    this = here(measured)
    cited = {name: row["value"] for name, row in data["cluster"].items()}
    return Machine(
        cores=EACH,
        rank_memory=cited["memory"] / EACH,
        stored=cited["network"],
        message=this.message,
        call=this.call,
        overlap=True,
        **cited,
    )


def table(heads, rows):
    body = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in body)


def checked(measured):
    """Model over measured, for every mode and number of ranks."""
    this, n = here(measured), measured["parameters"]
    rows = []
    for name, time in TIMES.items():
        row = [name]
        for ranks in _RANKS:
            found = measured["points"][str(ranks)].get(name)
            if found is None:
                row.append("-")
                continue
            model = time(this, Layout(n, ranks, ranks))
            row.append(f"{report.seconds(model)} / {report.seconds(found)} = {model / found:.2f}")
        if any(cell != "-" for cell in row[1:]):
            rows.append(row)
    return table(["model / measured", *(f"N = {ranks}" for ranks in _RANKS)], rows)


def constants(data, measured):
    this = here(measured)
    rows = [
        [name, f"{row['value']:.4g} {row['unit']}", row["source"]]
        for name, row in data["cluster"].items()
    ]
    own = [
        ("memory, all ranks", this.memory, "B/s", "a step of each rank alone, 2 ranks"),
        ("memory, one rank", this.rank_memory, "B/s", "a step, 1 rank"),
        ("messages into the cache", this.network, "B/s", "1 MiB each way at once, 2 ranks"),
        ("messages into memory", this.stored, "B/s", "the same, into a large array"),
        ("latency", this.latency, "s", f"an Iallgather of {scale_model.WORDS} bytes, 2 ranks"),
        ("a call", this.call, "s", "a step of 16 numbers"),
        ("work of a message", this.message, "s", "Isend and Irecv from Python, 256 at a time"),
    ]
    rows += [[f"here: {name}", f"{value:.3g} {unit}", how] for name, value, unit, how in own]
    return table(["constant", "value", "from"], rows)


def amount(value):
    """Bytes with a unit."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def power(value):
    return f"10^{len(str(int(value))) - 1}"


def layout(parameters, ranks):
    return Layout(parameters, ranks, EACH)


def times(machine_):
    """A table for each number of parameters: modes by ranks."""
    parts = []
    for parameters in _SIZES:
        rows = []
        for name, time in TIMES.items():
            cells = [
                report.seconds(time(machine_, one))
                if scale_model.runs(name, machine_, one)
                else "-"
                for one in (layout(parameters, ranks) for ranks in _MANY)
            ]
            if any(cell != "-" for cell in cells):
                rows.append([name, *cells])
        heads = [f"P = {power(parameters)}", *(f"N = {ranks:,}" for ranks in _MANY)]
        parts.append(table(heads, rows))
    return "\n\n".join(parts)


def memory(machine_):
    rows = []
    for name in TIMES:
        cells = [amount(scale_model.bytes_of_node(name, layout(1e10, ranks))) for ranks in _MANY]
        first = layout(1.0, EACH if name == "mode 2" else _MANY[-1])
        most = machine_.capacity / scale_model.bytes_of_node(name, first)
        rows.append([name, *cells, f"{most:.2g}"])
    heads = ["P = 10^10, a node", *(f"N = {ranks:,}" for ranks in _MANY), "largest P"]
    return table(heads, rows)


def turn(condition, low, high):
    """The value from which on a condition holds, or None; on a scale of factors."""
    if condition(low) or not condition(high):
        return None
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if condition(middle) else (middle, high)
    return high


def draw(machine_):
    """Step time over ranks for three numbers of parameters."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharey=True)
    ranks = sorted({round(4 * 1.15**k) // 4 * 4 for k in range(73)} | {4, 100_000})
    ranks = [n for n in ranks if 4 <= n <= 100_000]
    for ax, parameters in zip(panels, (1e8, 1e10, 1e12), strict=True):
        for name, (colour, style) in _LINES.items():
            found = [
                (n, TIMES[name](machine_, layout(parameters, n)))
                for n in ranks
                if scale_model.runs(name, machine_, layout(parameters, n))
            ]
            x, y = zip(*found, strict=True) if found else ((), ())
            look = {"marker": "o", "ls": "none"} if style == "o" else {"ls": style, "lw": 2}
            ax.plot(x, y, color=colour, label=name, **look)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(3, 1.4e5)
        ax.set_xlabel(f"ranks, {EACH} a node")
        ax.set_title(
            f"{parameters:,.0f} parameters".replace(",000,000,000,000", " trillion")
            .replace(",000,000,000", " billion")
            .replace(",000,000", " million")
        )
        ax.grid(alpha=0.3)
    panels[0].set_ylabel("seconds a step (model)")
    panels[0].legend(fontsize="small", loc="lower left")
    figure.savefig(PICTURE, dpi=130)


def page(data):
    measured = data["measured"]
    machine_ = cluster(data, measured)
    return (
        "\n\n".join(
            [
                "## The model and this machine",
                f"{measured['parameters']:,} float32 parameters. {measured['about']}.",
                checked(measured),
                "## Constants",
                constants(data, measured),
                f"## Step times, {EACH} ranks a node",
                "`-`: does not fit into a node's memory, or mode 2 beyond one node.",
                times(machine_),
                "## Memory of a node",
                memory(machine_),
            ]
        )
        + "\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--measure", action="store_true", help="take the points of this machine")
    data = json.loads(DATA.read_text())
    if parser.parse_args().measure:
        data["measured"] = measure()
        DATA.write_text(json.dumps(data, indent=1) + "\n")
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(_BEGIN)] + f"{_BEGIN}\n\n{page(data)}")
    draw(cluster(data, data["measured"]))


if __name__ == "__main__":
    main()
