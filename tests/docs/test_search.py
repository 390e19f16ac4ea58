"""The search of the built site finds the right page, by the script that the pages run.

NUMADAM_SITE=FOLDER names a site that was built; `.ci/run docs` builds one and runs this file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import extras

#: What a user types, and the page that answers it: among the first three that are shown.
PAGES = {
    "bounds": "how-to/bounds",
    "nan": "how-to/options",
    "learning rate": "how-to/learning-rate",
    "weight decay": "how-to/options",
    "gpu": "tutorials/gpu",
    "checkpoint": "how-to/checkpoint",
    "many fits": "how-to/many-problems",
    "slow first call": "how-to/cold-start",
    "stop early": "how-to/watch-a-run",
    "uncertainty": "how-to/uncertainty",
    "error bars": "how-to/uncertainty",
    "callback": "how-to/watch-a-run",
    "cite": "index",
    "compile": "how-to/own-solver",
    "fix a parameter": "how-to/options",
    "frozen": "how-to/options",
    "tied": "how-to/options",
    "bad pixels": "how-to/many-problems",
    "mask": "how-to/many-problems",
    "FITS": "how-to/many-problems",
    "njit": "how-to/minimize",
    "continuation": "how-to/minimize",
    "adjoint": "how-to/minimize",
    "accept or reject a step": "how-to/checkpoint",
    "snapshot": "how-to/checkpoint",
    "restore": "how-to/checkpoint",
    "m += (1-b)*(g-m)": "tutorials/from-your-own",
    "eps under the root": "tutorials/from-your-own",
    "uncorrected v": "tutorials/from-your-own",
    "v begins at g squared": "tutorials/from-your-own",
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
@pytest.mark.parametrize(("words", "page"), PAGES.items())
def test_the_right_page_is_among_the_first_three(search, words, page):
    assert page in search(words)[:3]
