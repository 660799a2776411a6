"""``watch`` on a terminal, drawn by rich: a line a task, with a bar where it reports progress."""

from __future__ import annotations

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .._progress import progress_of
from ..meta import TaskMeta
from ..states import FAILURE, PENDING, RETRY, REVOKED, SUCCESS
from .output import describe, escaped

__all__ = ["LiveView"]

_STYLES = {SUCCESS: "green", FAILURE: "red", REVOKED: "magenta", RETRY: "yellow", PENDING: "dim"}
BAR_CELLS = 24


class LiveView:
    """A view that is drawn again, some times a second, while it is open.

    Args:
        ids: What is followed, in the order of the lines.
        console: Where to draw; None is stdout.
    """

    def __init__(self, ids: list[str], *, console: Console | None = None) -> None:
        self._shown: dict[str, TaskMeta] = {id: TaskMeta(task_id=id, status=PENDING) for id in ids}
        self._live = Live(get_renderable=self.table, console=console, refresh_per_second=10)

    def open(self) -> None:
        self._live.start()

    def show(self, id: str, meta: TaskMeta, state_id: str | None) -> None:
        self._shown[id] = meta  # drawn by rich's thread, which only reads

    def close(self) -> None:
        self._live.stop()  # draws once more

    def table(self) -> Table:
        """What is seen now."""
        table = Table.grid(padding=(0, 2))
        for width in (36, 8, BAR_CELLS):
            table.add_column(no_wrap=True, max_width=max(width, 36), overflow="ellipsis")
        table.add_column(ratio=1)  # its cells do not wrap, but it alone gives way: else one long text hides all ids
        for id, meta in list(self._shown.items()):
            state = Text(escaped(meta.status), style=_STYLES.get(meta.status, "cyan"))
            progress = progress_of(meta)
            if progress is None:
                table.add_row(Text(escaped(id)), state, "", _cut(describe(meta)))
            else:
                current, total, note = progress
                drawn = ProgressBar(total=total, completed=current, width=BAR_CELLS)
                counts = f"{current:g}/{total:g} {note if note.isprintable() else ''}".rstrip()
                table.add_row(Text(escaped(id)), state, drawn, _cut(counts))
        return table


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
