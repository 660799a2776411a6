"""docs/llms.txt, the site for language models: ``python -m tests.tools.llms`` writes its list of pages anew.

What is above the list is written by hand. The list has the pages of the site in the order of its navigation, each with
its title and the first sentence of its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PATH", "text"]

DOCS = Path(__file__).parents[2] / "docs"
PATH = DOCS / "llms.txt"

_TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CAPTION = re.compile(r"^:caption: (.*)$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_SENTENCE = re.compile(r".*?[.:](?=\s|$)")


def text() -> str:
    """What the file should hold."""
    above, _, _ = PATH.read_text(encoding="utf-8").partition("\n## ")
    return above + "".join(_sections())


def _sections() -> Iterator[str]:
    for toctree in _TOCTREE.findall((DOCS / "index.md").read_text(encoding="utf-8")):
        caption = _CAPTION.search(toctree)
        yield f"\n## {caption[1] if caption else 'Begin'}\n\n"
        for page in _pages(toctree, DOCS):
            yield _line(page)


def _pages(toctree: str, folder: Path) -> Iterator[Path]:
    """The pages of a toctree, and those of the toctrees in them. Decisions are many, and their index has them."""
    for line in toctree.splitlines():
        if line and not line.startswith(":"):
            for page in sorted(folder.glob(f"{line}.md")):
                yield page
                if page.parent.name != "decisions":
                    for inner in _TOCTREE.findall(page.read_text(encoding="utf-8")):
                        yield from _pages(inner, page.parent)


def _line(page: Path) -> str:
    heading, _, rest = page.read_text(encoding="utf-8").partition("\n")
    title = heading.removeprefix("# ").replace("`", "")
    address = page.relative_to(DOCS).with_suffix(".html")
    return f"- [{title}]({address}){_note(rest)}\n"


def _note(rest: str) -> str:
    """The first sentence, where a page begins with one."""
    paragraph, _, _ = rest.strip().partition("\n\n")
    if not paragraph[:1].isalpha():
        return ""
    found = _SENTENCE.match(_LINK.sub(r"\1", " ".join(paragraph.split())))
    return f": {found[0].rstrip(':')}" if found else ""


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
