"""Pages of the gallery: the result's picture comes first, and each picture has a text.

The thumbnail of a program is its result, `sphinx_gallery_thumbnail_number`. It moves from the
block that draws it to the first paragraph, and the second paragraph is its caption.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PICTURE = re.compile(
    r"^\.\. image-sg:: (?P<path>\S+)\n   :alt: (?P<alt>.*)\n(   :.*\n)*", re.MULTILINE
)
#: Title and first paragraph; then the caption.
TOP = re.compile(r"(?P<idea>\n===+\n\n(?:.+\n)+)\n(?P<caption>(?!\.\. )(?:.+\n)+)")
LEFT_BEHIND = "*The picture is at the top of this page.*\n"


def result_first(text: str, name: str, number: int) -> str:
    """The page `name` with picture `number` below its first paragraph."""
    pictures = {picture["path"]: picture for picture in PICTURE.finditer(text)}
    if not pictures:  # built without the programs
        return text
    for path, picture in pictures.items():
        if picture["alt"] == name.replace("_", " "):
            raise ValueError(f"{path} has no text: give its axes a title.")
    drawn = f"images/sphx_glr_{name}_{number:03d}.png"
    result = next((pictures[path] for path in pictures if path.endswith(drawn)), None)
    if result is None or not TOP.search(text, 0, result.start()):
        raise ValueError(f"{name}: expected two paragraphs, and picture {number} alone.")
    head = text[: result.start()] + LEFT_BEHIND + text[result.end() :]
    return TOP.sub(lambda top: top["idea"] + _figure(result, top["caption"]), head, count=1)


def _figure(picture: re.Match[str], caption: str) -> str:
    """A figure with its caption, as reStructuredText."""
    words = " ".join(caption.split())
    return f"\n.. figure:: {picture['path']}\n   :alt: {picture['alt']}\n\n   {words}\n"


def move_result(app: Any, page: str, source: list[str]) -> None:
    """Move the picture on a page of a program, when Sphinx reads it."""
    from sphinx_gallery.py_source_parser import extract_file_config

    name = page.rpartition("/")[2]
    if page.startswith("auto_gallery/") and name.startswith("plot_"):
        program = page.replace("auto_gallery", "gallery") + ".py"
        script = (Path(app.srcdir) / program).read_text(encoding="utf-8")
        number = extract_file_config(script).get("thumbnail_number", 1)
        source[0] = result_first(source[0], name, number)


#: A link to a program, as it works in the folder of the pages too.
PROGRAM = re.compile(r"\]\(((?:\.\./)*)gallery/(\w+/plot_\w+)\.py\)")


def link_pages(app: Any, page: str, source: list[str]) -> None:
    """Let links to programs lead to their pages."""
    source[0] = PROGRAM.sub(r"](\1auto_gallery/\2.rst)", source[0])


def setup(app: Any) -> dict[str, bool]:
    """Take part in the build."""
    app.connect("source-read", move_result)
    app.connect("source-read", link_pages)
    return {"parallel_read_safe": True}
