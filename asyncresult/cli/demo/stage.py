"""Where the demo is seen: the code of a scene, and beside it what happens, as it happens."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from ..output import coloured, escaped, moves_cursor

__all__ = ["Stage"]

#: Columns that what happens needs, beside the code.
RIGHT_COLUMNS = 44
BAR_CELLS = 16


class Stage:
    """Prints scenes: beside each other where the terminal is wide enough and can move its cursor, else below."""

    def __init__(self) -> None:
        self._colours = coloured(sys.stdout)
        self._moves = moves_cursor(sys.stdout)
        self._column = 0  # where what happens begins; 0: below the code
        self._code_lines = 0
        self._shown = 0
        self._bar_is_open = False

    def title(self, text: str) -> None:
        self.end_bar()
        print(f"\n\x1b[1m{text}\x1b[0m" if self._colours else f"\n== {text}", flush=True)

    def code(self, lines: Sequence[str]) -> None:
        """The code of a scene, which begins."""
        width = max(map(len, lines)) + 8
        fits = width + RIGHT_COLUMNS <= shutil.get_terminal_size().columns
        height = shutil.get_terminal_size().lines
        self._column = width if self._moves and fits and len(lines) < height else 0
        self._code_lines, self._shown = len(lines), 0
        for line in lines:
            print(f"\x1b[2m   │ {line}\x1b[0m" if self._colours else f"   | {line}")
        sys.stdout.flush()

    def show(self, text: str) -> None:
        """One thing that happens."""
        self.end_bar()
        for line in text.splitlines():
            self._put(self._shown, line)
            self._shown += 1

    def bar(self, current: int, total: int) -> None:
        """Progress, which is drawn again in its place where that can be."""
        done = BAR_CELLS * current // total
        text = f"PROGRESS {'#' * done}{'.' * (BAR_CELLS - done)} {current}/{total}"
        if self._column:
            self._put(self._shown, text)
            self._bar_is_open = True
        elif self._moves:
            print(f"\r   {text}", end="", flush=True)
            self._bar_is_open = True
        else:
            self.show(text)

    def end_bar(self) -> None:
        """What comes next does not overwrite the bar."""
        if self._bar_is_open:
            self._bar_is_open = False
            self._shown += 1
            if not self._column:
                print(flush=True)

    def end_scene(self) -> None:
        """Below all that was shown."""
        self.end_bar()
        self._column = 0

    def _put(self, row: int, text: str) -> None:
        if not self._column:
            print(f"   {escaped(text)}", flush=True)
            return
        width = shutil.get_terminal_size().columns - self._column - 3
        text = escaped(text) if len(text) <= width else f"{escaped(text)[: width - 1]}…"
        while row >= self._code_lines:  # more happens than the code has lines
            print()
            self._code_lines += 1
        up = self._code_lines - row
        print(f"\x1b[{up}A\x1b[{self._column}G→ {text}\x1b[K\x1b[{up}B\r", end="", flush=True)
