"""Form of the pages: docs/_ext/form.py, and the columns of code in all Markdown pages."""

import doctest
import inspect
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS / "_ext"))
from form import COLUMNS, from_elsewhere, repeated, wide_lines  # noqa: E402  (in _ext)
from public_names import public_names  # noqa: E402

PAGES = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts]
PAGES += [DOCS.parent / name for name in ("CHANGELOG.md", ".github/CONTRIBUTING.md")]
#: fence, language or {directive}, content
FENCED = re.compile(r"^(`{3,}|:{3,})([^\n]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: str(page.relative_to(DOCS.parent)))
def test_code_fits_the_page(page):
    blocks = FENCED.findall(page.read_text(encoding="utf-8"))
    code = [content for _, language, content in blocks if not language.startswith("{")]
    assert [line for content in code for line in wide_lines(content)] == []


@pytest.mark.parametrize(("name", "thing"), public_names().items())
def test_examples_fit_the_page(name, thing):
    things = [thing, *vars(thing).values()] if inspect.isclass(thing) else [thing]
    texts = [inspect.cleandoc(text) for one in things if isinstance(text := one.__doc__, str)]
    examples = [example for text in texts for example in doctest.DocTestParser().get_examples(text)]
    # none where the example is a program for several ranks; tests/docs/test_docs.py asks for one
    # a line of the source has a prompt of four characters before it
    shown = [f">>> {line}" for one in examples for line in one.source.splitlines()]
    shown += [line for one in examples for line in one.want.splitlines()]
    assert [line for line in shown if wide_lines(line)] == []


def test_lines_are_counted_one_by_one():
    code = "\n".join(["x" * COLUMNS, "y" * (COLUMNS + 1), ""])
    assert wide_lines(code) == ["y" * (COLUMNS + 1)]


def test_a_picture_that_is_shown_twice_is_found():
    assert repeated(["a.svg", "b.svg", "a.svg"]) == ["a.svg"]
    assert repeated(["a.svg", "b.svg"]) == []


@pytest.mark.parametrize(
    "text",
    [
        '<script async="async" src="https://cdn.example/mathjax@4/tex-mml-chtml.js"></script>',
        '<link href="//fonts.example/a.css" rel="stylesheet">',
        '<link rel="preload" as="font" href="https://fonts.example/a.woff2">',
        '<img alt="a" src="http://badge.example/b.svg">',
        "@import 'https://fonts.example/a.css';",
        "@font-face { src: url(https://fonts.example/a.woff2) }",
    ],
)
def test_another_host_is_found(text):
    assert len(from_elsewhere(f"<p>{text}</p>")) == 1


@pytest.mark.parametrize(
    "text",
    [
        '<script src="_static/a.js"></script>',
        '<link rel="canonical" href="https://numadam.example/">',
        '<a href="https://arxiv.org/abs/1412.6980">a paper</a>',
        '<math xmlns="http://www.w3.org/1998/Math/MathML"></math>',
        "background: url(data:image/svg+xml;base64,AAAA)",
    ],
)
def test_links_of_readers_are_none(text):
    assert from_elsewhere(text) == []
