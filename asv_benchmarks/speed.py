"""Time of a step of Adam over its size, beside its peers: speed.json, speed.svg and the captions.

    python asv_benchmarks/speed.py --wait 60     # measure, a minute or two; then draw and write
    python asv_benchmarks/speed.py --draw        # draw and write from speed.json

The pages keep no figure of their own: text between the two marks is written from the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import machine
import numpy as np
from benchmarks.sides import Roofline

from numadam import _bench as bench
from numadam._bench import measure, peers

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "docs" / "development" / "benchmarks" / "speed.json"
PICTURE = ROOT / "docs" / "images" / "speed.svg"
BEGIN, END = "<!-- speed: written by asv_benchmarks/speed.py -->", "<!-- speed: end -->"
OURS, MEMORY = "numadam", "memory alone"
SIZES = (100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000)
SIZES += (1_000_000, 3_000_000, 10_000_000, 20_000_000)
_ROUNDS = 11
#: Sizes whose times the captions name, where they were measured.
_NAMED = (1_000, 1_000_000)
#: Bytes of a float32 parameter that a step reads (p, g, m, v) and writes (p, m, v).
_BYTES = 28
_LOOKS = {
    OURS: {"color": "#c2410c", "lw": 2.8, "marker": "o", "ms": 4, "zorder": 4},
    "NumPy": {"color": "#1d4ed8", "lw": 1.5, "marker": "s", "ms": 3.5},
    "torch": {"color": "#6d28d9", "lw": 1.5, "marker": "^", "ms": 4},
    "optax": {"color": "#0f766e", "lw": 1.5, "marker": "D", "ms": 3},
    MEMORY: {"color": "#555555", "lw": 1.3, "ls": (0, (4, 3))},
}
_WORDS = {
    "NumPy": "NumPy, in-place lines",
    "torch": "torch.optim.Adam, fused",
    "optax": "optax.adam, jitted, donated",
    MEMORY: "memory alone (roofline)",
}


def numpy_in_place(n):
    """Adam as a careful user writes it: in place, with the temporaries that NumPy makes."""
    p, g = peers.values(n), peers.values(n, seed=1)
    m, v, t = np.zeros_like(p), np.zeros_like(p), 0
    lr, beta1, beta2, eps = 1e-3, 0.9, 0.999, 1e-8

    def update():
        nonlocal p, m, v, t
        t += 1
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * g**2
        p -= lr / (1 - beta1**t) * m / (np.sqrt(v / (1 - beta2**t)) + eps)

    return update


SIDES = {
    OURS: peers.step,
    "NumPy": numpy_in_place,
    "torch": peers.torch_fused,
    "optax": peers.optax_adam,
    MEMORY: Roofline,
}


def measured(n, sides, wait, rounds=_ROUNDS):
    """One size, its sides in turns; again for `wait` seconds while others use the machine."""
    made = {name: make(n) for name, make in sides.items()}
    return machine.quietest(lambda: bench.compare(made, rounds), wait)[0]


def measure_all(wait):
    """Measure every side that runs here, at every size."""
    about = machine.machine()
    sides, reasons = bench.available(SIDES)
    head = bench.head(sides)
    print(machine.introduction(about), *reasons, "", head, sep="\n", flush=True)
    rows = []
    for n in SIZES:
        rows.append({"elements": n, **measured(n, sides, wait)})
        print(bench.line(n, rows[-1]), flush=True)
    return {"machine": about, "sizes": rows}


def _listed(words):
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _peers(row):
    """Every side but the memory, the fastest first."""
    sides = [name for name in row["seconds"] if name != MEMORY]
    return sorted(sides, key=lambda name: row["seconds"][name])


def _busy(data):
    """The largest share of the machine that others used; None where it was not watched."""
    return max((row["busy"] for row in data["sizes"] if row["busy"] is not None), default=None)


def caption(data):
    """A few sentences: the machine, the times at the sizes that are named, and a warning."""
    about, rows = data["machine"], {row["elements"]: row for row in data["sizes"]}
    text = "One step of Adam on float32 parameters in one array"
    text += f" ({about['processor']}, {about['threads']} threads, {about['date']})."
    for n in filter(rows.get, _NAMED):
        sides = _peers(rows[n])
        times = [f"{name} {bench.seconds_text(rows[n]['seconds'][name])}" for name in sides]
        text += f" {n:,} parameters: {', '.join(times)}."
    busy = _busy(data) or 0.0
    if busy > measure.LIMIT:
        text += f" Provisional: other programs used up to {busy:.0%} of the machine."
    return text


def findings(data):
    """Three sentences: where numadam is not the fastest, how far the memory is, how to read."""
    rows, about = data["sizes"], data["machine"]
    slower = [row for row in rows if _peers(row)[0] != OURS]
    others = [f"{row['elements']:,} ({_peers(row)[0]})" for row in slower]
    others = f", except at {_listed(others)} parameters" if slower else ""
    last, versions = rows[-1], about["versions"]
    n, memory = last["elements"], last["seconds"][MEMORY]
    busy = _busy(data)
    used = "were not watched" if busy is None else f"used at most {busy:.0%} of the machine"
    named = [f"{name} {versions[name]}" for name in ("numpy", "torch", "optax") if name in versions]
    return (
        f"numadam's step is the fastest of these at every size{others}. At {n:,} parameters "
        f"it takes {last['seconds'][OURS] / memory:.2f} of the time of the memory traffic alone: 4 "
        f"arrays read and 3 written, at {_BYTES * n / memory / 1e9:.3g} GB/s here. The "
        f"sides took turns, each point is the median of {_ROUNDS}, and other programs "
        f"{used} ({', '.join(named)})."
    )


def digest(data):
    """A mark of the data, kept in the picture."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def draw(data, path):
    """Draw all sides, both axes logarithmic; on white, so that dark pages show it, too."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    settings = {"svg.fonttype": "none", "svg.hashsalt": "speed", "font.size": 10}
    settings |= {"font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"]}  # the viewer's first
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9, 3.7), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        ax = figure.subplots()
        rows = data["sizes"]
        elements = [row["elements"] for row in rows]
        height = rows[-1]["seconds"][MEMORY] / 6
        for name in sorted(rows[-1]["seconds"], key=rows[-1]["seconds"].get):
            times = [row["seconds"][name] for row in rows]
            ax.loglog(elements, times, **_LOOKS[name])
            height = max(times[-1] / 3, 2.2 * height)  # lines that end together are named in order
            look = {"color": _LOOKS[name]["color"], "va": "center"}
            ax.annotate(_WORDS.get(name, name), (1.3 * elements[-1], height), **look)
        ax.set(xlabel="parameters (float32)", ylabel="time of a step")
        ax.set_title("One step of Adam", loc="left", fontweight="bold")
        ax.xaxis.set_major_formatter(FuncFormatter(_size))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: bench.seconds_text(value)))
        ax.minorticks_off()
        ax.grid(color="#dddddd", lw=0.7)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlim(None, 60 * elements[-1])  # room for the names
        ax.set_xticks([10**k for k in range(2, 8)])
        about = {"Date": None, "Title": "Time of a step of Adam", "Description": digest(data)}
        figure.savefig(path, metadata=about)


def _size(value, _):
    for scale, letter in ((1e6, " million"), (1e3, ",000")):
        if value >= scale:
            return f"{value / scale:g}{letter}"
    return f"{value:g}"


def pages(data):
    """Every page with the picture, and what stands between its marks."""
    alt = "Time of a step of Adam over the number of parameters: numadam and its peers"
    text = caption(data)
    return {
        ROOT / "README.md": f"![{alt}](docs/images/speed.svg)\n\n*{text}*",
        ROOT / "docs" / "index.md": f"![{alt}](images/speed.svg)\n\n*{text}*",
        ROOT / "docs" / "explanation" / "speed.md": (
            f"![{alt}](../images/speed.svg)\n\n*{text}*\n\n{findings(data)}"
        ),
    }


def filled(page, between):
    """The text of a page with `between` written between its marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{page}: expected the lines {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{between}\n{END}{after}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--draw", action="store_true", help="from speed.json, measure nothing")
    parser.add_argument(
        "--wait", type=float, default=0.0, help="seconds to wait for others to leave, at each size"
    )
    args = parser.parse_args()
    if not args.draw:
        DATA.write_text(json.dumps(measure_all(args.wait), indent=1) + "\n")
    data = json.loads(DATA.read_text())
    draw(data, PICTURE)
    for page, between in pages(data).items():
        page.write_text(filled(page, between), encoding="utf-8")


if __name__ == "__main__":
    main()
