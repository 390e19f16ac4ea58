"""The picture of the speed and its captions: what is measured, drawn and written."""

import json
import re

import numpy as np
import pytest

from tests.bench.scripts import load

speed = load("speed")
ABOUT = {
    "processor": "P",
    "threads": 2,
    "date": "2026-01-01",
    "versions": {"numpy": "2.4", "torch": "2.13"},
}


def row(elements, busy=0.01, **seconds):
    return {"elements": elements, "seconds": seconds, "busy": busy}


def data(*rows):
    return {"machine": ABOUT, "sizes": list(rows)}


MEMORY = {speed.MEMORY: 2e-3}
TWO = data(
    row(1000, numadam=1e-6, NumPy=1e-5, torch=2e-5, **MEMORY),
    row(2_000_000, numadam=2.2e-3, NumPy=1e-2, torch=2e-3, **MEMORY),
)


def test_all_sides_take_turns_on_every_size():
    sides = {name: speed.SIDES[name] for name in (speed.OURS, "NumPy", speed.MEMORY)}
    found = speed.measured(10, sides, 0.0, rounds=1)
    assert found["seconds"].keys() == set(sides)
    assert all(time > 0 for time in found["seconds"].values())
    assert found["ratio"].keys() == {"NumPy", speed.MEMORY}


def test_the_numpy_lines_are_adam():
    side = speed.numpy_in_place(5)
    cells = dict(zip(side.__code__.co_freevars, side.__closure__, strict=True))
    before = cells["p"].cell_contents.copy()
    side()
    after = cells["p"].cell_contents
    moved = 1e-3 * np.sign(cells["g"].cell_contents)
    np.testing.assert_allclose(before - after, moved, rtol=1e-3)


def test_captions_say_what_the_data_say():
    text = speed.caption(TWO)
    assert "(P, 2 threads, 2026-01-01)" in text
    assert "1,000 parameters: numadam 1 us, NumPy 10 us, torch 20 us." in text
    assert "Provisional" not in text
    loud = data(row(1000, busy=0.5, numadam=2e-5, NumPy=1e-5, **MEMORY))
    assert "1,000 parameters: NumPy 10 us, numadam 20 us. Provisional" in speed.caption(loud)
    assert "up to 50% of the machine" in speed.caption(loud)


def test_findings_name_the_sizes_at_which_another_is_faster():
    text = speed.findings(TWO)
    assert "at every size, except at 2,000,000 (torch) parameters." in text
    assert "1.10 of the time of the memory traffic" in text
    assert "at 28 GB/s" in text
    assert "(numpy 2.4, torch 2.13)" in text
    assert "the fastest of these at every size." in speed.findings(data(TWO["sizes"][0]))


def test_picture_shows_all_sides(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "speed.svg"
    speed.draw(TWO, path)
    text = path.read_text()
    assert all(words in text for words in ("numadam", "NumPy, in-place lines", "memory alone"))
    assert speed.digest(TWO) in text
    assert speed.digest(TWO) != speed.digest(data(TWO["sizes"][0]))


def test_marks_are_needed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"a\n{speed.BEGIN}\nold\n{speed.END}\nb\n")
    assert speed.filled(page, "new") == f"a\n{speed.BEGIN}\nnew\n{speed.END}\nb\n"
    page.write_text("a\n")
    with pytest.raises(SystemExit, match="expected the lines"):
        speed.filled(page, "new")


def test_pages_and_picture_are_those_of_the_data():
    found = json.loads(speed.DATA.read_text())
    for page, between in speed.pages(found).items():
        assert page.read_text(encoding="utf-8") == speed.filled(page, between), page.name
    picture = speed.PICTURE.read_text(encoding="utf-8")
    assert re.search(rf">{speed.digest(found)}<", picture), "python asv_benchmarks/speed.py --draw"
    assert len(picture) < 60_000


def test_figures_are_those_of_a_quiet_machine():
    """Peers that spin lose most on a busy one: the picture would flatter numadam."""
    text = speed.caption(json.loads(speed.DATA.read_text()))
    assert "Provisional" not in text, "python asv_benchmarks/speed.py --wait 60, alone on a machine"
