"""Formulas of the pages: a name of several letters is one upright element of the MathML."""

import inspect
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS / "_ext"))
from mathml import upright  # noqa: E402  (in _ext)
from public_names import public_names  # noqa: E402

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
    texts += [path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("gallery/plot_*.py"))]
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
