"""The page with the figures of two processors: what is written into it. Nothing is timed."""

import json

from tests.bench.scripts import load

processors, run = load("processors"), load("run")
CASES = run.cases_of(run.TARGETS)
ABOUT = {
    "processor": "P",
    "family": "25",
    "model": "17",
    "cores": 2,
    "caches": {"L1d": "32K"},
    "date": "2026-01-01",
    "system": "Linux",
    "threads": 2,
    "layer": "tbb",
    "gpu": "none found",
    "versions": {"numadam": "1"},
}


def row(name, value=None, ours=None, busy=0.0):
    case, unit = CASES[name]
    figure = {"skipped": "not here"} if value is None else {"value": value, "ours": ours}
    met = value is None or value <= case.target
    return {"case": name, "unit": unit, **figure, "met": met, "busy": busy}


def test_figures_go_into_the_column_of_their_processor():
    columns = [{"title": "Q", "about": "q", "cases": {"torch-1M": "0.9"}, "roofline": {}}]
    found = [
        row("torch-1M", 0.5, 1.0),
        row("torch-10k", 0.5, 1.0, busy=0.5),
        row("first-step-warm", 0.3, 0.6),
        row("deepspeed-1M"),
    ]
    processors.add(columns, {"machine": ABOUT, "rows": found})
    size = {"elements": 10_000, "ratio": {"roofline": 1.0216}}
    processors.add(columns, {"machine": ABOUT, "sizes": [size]})
    mine, other = columns
    assert mine["about"].startswith("2026-01-01, P (family 25, model 17), 2 cores, L1d 32K")
    assert mine["cases"] == {
        "torch-1M": "0.500",
        "torch-10k": "**0.500 ?**",
        "first-step-warm": "**0.300 (600 ms)**",
        "deepspeed-1M": "not taken",
    }
    assert mine["roofline"] == {"10000": "1.022"}
    text = processors.page(columns)
    assert "| torch-1M | a step of 1M / torch fused | 0.65 | 0.500 | 0.9 |" in text
    assert "| 10,000 | 1.022 | - |" in text
    assert all(f"| {name} |" in text for name in CASES)
    assert (mine["title"], other["title"]) == ("P, family 25", "Q")
    processors.add(columns, {"machine": {**ABOUT, "family": "26"}, "rows": found})
    assert [one["title"] for one in columns] == ["P, family 26", "P, family 25", "Q"]


def test_bytes_of_a_busy_machine_are_not_in_doubt():
    assert processors.cell(row("memory-net", 0.0, busy=0.9)) == "0 B"


def test_page_is_what_the_data_say():
    text = processors.page(json.loads(processors.DATA.read_text()))
    assert processors.PAGE.read_text().endswith(text)
