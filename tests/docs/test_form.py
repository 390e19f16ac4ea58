"""Form of the pages: columns of code, pictures, other hosts, and names in formulas.

Code is in docs/_ext/form.py and docs/_ext/mathml.py.
"""

import doctest
import inspect
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS / "_ext"))
from form import COLUMNS, from_elsewhere, repeated, wide_lines  # noqa: E402  (in _ext)
from mathml import upright  # noqa: E402
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
    # none where the example is a program for several ranks; test_docstrings.py asks for one
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


# --- formulas: a name of several letters is one upright element of the MathML -------------------

BLOCK = re.compile(r"^( *)\.\. math::(.*\n(?:\1 .*\n|\s*\n)*)", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`")
#: Commands are no names, and their arguments are none where they are no formulas.
NAME = re.compile(r"\\(?:begin|end|text|mathrm)\{[^}]*\}|\\[a-zA-Z]+|([a-zA-Z]{2,}(?:\\_\w+)*)")


def formulas(text):
    """Formulas of a docstring or of the comments of a gallery program."""
    text = re.sub(r"^# ?", "", text, flags=re.MULTILINE) + "\n"
    return [found[2] for found in BLOCK.finditer(text)] + INLINE.findall(text)


def all_formulas():
    texts = [inspect.getdoc(thing) or "" for thing in public_names().values()]
    texts += [path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("gallery/*/plot_*.py"))]
    return sorted({formula for text in texts for formula in formulas(text)})


def names_of(tex):
    return [name.replace(r"\_", "_") for name in NAME.findall(tex) if name]


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"-lr \cdot g", r"-\mathrm{lr} \cdot g"),
        (r"a^{t \, momentum\_decay}", r"a^{t \, \text{momentum_decay}}"),
        (
            r"\frac{eps_{root}}{\mathrm{sign}(m)}",
            r"\frac{\mathrm{eps}_{\mathrm{root}}}{\mathrm{sign}(m)}",
        ),
    ],
)
def test_names_become_upright(tex, expected):
    assert upright(tex) == expected


@pytest.mark.parametrize("tex", all_formulas())
def test_no_name_is_left_as_single_letters(tex):
    assert names_of(upright(tex)) == []


@pytest.mark.parametrize("tex", all_formulas())
def test_name_is_one_element(tex):
    latex2mathml = pytest.importorskip(
        "docutils.utils.math.latex2mathml", reason="needs the extra `docs`"
    )
    one_line = upright(tex).replace("&", "").replace(r"\\", "")
    mathml = latex2mathml.tex2mathml(one_line).replace("&ApplyFunction;", "")
    tree = ElementTree.fromstring(mathml)
    elements = [element.text for element in tree.iter() if element.tag.endswith(("mi", "mtext"))]
    assert {name for name in names_of(tex) if name not in elements} == set()


def test_formulas_are_found():
    found = " ".join(all_formulas())
    assert r"t \, momentum\_decay" in found
    assert r"weight\_decay \cdot p" in found
    assert r"\varphi = 2 \pi n d" in found
