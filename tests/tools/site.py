"""The built site is whole, and can be read: ``python3 dev docs`` runs this when Sphinx is done.

Every internal link leads to a page and a place in it. ``--look`` opens pages of each kind in Chromium as well, on a
phone, a laptop and a large screen, light and dark: nothing is wider than the window, and axe finds no barrier. That
takes minutes. ``ASYNCRESULT_SCREENSHOTS=directory`` keeps pictures.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["broken_links", "look"]

SITE = Path(__file__).parents[2] / "site"
PAGES = [
    "index",
    "tutorial",
    "examples",
    "changelog",
    "search",
    "howto/celery",
    "howto/deployment",
    "howto/fastapi",
    "howto/troubleshooting",
    "explanation/performance",
    "reference/api/results",
    "reference/cli",
    "reference/options",
]
"""One of each kind, and those with the widest tables."""
WIDTHS = (390, 1280, 1920)
MILLISECONDS = 300_000
"""For a page to load: a machine may be busy."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


class _Page(HTMLParser):
    """The links of a page, and the places in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id":
                self.places.add(value)
            elif name in ("href", "src"):
                self.links.append(value)


def broken_links(site: Path) -> Iterator[str]:
    """Each internal link that leads nowhere, with the page that it is on."""
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not target.exists():
                yield f"{path.relative_to(site.resolve())}: {link} leads nowhere"
            elif place and target in pages and place not in pages[target].places:
                yield f"{path.relative_to(site.resolve())}: {link}: there is no such place"


def look(site: Path, chromium: str) -> Iterator[str]:
    """What is wrong with the pages as Chromium shows them."""
    from playwright.sync_api import sync_playwright

    axe = (Path(str(importlib.import_module("axe_playwright_python").__file__)).parent / "axe.min.js").read_text(
        encoding="utf-8"
    )
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        for scheme in ("light", "dark"):
            window = browser.new_page(color_scheme=scheme)
            window.set_default_timeout(MILLISECONDS)
            for name in PAGES:
                window.goto((site / f"{name}.html").resolve().as_uri())
                for width in WIDTHS:
                    window.set_viewport_size({"width": width, "height": 900})
                    for text in _look_at(window, axe):
                        yield f"{name}, {width} px, {scheme}: {text}"
                    if directory := os.environ.get("ASYNCRESULT_SCREENSHOTS"):
                        window.screenshot(path=Path(directory) / f"{name.replace('/', '-')}-{width}-{scheme}.png")
            window.close()
        browser.close()


def _look_at(window: Any, axe: str) -> Iterator[str]:
    wide, inner = window.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    if wide > inner:
        yield f"is {wide} px wide"
    if inner == WIDTHS[-1]:  # the same barriers as on a laptop
        return
    window.evaluate(axe)
    for rule in window.evaluate("axe.run()")["violations"]:
        yield f"{rule['id']}: {rule['nodes'][0]['html'][:150]} ({len(rule['nodes'])} of them)"


def main() -> int:
    found = list(broken_links(SITE))
    sys.stdout.writelines(f"{text}\n" for text in found)
    if "--look" in sys.argv[1:]:
        chromium = shutil.which("chromium")
        if chromium is None:
            sys.exit("chromium is not installed: the pages cannot be looked at")
        for text in look(SITE, chromium):
            print(text, flush=True)  # noqa: T201
            found.append(text)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
