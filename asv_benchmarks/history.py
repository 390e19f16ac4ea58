"""Speed over the project's own commits: one machine, one run, one driver for all of them.

    python asv_benchmarks/history.py                  # 12 commits, to the docs
    python asv_benchmarks/history.py --commits 3 --pairs 3 --output /tmp   # a trial
    python asv_benchmarks/history.py --draw           # only the picture, from the JSON

Each commit that changed the package is unpacked into a folder of its own and measured by
history_driver.py with the packages of this environment. A figure is a ratio of two sides timed in
turns in one process, so commits can be compared although they ran minutes apart.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median

from numadam._bench.measure import LIMIT

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: The last value above the median of the ones before by this much is said to be slower.
SLOWER = 1.15


def git(*words):
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True).stdout


def commits(count):
    """Commits that changed the package, spread over all of them: the first and the last are in."""
    form = "--format=%H%x09%cs%x09%s"
    lines = git("log", "--first-parent", "--reverse", form, "--", "numadam").decode().splitlines()
    last = len(lines) - 1
    places = sorted({round(k * last / max(count - 1, 1)) for k in range(count)})
    return [
        dict(zip(("commit", "date", "subject"), lines[k].split("\t"), strict=True)) for k in places
    ]


def unpack(commit, folder):
    """The package of a commit, without touching this checkout."""
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit, "numadam"))) as packed:
        packed.extractall(folder, filter="data")


def benchmarks():
    """Measurements of the driver by name, and the side by which each is divided."""
    from history_driver import BENCHMARKS

    return {name: what for name, (what, _) in BENCHMARKS.items()}


def measure(commit, folder, names, pairs):
    """Run the driver on a commit; raises where the driver measured something else.

    A commit that cannot run has no values, but a reason.
    """
    if not folder.exists():
        unpack(commit["commit"], folder)
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "NUMBA_CACHE_DIR": str(folder / "cache"),
    }
    command = [sys.executable, str(HERE / "history_driver.py")]
    command.append(json.dumps({"names": names, "pairs": pairs}))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:  # a commit between two finished steps may not even import
        said = done.stderr.replace(f"{folder}/", "").strip().splitlines()
        missing = dict.fromkeys(names or benchmarks(), (said or ["nothing"])[-1])
        return {"values": {}, "missing": missing, "busy": None}
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer.pop("from") != str((folder / "numadam").resolve()):
        raise RuntimeError(f"{commit['commit'][:8]}: another numadam was measured.")
    return answer


def record(args):
    """Measure all commits, in turns: forward, backward, forward."""
    chosen = commits(args.commits)
    answers = [[] for _ in chosen]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        order = list(range(len(chosen)))
        for turn in range(args.repeat):
            for k in order:
                one = chosen[k]
                place = Path(folder) / one["commit"][:8]
                answers[k].append(measure(one, place, args.only, args.pairs))
                so_far = time.monotonic() - start
                print(f"{so_far:6.0f} s  turn {turn + 1}  {one['commit'][:8]}  {one['subject']}")
            order.reverse()
    return [{**one, **merged(each)} for one, each in zip(chosen, answers, strict=True)]


def merged(answers):
    """The median of each value over the turns; the busiest turn counts."""
    names = answers[0]["values"]
    return {
        "values": {name: median(one["values"][name] for one in answers) for name in names},
        "missing": answers[0]["missing"],
        "busy": max((one["busy"] or 0.0 for one in answers), default=None),
    }


def slower(records):
    """Measurements in which the last commit is slower than the median of those before it."""
    found = []
    for name, value in records[-1]["values"].items():
        before = [one["values"][name] for one in records[:-1] if name in one["values"]]
        if before and value > SLOWER * median(before):
            found.append(f"{name}: {value:.3g}, median before {median(before):.3g}")
    return found


def draw(table, path):
    """A panel for each thing that is divided by: ratios over the commits."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records, groups = table["commits"], table["groups"]
    by = {what: [name for name in groups if groups[name] == what] for what in groups.values()}
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    places = range(len(records))
    for ax, (what, names) in zip(figure.subplots(2, 2).ravel(), by.items(), strict=False):
        for name in names:
            line = [one["values"].get(name, float("nan")) for one in records]
            ax.plot(places, line, marker="o", ms=3, label=name)
        ax.set_yscale("log")
        for axis in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            axis(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else "")
        ax.tick_params(axis="y", which="both", labelsize=8)
        ax.set_xlim(-0.5, len(records) - 0.5)
        ax.set_ylabel(f"time / {what}")
        ax.set_xticks(places, [one["commit"][:7] for one in records], rotation=60, fontsize=8)
        ax.grid(alpha=0.3, which="both")
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3}  # of its panel
        ax.legend(fontsize=8, frameon=False, **above)
    about = table["machine"]
    when = f"{records[0]['date']} to {records[-1]['date']}"
    title = f"{len(records)} commits, {when}; {about['processor']}, {about['threads']} threads, "
    title += about["layer"]
    busy = max(one["busy"] or 0.0 for one in records)
    if busy > LIMIT:
        title += f"\nIN DOUBT: other programs used up to {busy:.0%} of the machine"
    figure.suptitle(title, fontsize=10)
    figure.supxlabel("commit, the newest on the right", fontsize=10)
    figure.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commits", type=int, default=12, help="how many (default: 12)")
    parser.add_argument("--repeat", type=int, default=2, help="turns over them (default: 2)")
    parser.add_argument("--pairs", type=int, default=15, help="samples a figure (default: 15)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a benchmark")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "development" / "benchmarks")
    parser.add_argument("--draw", action="store_true", help="only draw what was recorded")
    args = parser.parse_args()
    if not args.output.is_dir():
        parser.error(f"--output: expected a folder that exists, got {str(args.output)!r}")
    file, picture = args.output / "history.json", args.output / "history.png"
    if not args.draw:
        import machine

        records = record(args)
        table = {"machine": machine.machine(), "groups": benchmarks(), "commits": records}
        file.write_text(json.dumps(table, indent=1) + "\n")
    table = json.loads(file.read_text())
    draw(table, picture)
    for one in table["commits"]:
        for name, reason in one["missing"].items():
            print(f"left out: {one['commit'][:8]} {name}: {reason}")
        if one["busy"] and one["busy"] > LIMIT:
            print(f"in doubt: {one['commit'][:8]}: others took {one['busy']:.0%} of the machine")
    for line in slower(table["commits"]):
        print(f"slower: {line}")
    print(f"{file}\n{picture}")


if __name__ == "__main__":
    main()
