"""Writes docs/reference/cli.md from the parser: ``python3 -m tests.tools.cli_reference``."""

from __future__ import annotations

import argparse
from pathlib import Path

from asyncresult.cli.parser import build_parser, commands_of

__all__ = ["PAGE", "reference"]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"

HEAD = """\
# Command line

`asyncresult`, or `python -m asyncresult`. Data goes to stdout, everything said to you to stderr. With
`pip install "asyncresult[cli]"` (rich), `watch` draws bars on a terminal; without it, and where stdout is no terminal,
it prints a line for each state. `NO_COLOR` and `TERM=dumb` are respected.

`--json` writes one line of JSON, for an object or for each of them. What JSON has no form for is written as text:
dates, decimals, bytes, and numbers that are not finite (`"NaN"`, `"Infinity"`, `"-Infinity"`).

The results are found by `--url`, else by the settings of the Celery app given with `-A`, else by `$ASYNCRESULT_URL`,
else by `$CELERY_RESULT_BACKEND`. There is no default. These options may come before the command
or after it. `memory://` and `rpc://` hold results in one process, so nothing can be read from another: the commands
say so.

| Exit status | Meaning |
|---|---|
| 0 | success |
| 1 | a task failed; `doctor` found an error |
| 2 | usage: the command line or a URL is wrong, or does not apply to that store; or the output cannot be written |
| 3 | the task was revoked |
| 4 | nothing is stored for that id |
| 5 | the server cannot be reached, or refuses |
| 6 | the record cannot be read |
| 124 | the time ran out |
| 130 | Ctrl-C, or the question of `forget` was not answered with yes |

Of several results the largest status counts. Only the first contact is bounded (`--connect-timeout`): a wait outlasts
later outages.
"""


def reference() -> str:
    """The page."""
    parts = [HEAD]
    for name, parser in commands_of(build_parser()).items():
        parts.append(f"## `{name}`\n\n{_sentence(parser.description or '')}\n")
        rows = [_row(action) for action in parser._actions if "--help" not in action.option_strings]
        if rows:
            parts.append("\n".join(["| | |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _row(action: argparse.Action) -> str:
    value = str(action.metavar or "|".join(map(str, action.choices or [])) or action.dest.upper())
    if not action.option_strings:
        written = f"{value}…" if action.nargs == "+" else f"[{value}]" if action.nargs == "?" else value
    else:
        written = ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {value}")
    written = written.replace("|", "\\|")
    return f"| `{written}` | {action.help or ''} |"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
