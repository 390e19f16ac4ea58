"""Texts that an editor shows where the mouse is: ``python -m tests.hovers``, with basedpyright.

Its language server, which is also that of VS Code, is asked about every option of every rule, as an
attribute and as a keyword. It reads files and runs nothing, so it sees stubs and no docstring that
is filled in when numadam is imported.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from numadam import rules
from numadam._arrays.formatting import first_sentence, parameters
from numadam._optimizer.base import default_options

Place = tuple[int, int]


class Server:
    """A language server, one file open in it."""

    def __init__(self, folder: Path, text: str) -> None:
        command = [str(Path(sys.executable).with_name("basedpyright-langserver")), "--stdio"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder
        )
        self._file = (folder / "user.py").as_uri()
        folders = [{"uri": folder.as_uri(), "name": "user"}]
        can = {"workspace": {"configuration": True}}
        self._call("initialize", processId=None, workspaceFolders=folders, capabilities=can)
        self._send(method="initialized", params={})
        document = {"uri": self._file, "languageId": "python", "version": 1, "text": text}
        self._send(method="textDocument/didOpen", params={"textDocument": document})

    def hover(self, place: Place) -> str:
        """Text at a line and a column."""
        at = {"line": place[0], "character": place[1]}
        found = self._call("textDocument/hover", textDocument={"uri": self._file}, position=at)
        return str((found or {"contents": {"value": ""}})["contents"]["value"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _send(self, **message: Any) -> None:
        text = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(text), text))
        self._process.stdin.flush()

    def _call(self, method: str, **params: Any) -> Any:
        self._send(id=1, method=method, params=params)
        while True:
            message = self._read()
            if "method" not in message:
                return message["result"]
            if "id" in message:  # a question of the server
                items = message["params"].get("items", [])
                python = {"pythonPath": sys.executable}
                answers = [python if i.get("section") == "python" else {} for i in items]
                self._send(id=message["id"], result=answers)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        size = 0
        while line := self._process.stdout.readline().strip():
            name, value = line.split(b":")
            size = int(value) if name == b"Content-Length" else size
        found: dict[str, Any] = json.loads(self._process.stdout.read(size))
        return found


def program() -> tuple[str, dict[Place, str]]:
    """A user's script, and the text that is expected at places in it."""
    lines, expected = ["import numpy as np", "import numadam as na"], dict[Place, str]()
    for name, kind in rules.classes().items():
        texts = parameters(kind.__doc__)
        for base in kind.__mro__[1:]:
            texts = parameters(base.__doc__) | texts
        expected[len(lines), len("opt = na.")] = texts["lr"][1]  # in the docstring of the class
        lines.append(f"opt = na.{name}(np.zeros(3))")
        for option in default_options(kind).keys() - {"lr"}:
            expected[len(lines), len("opt.")] = first_sentence(texts[option][1])
            lines.append(f"opt.{option}")
    for begin in ("na.Adam(np.ones(3)", "na.minimize(print, np.ones(3)"):
        expected[len(lines), len(begin) + 2] = "All gradients together are multiplied by"
        lines.append(f"{begin}, clip_norm=1.0)")
    return "\n".join(lines), expected


def letters(text: str) -> str:
    """The letters of a text alone, for servers write it in Markdown."""
    return "".join(re.findall("[a-z]", html.unescape(text).lower()))


def main() -> int:
    """Print the places where a text is missing."""
    text, expected = program()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder).resolve(), text)
        try:
            shown = {place: server.hover(place) for place in expected}
        finally:
            server.close()
    lines = text.splitlines()
    missing = [at for at, part in expected.items() if letters(part) not in letters(shown[at])]
    for line, _ in missing:
        print(f"{lines[line]}: no text in editors")
    print(f"{len(expected) - len(missing)} of {len(expected)} texts are shown")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
