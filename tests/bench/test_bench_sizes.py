"""`python -m numadam bench` as it comes: a step at sizes from 1 to 50M elements, in a picture."""

import argparse
import json
import re

import numpy as np
import pytest

from numadam.bench import add_arguments, peers, run, sizes, sizes_plot


def options(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def two_sides(monkeypatch):
    kept = {name: sizes.SIDES[name] for name in ("numadam", "roofline", "NumPy")}
    monkeypatch.setattr(sizes, "SIDES", kept)
    monkeypatch.setattr(sizes.available, "__defaults__", (kept,))


def test_sizes_are_a_table_a_picture_and_json(two_sides, capsys, tmp_path):
    file, picture = tmp_path / "figures.json", tmp_path / "steps.png"
    words = (
        "--size",
        "10",
        "--size",
        "1e3",
        "--quick",
        "--json",
        str(file),
        "--plot",
        str(picture),
    )
    assert run(options(*words)) == 0
    out = capsys.readouterr().out
    assert re.search(r"\|      1,000 \| [0-9.]+ [num]s +\| [0-9.]+ [num]s \([0-9.]+\)", out)
    (table,) = json.loads(file.read_text())
    assert [row["elements"] for row in table["sizes"]] == [10, 1000]
    for row in table["sizes"]:
        assert set(row["seconds"]) == {"numadam", "roofline", "NumPy"}
        assert row["ratio"].keys() == {"roofline", "NumPy"}
        assert all(ratio > 0 for ratio in row["ratio"].values())
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_sizes_that_do_not_fit_are_left_out(monkeypatch):
    monkeypatch.setattr(sizes, "machine_memory", lambda: 2.0)
    fitting, lost = sizes.sizes_for(False, None)
    assert max(fitting) == 10_000_000
    assert lost == ["50,000,000 elements need 6.52 GiB"]
    assert max(sizes.sizes_for(True, None)[0]) == 1_000_000
    assert sizes.sizes_for(True, [3])[0] == [3]


def test_sides_that_are_not_there_say_why():
    def missing(n):
        raise peers.Unavailable("torch is not installed")

    found = sizes.available({"numadam": peers.step, "torch": missing, "DeepSpeed": missing})
    assert found == (["numadam"], ["torch is not installed"])


@pytest.mark.peers("optax")
def test_sides_of_the_sizes_take_a_step_of_adam():
    side = peers.optax_adam(4)
    cells = dict(zip(side.__code__.co_freevars, side.__closure__, strict=True))
    before = np.array(cells["p"].cell_contents)
    side()
    np.testing.assert_allclose(np.abs(np.array(cells["p"].cell_contents) - before), 1e-3, rtol=1e-3)


def test_picture_of_two_layers(tmp_path):
    rows = [
        {"elements": n, "seconds": {"numadam": n * 1e-9, "roofline": n * 2e-9}} for n in (10, 1000)
    ]
    about = {"processor": "P", "threads": 2, "layer": "tbb"}
    path = tmp_path / "steps.svg"
    sizes_plot.draw([{"machine": about, "sizes": rows}] * 2, path)
    assert "<svg" in path.read_text()


def test_sizes_that_do_not_fit_are_refused(capsys):
    assert run(options("--size", "1e12")) == 1
    assert capsys.readouterr().err == "--size: 1,000,000,000,000 elements need 1.3e+05 GiB\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--options", "--plot", "x.png"], "--plot: draws the table of sizes"),
        (["--plot", "x.jpeg"], "--plot: expected a file such as steps.png"),
        (["--plot", "no/such/x.png"], "--plot: cannot write no/such/x.png: No such file"),
    ],
)
def test_pictures_that_cannot_be_are_refused_first(words, said, capsys):
    assert run(options(*words)) == 2
    out, err = capsys.readouterr()
    assert err.startswith(said)
    assert err.count("\n") == 1
    assert not out


@pytest.mark.parametrize(
    "words",
    [
        ["--size", "few"],
        ["--size", "0.5"],
        ["--size", "1", "--options"],
        ["--wait", "-1"],
        ["--wait", "inf"],
    ],
)
def test_misuse_of_numbers(words, capsys):
    with pytest.raises(SystemExit) as stop:
        options(*words)
    assert stop.value.code == 2
    assert words[0] in capsys.readouterr().err
