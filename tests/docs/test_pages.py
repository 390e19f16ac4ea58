"""README, docs and CONTRIBUTING do what they say.

Snippets run, links lead somewhere, commands are the CI's, and the three files of the worked example
make a rule without another edit.

The worked examples of the contributor's pages: a rule and an option, made in a copy.

The search of the built site finds the right page, by the script that the pages run.

NUMADAM_SITE=FOLDER names a site that was built; `.ci/run docs` builds one and runs this file.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import numadam as na
from tests import extras
from tests.pages import BLOCK, lacking

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"


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


def test_the_page_on_one_pass_shows_the_loops_that_are_compiled():
    page = (ROOT / "docs" / "explanation" / "one-pass.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```py\n(for .*?)^```$", page, re.M | re.S)
    x = np.zeros(3, np.float32)
    adam, adamw = na.Adam(x), na.AdamW(x)
    adamw.clip_value, adamw.bounds = 1.0, (0, 1)
    parts = [ast.parse(opt.source.partition("\n\n\n")[0]).body[0] for opt in (adam, adamw)]
    loops = [node for part in parts for node in part.body if isinstance(node, ast.For)]
    assert [ast.dump(ast.parse(code).body[0]) for code in shown] == list(map(ast.dump, loops))


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


# --- contributing --------------------------------------------------------------------------------


RULE = (ROOT / "docs" / "development" / "rule.md").read_text(encoding="utf-8")
OPTION = (ROOT / "docs" / "development" / "option.md").read_text(encoding="utf-8")
#: path and content of each file of the rule
FILES = re.findall(
    r"^\*\*\d\. [^*]+\*\*, `([\w/.]+)`[^\n]*\n\n(`{3,})\w+\n(.*?)^\2$",
    RULE,
    re.MULTILINE | re.DOTALL,
)
#: path of each file that the option changes, and the page's part on it
PARTS = re.findall(
    r"^\*\*\d\. [^*]+\*\*, `([\w/.]+)`(.*?)(?=^\*\*\d|\Z)", OPTION, re.MULTILINE | re.DOTALL
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what an example changes or runs."""
    ignored = shutil.ignore_patterns("__pycache__", "*.loop", "_build", "auto_gallery")
    for folder in ("numadam", "tests", "docs", ".ci", ".github"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run_commands(page: str, checkout: Path) -> int:
    """Run the commands of a page; returns how many tests passed."""
    (commands,) = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    scope = {"PYTHONPATH": str(checkout), "NUMBA_CACHE_DIR": str(checkout / "cache")}
    for line in commands.replace("\\\n", "").splitlines():
        _, *words = shlex.split(line)
        done = subprocess.run(
            [sys.executable, *words],
            cwd=checkout,
            env={**os.environ, **scope},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    return int(passed)


@pytest.mark.sweep  # two runs of tests with an empty cache
def test_three_files_make_a_rule(checkout: Path) -> None:
    assert len(FILES) == 3
    for path, _, content in FILES:
        (checkout / path).write_text(content, encoding="utf-8")
    assert run_commands(RULE, checkout) > 30
    stub = (checkout / "numadam" / "__init__.pyi").read_text(encoding="utf-8")
    assert "from numadam.rules.signum import Signum as Signum" in stub


@pytest.mark.sweep
def test_eight_files_make_an_option(checkout: Path) -> None:
    assert len(PARTS) == 8
    for path, part in PARTS:
        text = (checkout / path).read_text(encoding="utf-8")
        for change in re.findall(r"^```diff\n(.*?)^```$", part, re.MULTILINE | re.DOTALL):
            lines = change.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if not line.startswith("+"))
            after = "".join(line[1:] for line in lines if not line.startswith("-"))
            assert text.count(before) == 1, f"{path} has changed: {before}"
            text = text.replace(before, after)
        (checkout / path).write_text(text, encoding="utf-8")
    assert run_commands(OPTION, checkout) > 60
    stub = (checkout / "numadam" / "_core" / "keywords.pyi").read_text(encoding="utf-8")
    assert stub.count("    max_step: float | Schedule | None\n") == 4  # optimisers, minimize


# --- search --------------------------------------------------------------------------------------


#: What a user types, and the page that answers it: among the first three that are shown.
FOUND = {
    "bounds": "how-to/bounds",
    "nan": "how-to/options",
    "learning rate": "how-to/learning-rate",
    "gpu": "tutorials/gpu",
    "checkpoint": "how-to/checkpoint",
    "many fits": "how-to/many-problems",
    "slow first call": "how-to/cold-start",
    "stop early": "how-to/watch-a-run",
    "uncertainty": "how-to/uncertainty",
    "callback": "how-to/watch-a-run",
    "cite": "index",
    "compile": "how-to/own-solver",
    "fix a parameter": "how-to/options",
    "frozen": "how-to/options",
    "bad pixels": "how-to/many-problems",
    "FITS": "how-to/many-problems",
    "njit": "how-to/minimize",
    "adjoint": "how-to/minimize",
    "accept or reject a step": "how-to/checkpoint",
    "snapshot": "how-to/checkpoint",
    "m += (1-b)*(g-m)": "tutorials/from-your-own",
    "eps under the root": "tutorials/from-your-own",
    "all options": "reference/all-options",
}

#: What the scripts ask of a browser when they are loaded.
BROWSER = """
var document = {getElementById: () => null}, SPHINX_HIGHLIGHT_ENABLED = false;
var window = globalThis, _ready = () => null, _ = (text) => text;
"""


@pytest.fixture(scope="module")
def search():
    site = os.environ.get("NUMADAM_SITE")
    if not site:
        extras.stop("docs", "NUMADAM_SITE names no built site")
    import quickjs

    context = quickjs.Context()
    context.eval(BROWSER)
    folder = Path(site)
    scripts = ["base-stemmer.js", "english-stemmer.js", "language_data.js", "searchtools.js"]
    for script in (*(folder / "_static" / name for name in scripts), folder / "searchindex.js"):
        context.eval(script.read_text(encoding="utf-8"))
    context.eval("""
        function pagesFor(words) {
            const found = Search._performSearch(...Search._parseQuery(words));
            return JSON.stringify(found.reverse().map((result) => result[0]));
        }""")
    return lambda words: list(dict.fromkeys(json.loads(context.eval(f"pagesFor({words!r})"))))


@pytest.mark.docs("quickjs")
@pytest.mark.parametrize(("words", "page"), FOUND.items())
def test_the_right_page_is_among_the_first_three(search, words, page):
    assert page in search(words)[:3]
