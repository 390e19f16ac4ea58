"""The first word of every docstring: a noun or a verb, no question word."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = {"What", "Who", "Whoever", "Those", "Where", "Whose", "How"}
FILES = [
    path
    for folder in ("numadam", "asv_benchmarks", "docs/_ext")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def docstrings(source):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "the module"), text


def test_docstrings_of_all_kinds_are_read():
    source = '"""A."""\nclass B:\n    """How."""\n    async def c(self):\n        """D."""\n'
    assert dict(docstrings(source)) == {"the module": "A.", "B": "How.", "c": "D."}


def test_docstrings_begin_with_a_noun_or_a_verb():
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in FILES
        for name, text in docstrings(path.read_text(encoding="utf-8"))
        if text.split()[0].strip(",.:") in QUESTIONS
    ]
    assert found == []
