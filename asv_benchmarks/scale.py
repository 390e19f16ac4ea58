"""Time of a step on many ranks: tables and picture of docs/development/benchmarks/mpi.md.

    python asv_benchmarks/scale.py --measure     # the points of this machine, 1 to 4 ranks: minutes
    python asv_benchmarks/scale.py               # the picture, from scale.json

scale.json holds what was measured here, and the constants of a cluster with their sources; the
model itself is scale_model.py. The build of the documentation makes the tables
(docs/_ext/benchmark_tables.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import time
from pathlib import Path

import machine
import scale_model
from benchmarks import mpi
from machine import table
from scale_model import ITEM, STEP, TIMES, Layout, Machine

from numadam.bench import measure as timing
from numadam.bench import seconds_text

DOCS = Path(__file__).resolve().parents[1] / "docs" / "development" / "benchmarks"
DATA, PICTURE = DOCS / "scale.json", DOCS / "scale.png"
_PARAMETERS, _PAIRS, _RANKS = 20_000_000, 7, (1, 2, 3, 4)
#: Elements of an exchange in scale_points.py, which needs MPI, and its small messages.
_EXCHANGED, _SMALL = 1 << 20, 256
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


def measure(wait):
    """Seconds of every mode on 1 to 4 ranks of this machine, each begun when others leave it."""
    words = [str(_PARAMETERS), str(_PAIRS)]
    points, load = {}, timing.Load()
    for ranks in _RANKS:
        machine.wait_until_quiet(time.monotonic() + wait)
        points[str(ranks)] = mpi.run_ranks("scale_points.py", words, ranks)
        print(ranks, {name: seconds_text(value) for name, value in points[str(ranks)].items()})
    about = machine.introduction(machine.machine()).replace("\n", ", ")
    about += f". Other programs used {load.busy() or 0.0:.0%} of the machine"
    size = {"parameters": _PARAMETERS, "cores": os.cpu_count()}
    return {"about": about, **size, "points": points}


def here(measured):
    """This machine, from what one or two ranks did alone."""
    n, points = measured["parameters"], measured["points"]
    one, two = points["1"], points["2"]
    sent = ITEM * _EXCHANGED
    return Machine(
        cores=measured["cores"],
        memory=STEP * n / two["alone"],
        rank_memory=STEP * n / one["alone"],
        network=sent / two["exchange"],
        stored=sent / two["exchange stored"],
        latency=two["gather"],
        call=two["call"],
        message=two["small messages"] / _SMALL,
        capacity=math.inf,
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


def checked(measured):
    """Model over measured, for every mode and number of ranks."""
    this, n = here(measured), measured["parameters"]
    rows = []
    for name, seconds_of in TIMES.items():
        row = [name]
        for ranks in _RANKS:
            found = measured["points"][str(ranks)].get(name)
            if found is None:
                row.append("-")
                continue
            model = seconds_of(this, Layout(n, ranks, ranks))
            row.append(f"{seconds_text(model)} / {seconds_text(found)} = {model / found:.2f}")
        if any(cell != "-" for cell in row[1:]):
            rows.append(row)
    return table(["model / measured", *(f"N = {ranks}" for ranks in _RANKS)], rows)


def constants(data, measured):
    this = here(measured)
    cited = data["cluster"].items()
    rows = [[name, shown(row["value"], row["unit"]), row["source"]] for name, row in cited]
    own = [
        ("memory, all ranks", this.memory, "B/s", "a step of each rank alone, 2 ranks"),
        ("memory, one rank", this.rank_memory, "B/s", "a step, 1 rank"),
        ("messages into the cache", this.network, "B/s", "1 MiB each way at once, 2 ranks"),
        ("messages into memory", this.stored, "B/s", "the same, into a large array"),
        ("latency", this.latency, "s", f"an Iallgather of {scale_model.WORDS} bytes, 2 ranks"),
        ("a call", this.call, "s", "a step of 16 numbers"),
        ("work of a message", this.message, "s", "Isend and Irecv from Python, 256 at a time"),
    ]
    rows += [[f"here: {name}", shown(value, unit), how] for name, value, unit, how in own]
    return table(["constant", "value", "from"], rows)


def amount(value):
    """Bytes with a unit."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def shown(value, unit):
    return seconds_text(value) if unit == "s" else amount(value) + unit[1:]


def power(value):
    return f"10^{len(str(int(value))) - 1}"


def layout(parameters, ranks):
    return Layout(parameters, ranks, EACH)


