"""Counts what of the built pages is cut at two widths of a window: code, formulas, pictures, words.

python -m sphinx -b html docs docs/_build/html
python -m tests.campaigns.page_widths docs/_build/html

It needs a Chromium without a screen: the program `chromium`, or the one that CHROMIUM names. The
pages are served on this machine alone and laid out in frames of 1280 and 390 px. Prints each thing
that is wider than its box or higher than the part of it that shows, and each word beyond the text's
edge. Exits with 1 if there is one other than a table or a formula: these scroll by themselves.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from functools import partial
from pathlib import Path

WIDTHS = (1280, 390)
#: What is counted, and the elements that are meant.
KINDS = {
    "code blocks": "article pre",
    "formulas": "article div.math",
    "tables": "article .pst-scrollable-table-container",
    "pictures": "article img",
}
#: Kinds that may scroll in a box of their own.
MAY_SCROLL = {"formulas", "tables"}
HARNESS = """<!doctype html><body><script>
const kinds = %(kinds)s;
const style = (element) => element.ownerDocument.defaultView.getComputedStyle(element);
const right = (element) => element.getBoundingClientRect().right;
const words = (element) =>
  (element.alt || element.textContent).trim().replace(/\\s+/g, " ").slice(0, 50);
const load = (url, width) => new Promise((done) => {
  const frame = document.createElement("iframe");
  frame.style = `border: 0; width: ${width}px; height: 900px`;
  frame.onload = () => setTimeout(() => done(frame), 50);
  frame.src = url;
  document.body.append(frame);
});
const cut = (element, edge) =>
  element.scrollWidth > element.clientWidth + 1 || right(element) > edge
  || style(element).overflowY !== "visible" && element.scrollHeight > element.clientHeight + 2;
const scrolls = (element) => element.matches("article") ? false
  : ["auto", "scroll"].includes(style(element).overflowX) || scrolls(element.parentElement);
(async () => {
  const rows = [];
  for (const width of %(widths)s) for (const page of %(pages)s) {
    const frame = await load(page, width);
    const inside = frame.contentDocument;
    const row = {page, width, count: {}, cut: []};
    const article = inside.querySelector("article");
    const edge = article ? right(article) + 1 : width;
    for (const [kind, selector] of Object.entries(kinds)) {
      const found = [...inside.querySelectorAll(selector)];
      row.count[kind] = found.length;
      for (const element of found)
        if (cut(element, edge)) row.cut.push([kind, words(element)]);
    }
    for (const element of inside.querySelectorAll("article :not(.headerlink)"))
      if (!element.children.length && right(element) > edge && !scrolls(element))
        row.cut.push(["words", words(element)]);
    if (inside.documentElement.scrollWidth > width + 1) row.cut.push(["page", "all of it"]);
    rows.push(row);
    frame.remove();
  }
  await fetch("/rows", {method: "POST", body: JSON.stringify(rows)});
})();
</script>"""


class Pages(http.server.SimpleHTTPRequestHandler):
    """The built pages, the program that measures them, and a place for its figures."""

    def do_GET(self) -> None:
        if self.path != "/measure":
            return super().do_GET()
        content = self.server.harness.encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(content)
        return None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.rows = json.loads(body)  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()
        self.server.done.set()  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        """Nothing is printed for a request."""


def measure(folder: Path, browser: str, timeout: float) -> list[dict]:
    """A row for each page and width: how many of each kind, and which are cut."""
    found = sorted(folder.rglob("*.html"))
    pages = ["/" + page.relative_to(folder).as_posix() for page in found]
    handler = partial(Pages, directory=str(folder))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        tempfile.TemporaryDirectory() as profile,
    ):
        given = {"kinds": KINDS, "widths": WIDTHS, "pages": pages}
        server.harness = HARNESS % {name: json.dumps(value) for name, value in given.items()}
        server.done = threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", "--remote-debugging-port=0"]
        url = f"http://127.0.0.1:{server.server_port}/measure"
        process = subprocess.Popen([*command, url], stderr=subprocess.DEVNULL)
        try:
            if not server.done.wait(timeout):
                raise SystemExit(f"{browser} sent no figures in {timeout:g} s.")
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
        return server.rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="built pages")
    parser.add_argument("--timeout", type=float, default=600, help="seconds, 600 by default")
    args = parser.parse_args()
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if browser is None:
        parser.error("there is no chromium; CHROMIUM may name another one")
    if not (args.folder / "index.html").exists():
        parser.error(f"no built pages in {args.folder}")
    rows = measure(args.folder.resolve(), browser, args.timeout)
    for row in rows:
        for kind, text in row["cut"]:
            print(f"{row['width']:5d} px  {kind:11s}  {row['page']}: {text}")
    for width in WIDTHS:
        mine = [row for row in rows if row["width"] == width]
        cut = Counter(kind for row in mine for kind, _ in row["cut"])
        of = [f"{cut[kind]} of {sum(row['count'][kind] for row in mine)} {kind}" for kind in KINDS]
        print(f"{width} px, {len(mine)} pages, cut: {', '.join(of)}, {cut['words']} words")
    return int(any(kind not in MAY_SCROLL for row in rows for kind, _ in row["cut"]))


if __name__ == "__main__":
    sys.exit(main())
