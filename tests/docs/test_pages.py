"""README, docs and CONTRIBUTING do what they say.

Snippets run, links lead somewhere, commands are the CI's, and the three files of the worked example
make a rule without another edit.
"""

import re
from pathlib import Path

import numpy as np
import pytest

import numadam as na
from tests.pages import BLOCK, lacking

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
OPTIONS = (ROOT / "docs" / "how-to" / "options.md").read_text(encoding="utf-8")
CPU = [code for need, code in BLOCK.findall(OPTIONS) if not need]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_first_snippets_find_the_minimum(page, capsys):
    names = {}
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    for _, code in blocks:
        assert len([line for line in code.splitlines() if line]) <= 6
        exec(compile(code, page, "exec"), names)
    assert len(blocks) == 2
    np.testing.assert_allclose(names["x"], [1, 2, 3], atol=0.02)
    np.testing.assert_array_equal(names["res"].x, 2.5)
    assert f"# {names['res'].x} True" in blocks[1][1]
    assert capsys.readouterr().out == f"{names['res'].x} True\n"


def test_options_do_what_they_say(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    names = {}
    for code in CPU:
        exec(compile(code, "options.md", "exec"), names)
    assert len(CPU) >= 9
    np.testing.assert_allclose(names["box"], [1, 2, 2], atol=0.02)
    assert names["opt"].t == 1
    assert names["later"].t == 1
    assert not np.array_equal(names["p"], np.ones(5))


DOCS = [page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts]
NEEDS = {
    page: {need for need, _ in BLOCK.findall(page.read_text(encoding="utf-8"))}
    for page in sorted(DOCS)
}
PEERS = {"torch", "jax"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.peers()] if needs & PEERS else [])
        for page, needs in NEEDS.items()
        if needs & {"", *PEERS}  # others: tests/cuda/gpu and tests/mpi
    ],
)
def test_snippets_of_the_pages_run(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    names = {"__name__": "__main__"}
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    for need, code in blocks:
        if not lacking(need):
            exec(compile(code, page.name, "exec"), names)


def links(text):
    """Targets of links that lead to files."""
    found = re.findall(r"\]\(([^)#]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [target for target in found if not target.startswith("https://")]


@pytest.mark.parametrize(
    "page", [*DOCS, ROOT / "README.md", CONTRIBUTING], ids=lambda page: page.stem
)
def test_links_lead_somewhere(page):
    targets = links(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_error_message_is_a_real_one():
    opt = na.Adam({"w": np.ones((4, 3))})
    with pytest.raises(ValueError, match="grads") as caught:
        opt.step({"w": np.ones((3, 4))})
    assert f"ValueError: {caught.value}" in " ".join(README.split())


def test_commands_are_those_of_the_ci():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    for command in commands:
        assert f"'{command}'\n" in script
