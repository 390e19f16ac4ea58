"""Docstrings are whole, and pages of good form.

Every public name has a docstring with its parameters and an example. Columns of code, pictures,
other hosts, and names in formulas: the code is in docs/_ext/form.py and docs/_ext/mathml.py.
"""

import ast
import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from numadam import rules
from numadam._core import options
from numadam._optimizer.optimizer import Optimizer

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS / "_ext"))
from form import COLUMNS, from_elsewhere, repeated, wide_lines  # noqa: E402  (in _ext)
from mathml import upright  # noqa: E402
from public_names import (  # noqa: E402
    is_made_by_users,
    is_of_ranks,
    lacks_example,
    missing_parameters,
    public_names,
)
from wraps import with_breaks  # noqa: E402

NAMES = public_names()


def test_all_of_it_is_looked_at():
    assert {"numadam.Adam", "numadam.minimize", "numadam.Rows"} <= set(NAMES)
    assert {"numadam.schedules.Cosine", "numadam.nopython.nadam_product"} <= set(NAMES)
    assert len(NAMES) > 60


@pytest.mark.parametrize("name", NAMES)
def test_docstring_is_whole(name):
    assert not lacks_example(NAMES[name])
    assert not list(missing_parameters(NAMES[name]))


def test_defaults_can_be_read():
    """A default that is an object would show itself with an address or a path of the machine."""
    made = {name: thing for name, thing in NAMES.items() if is_made_by_users(thing)}
    assert {"numadam.Adam", "numadam.minimize"} <= made.keys()
    shown = {name: str(inspect.signature(thing)) for name, thing in made.items()}
    assert [name for name, text in shown.items() if " at 0x" in text or "<module" in text] == []


@pytest.mark.parametrize("name", [name for name in NAMES if not is_of_ranks(NAMES[name])])
def test_example_is_found_by_the_doctests(name):
    """`python -m pytest` runs what doctest's finder sees in the modules of numadam."""
    thing = NAMES[name]
    home = importlib.import_module(thing.__module__)
    found = {test.name for test in doctest.DocTestFinder().find(home) if test.examples}
    assert f"{thing.__module__}.{thing.__name__}" in found


def test_the_checks_see_what_is_missing():
    def bare(a, b):
        """Sum.

        Parameters
        ----------
        a : float
            One of them.

        Returns
        -------
        float
        """

    assert lacks_example(bare)
    assert list(missing_parameters(bare)) == ["b"]


def test_every_shared_option_is_documented():
    text = inspect.cleandoc(Optimizer.__doc__)  # Python 3.13 does so itself
    section = text.partition("Parameters\n")[2].partition("Notes\n")[0]
    for name in options.DEFAULTS:
        assert f"\n{name} : " in section, name


def test_chart_names_rules_that_exist_and_its_page_links_them():
    chart = (DOCS / "images" / "which-rule.svg").read_text(encoding="utf-8")
    page = (DOCS / "how-to" / "which-rule.md").read_text(encoding="utf-8")
    files = {name: file for file, name in rules.CLASSES.items()}
    answers = " ".join(re.findall(r'class="rule">([^<]+)<', chart))
    named = set(re.findall(r"\b[A-Z]\w*", answers)) - {"L", "BFGS"}
    assert len(named) >= 8
    assert named <= files.keys()
    for name in named:
        assert f"[{name}](../reference/rules/{files[name]}.md)" in page, name


# --- the first word: a noun or a verb, no question word -----------------------------------------

QUESTIONS = {"What", "Who", "Whoever", "Those", "Where", "Whose", "How"}


def docstrings(source):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "the module"), text


def test_docstrings_of_all_kinds_are_read():
    source = '"""A."""\nclass B:\n    """How."""\n    async def c(self):\n        """D."""\n'
    assert dict(docstrings(source)) == {"the module": "A.", "B": "How.", "c": "D."}


def test_docstrings_begin_with_a_noun_or_a_verb():
    folders = ("numadam", "asv_benchmarks", "docs/_ext")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    files = [path for path in files if "__pycache__" not in path.parts]
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name, text in docstrings(path.read_text(encoding="utf-8"))
        if text.split()[0].strip(",.:") in QUESTIONS
    ]
    assert found == []


# --- form of the pages ---------------------------------------------------------------------------

PAGES = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts]
PAGES += [ROOT / name for name in ("CHANGELOG.md", ".github/CONTRIBUTING.md")]
#: fence, language or {directive}, content
FENCED = re.compile(r"^(`{3,}|:{3,})([^\n]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_code_fits_the_page(page):
    blocks = FENCED.findall(page.read_text(encoding="utf-8"))
    code = [content for _, language, content in blocks if not language.startswith("{")]
    assert [line for content in code for line in wide_lines(content)] == []


@pytest.mark.parametrize(("name", "thing"), NAMES.items())
def test_examples_fit_the_page(name, thing):
    things = [thing, *vars(thing).values()] if inspect.isclass(thing) else [thing]
    texts = [inspect.cleandoc(text) for one in things if isinstance(text := one.__doc__, str)]
    examples = [example for text in texts for example in doctest.DocTestParser().get_examples(text)]
    # none where the example is a program for several ranks; test_docstring_is_whole asks for one
    # a line of the source has a prompt of four characters before it
    shown = [f">>> {line}" for one in examples for line in one.source.splitlines()]
    shown += [line for one in examples for line in one.want.splitlines()]
    assert [line for line in shown if wide_lines(line)] == []


#: Pages by hand: words of a page that a program writes are not counted.
WRITTEN = [page for page in PAGES if page.is_relative_to(DOCS) and page.stem != "all-options"]


@pytest.mark.parametrize(("development", "most"), [(False, 24_000), (True, 9_000)])
def test_pages_are_short(development, most):
    pages = [page for page in WRITTEN if ("development" in page.parts) is development]
    assert sum(len(page.read_text(encoding="utf-8").split()) for page in pages) <= most


def sentences(page):
    """Sentences and cells of seven words and more, without code and targets of links."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"<!-- speed: written.*?<!-- speed: end -->", "", text, flags=re.DOTALL)
    for line in re.sub(r"\]\([^)]*\)", "]", text).splitlines():
        for part in re.split(r"(?<=[.:|])\s", line):
            if len(part.split()) >= 7:
                yield part.strip("*|- ")


def test_every_sentence_stands_once():
    places = {}
    for page in WRITTEN:
        for sentence in sentences(page):
            places.setdefault(sentence, []).append(page.name)
    assert {one: pages for one, pages in places.items() if len(pages) > 1} == {}


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


def test_a_name_may_wrap_after_its_underscores():
    code = '<code class="docutils"><span class="pre">max_skips=1</span></code>'
    assert with_breaks(code).count("max_<wbr>skips=1") == 1
    assert with_breaks("<dt><strong>clip_norm</strong></dt>") == (
        "<dt><strong>clip_<wbr>norm</strong></dt>"
    )
    for other in ("<pre>clip_norm</pre>", '<a href="clip_norm.html">clip norm</a>'):
        assert with_breaks(other) == other


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
    texts = [inspect.getdoc(thing) or "" for thing in NAMES.values()]
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


@pytest.mark.docs("docutils")
@pytest.mark.parametrize("tex", all_formulas())
def test_name_is_one_element(tex):
    from docutils.utils.math import latex2mathml

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