def times(machine_):
    """A table for each number of parameters: modes by ranks."""
    parts = []
    for parameters in _SIZES:
        rows = []
        for name, seconds_of in TIMES.items():
            points = [layout(parameters, ranks) for ranks in _MANY]
            fits = [scale_model.runs(name, machine_, one) for one in points]
            seconds = [seconds_text(seconds_of(machine_, one)) for one in points]
            if any(fits):
                cells = [s if fit else "-" for s, fit in zip(seconds, fits, strict=True)]
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


def exchanges(machine_):
    """The norm's exchange in mode 1, and the block whose step takes as long."""
    rows = []
    for ranks in _MANY[1:]:
        row = [f"{ranks:,}"]
        for ring in (True, False):
            seconds = scale_model.gather(machine_, layout(1.0, ranks), ring)
            block = seconds * machine_.memory / STEP / EACH
            row += [seconds_text(seconds), f"{block:,.0f}"]
        rows.append(row)
    heads = ["N", "as MPICH chooses", "parameters a rank", "never in a ring", "parameters a rank"]
    return table(heads, rows)


def shared_cost(machine_):
    """A step in a node's memory over a step of one process, by ranks of the node."""
    counts, alone = (1, 2, 4, 16, 64, 176), STEP
    ratios = [f"{(STEP + ITEM * (k - 1)) / alone:.2f}" for k in counts]
    bytes_ = [f"{scale_model.bytes_of_node('mode 2', Layout(1.0, k, k)):.0f}" for k in counts]
    heads = ["ranks of the node", *map(str, counts)]
    return table(heads, [["time / one process", *ratios], ["bytes a parameter", *bytes_]])


def stretches(machine_):
    """Modes 3 + 2 over one node's own step, and from how many nodes on messages count."""
    rows = []
    for parameters in _SIZES[:3]:
        alone = scale_model.distributed(machine_, layout(parameters, EACH))
        many = scale_model.combined(machine_, layout(parameters, 400))
        free = dataclasses.replace(machine_, message=0.0)
        costly = (
            nodes
            for nodes in (round(2 * 1.1**k) for k in range(140))
            for one in [layout(parameters, nodes * EACH)]
            if scale_model.combined(machine_, one) > 1.5 * scale_model.combined(free, one)
        )
        found = next(costly, None)
        nodes = "-" if found is None else f"{float(f'{found:.1g}'):,.0f}"
        row = [power(parameters), seconds_text(alone), seconds_text(many)]
        rows.append([*row, f"{many / alone:.1f}", nodes])
    heads = ["P", "step of one node", "100 nodes", "ratio", "nodes from which messages cost half"]
    return table(heads, rows)


def draw(machine_):
    """Step time over ranks for three numbers of parameters."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharey=True)
    ranks = sorted({round(4 * 1.15**k) // 4 * 4 for k in range(73)} | {4, 100_000})
    ranks = [n for n in ranks if 4 <= n <= 100_000]
    sizes = ((1e8, "100 million"), (1e10, "10 billion"), (1e12, "a trillion"))
    for ax, (parameters, words) in zip(panels, sizes, strict=True):
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
        ax.set_title(f"{words} parameters")
        ax.grid(alpha=0.3)
    panels[1].text(3e3, 1.5e-3, "MPICH's ring", color=_LINES["mode 1"][0])
    panels[0].set_ylabel("seconds a step (model)")
    panels[2].legend(loc="lower left")
    figure.savefig(PICTURE, dpi=130)


def tables(data):
    """All tables as Markdown."""
    measured = data["measured"]
    machine_ = cluster(data, measured)
    parts = [
        "**Where a mode stops paying**",
        "**Mode 1 with a norm**: one exchange of the ranks, and how many parameters a rank needs "
        "so that its step takes as long.",
        exchanges(machine_),
        "**Mode 2**: a step reads the gradient of every rank.",
        shared_cost(machine_),
        f"**Modes 3 + 2**: the network against the step, {EACH} ranks a node.",
        stretches(machine_),
        "**The model against this machine**",
        f"{measured['parameters']:,} float32 parameters in one array; medians of {_PAIRS} turns. "
        f"{measured['about']}.",
        checked(measured),
        "**Constants**",
        constants(data, measured),
        f"**Step times by the model, {EACH} ranks a node**",
        "`-`: does not fit into a node's memory, or mode 2 on more than one node.",
        times(machine_),
        "**Memory of a node by the formulas**",
        memory(machine_),
    ]
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--measure", action="store_true", help="take the points of this machine")
    parser.add_argument("--wait", type=float, default=60.0, help="for others to leave it, seconds")
    data = json.loads(DATA.read_text())
    args = parser.parse_args()
    if args.measure:
        data["measured"] = measure(args.wait)
        DATA.write_text(json.dumps(data, indent=1) + "\n")
    draw(cluster(data, data["measured"]))


if __name__ == "__main__":
    main()
