"""Counts code blocks of the built pages that are wider than their box, at two widths of a window.

python -m sphinx -b html docs docs/_build/html
python -m tests.campaigns.page_widths docs/_build/html

It needs a Chromium without a screen: the program `chromium`, or the one that CHROMIUM names. The
pages are served on this machine alone and laid out in frames of 1280 and 390 px. Prints each block
that is cut, and each formula, table, picture or page that is; exits with 1 where a block is.
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
from functools import partial
from pathlib import Path

WIDTHS = (1280, 390)
HARNESS = """<!doctype html><body><script>
const wide = (element) => element.scrollWidth > element.clientWidth + 1;
const words = (element) => element.textContent.trim().replace(/\\s+/g, " ").slice(0, 50);
const load = (url, width) => new Promise((done) => {
  const frame = document.createElement("iframe");
  frame.style = `border: 0; width: ${width}px; height: 900px`;
  frame.onload = () => setTimeout(() => done(frame), 50);
  frame.src = url;
  document.body.append(frame);
});
(async () => {
  const rows = [];
  for (const width of %(widths)s) for (const page of %(pages)s) {
    const frame = await load(page, width);
    const inside = frame.contentDocument;
    const row = {page, width, blocks: 0, cut: [], other: []};
    for (const block of inside.querySelectorAll("article pre")) {
      row.blocks++;
      if (wide(block)) row.cut.push(words(block));
    }
    const boxes = "article div.math, article .pst-scrollable-table-container";
    for (const box of inside.querySelectorAll(boxes))
      if (wide(box)) row.other.push(`${box.className}: ${words(box)}`);
    if (wide(inside.documentElement)) row.other.push("the page itself");
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
    """A row for each page and width: its number of blocks, and those that are cut."""
    found = sorted(folder.rglob("*.html"))
    pages = ["/" + page.relative_to(folder).as_posix() for page in found]
    handler = partial(Pages, directory=str(folder))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        tempfile.TemporaryDirectory() as profile,
    ):
        server.harness = HARNESS % {"widths": json.dumps(WIDTHS), "pages": json.dumps(pages)}
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
        for kind in ("cut", "other"):
            for text in row[kind]:
                print(f"{row['width']:5d} px  {kind:5s}  {row['page']}: {text}")
    for width in WIDTHS:
        mine = [row for row in rows if row["width"] == width]
        blocks, cut = sum(row["blocks"] for row in mine), sum(len(row["cut"]) for row in mine)
        print(f"{width} px: {cut} of {blocks} code blocks cut, on {len(mine)} pages")
    return int(any(row["cut"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
