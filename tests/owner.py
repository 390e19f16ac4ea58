"""Address, index name and DOI of ``.ci/owner.toml``, in the files that name them.

Unset, they change nothing: an install is one of a checkout. ``python -m tests.generate`` writes
what is set.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (
    *("README.md", "docs/index.md", "docs/tutorials/five-minutes.md", "docs/tutorials/gpu.md"),
    "docs/how-to/mpi.md",
)
FILES = (*PAGES, "pyproject.toml", "CITATION.cff", "numadam/_version.py")

_INSTALL = re.compile(
    r'pip install -e (?:\.(?=\s)|"\.(?P<extras>\[\w+\])")(?! && python -m pytest)'
)
#: Words of a page on a checkout, and those on a package index.
_WORDS = {
    ", pip, and a checkout of this repository. In its folder, best in": " and pip. Best in",
    "  # in a checkout of the repository; Python 3.11 or newer": "  # Python 3.11 or newer",
    "In a checkout of the repository:\n": "In a folder of yours:\n",
}
_NO_URLS = re.compile(r"^# no \[project\.urls\].*$", re.MULTILINE)
_URLS = """\
[project.urls]
Source = "{0}"
Documentation = "{0}/tree/main/docs"
Changelog = "{0}/blob/main/CHANGELOG.md"
Issues = "{0}/issues\""""
_LINK = re.compile(r"(!?\[[^][]*\])\((?!https?://|#)([^)]+)\)")
_CITE = "reference managers read"


def owner(root: Path = ROOT) -> dict[str, str]:
    """What the owner has filled in."""
    return tomllib.loads((root / ".ci" / "owner.toml").read_text(encoding="utf-8"))


def _page(text: str, given: Mapping[str, str]) -> str:
    """A page with the install of a package index, and with the DOI."""
    if name := given["index"]:
        text = (
            _INSTALL.sub(
                lambda found: (
                    f'pip install "{name}{found["extras"]}"'
                    if found["extras"]
                    else f"pip install {name}"
                ),
                text,
            )
            .replace('or `".[', f'or `"{name}[')
            .replace('or ".[', f'or "{name}[')
        )
        for before, after in _WORDS.items():
            text = text.replace(before, after)
    if (doi := given["doi"]) and doi not in text:
        link = f"[doi:{doi}](https://doi.org/{doi})"
        text = re.sub(rf"({_CITE}[^.]*)\.", rf"\1; {link}.", text)
    return text


def _absolute(text: str, address: str) -> str:
    """README with whole addresses, as a package index needs them."""

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found[1].startswith("!") else "blob"
        return f"{found[1]}({address}/{kind}/main/{found[2]})"

    return _LINK.sub(link, text)


def filled(name: str, text: str, given: Mapping[str, str]) -> str:
    """The text of one of `FILES` with what is given."""
    address, index, doi = given["address"], given["index"], given["doi"]
    if name in PAGES:
        text = _page(text, given)
    if name == "README.md" and address:
        text = _absolute(text, address)
    if name == "pyproject.toml":
        if address:
            text = _NO_URLS.sub(_URLS.format(address), text)
        if index:
            text = re.sub(r'(?m)^name = "[\w-]+"', f'name = "{index}"', text, count=1)
            text = text.replace('"numadam[', f'"{index}[')
    if name == "CITATION.cff":
        lines = {"repository-code": address, "doi": doi}
        missing = [f"{key}: {value}\n" for key, value in lines.items() if value and key not in text]
        text = text.replace("license:", "".join(missing) + "license:", 1)
    if name == "numadam/_version.py":
        text = re.sub(r'(?m)^INDEX = ".*"', f'INDEX = "{index}"', text)
    return text


def written(root: Path = ROOT, names: Iterable[str] = FILES) -> dict[Path, str]:
    """Every file that names them, and what it has to hold."""
    given = owner(root)
    return {root / n: filled(n, (root / n).read_text(encoding="utf-8"), given) for n in names}
