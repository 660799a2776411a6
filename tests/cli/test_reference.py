from __future__ import annotations

from tests.tools.cli_reference import PAGE, reference


def test_the_page_is_that_of_the_parser() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "python3 -m tests.tools.cli_reference"
