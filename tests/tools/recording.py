"""Draws docs/images/watch.svg, what ``asyncresult watch`` shows: ``python3 -m tests.tools.recording``.

The view of the command is fed with the states of some tasks; each picture that it draws becomes a frame of an animated
SVG, which needs no script and no font of its own. Where motion is not wanted, the last frame stands.
"""

from __future__ import annotations

import io
from pathlib import Path
from xml.sax.saxutils import escape

from rich.console import Console
from rich.segment import Segment
from rich.style import Style

from asyncresult import TaskMeta
from asyncresult.cli.live import LiveView

__all__ = ["PICTURE", "recording"]

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "watch.svg"

COLUMNS, CELL, LINE, MARGIN = 88, 8.4, 20, 16
SECONDS_A_FRAME, SECONDS_AT_END = 0.35, 3.0
COMMAND = "$ asyncresult watch resize-1 import-7 report-3"
IDS = ["resize-1", "import-7", "report-3"]
_PALETTE = {"green": "#7ec699", "red": "#f08d8d", "yellow": "#e6c07b", "cyan": "#79c0ff", "magenta": "#d2a8ff"}
_PLAIN, _DIM, _BACKGROUND = "#e6e6e6", "#8b949e", "#16181d"
_FAILURE = {"exc_type": "ValueError", "exc_message": ["row 7: no such column 'price'"], "exc_module": "builtins"}


def states() -> list[TaskMeta]:
    """What happens, one state a frame."""

    def progress(id: str, current: int, total: int, note: str = "") -> TaskMeta:
        return TaskMeta(
            task_id=id,
            status="PROGRESS",
            result={"current": current, "total": total, **({"note": note} if note else {})},
        )

    happened = [TaskMeta(task_id="resize-1", status="STARTED", result={"hostname": "w1"})]
    for step in range(1, 9):
        happened.append(progress("resize-1", step, 8, f"picture-{step}.jpg"))
        if step < 6:
            happened.append(progress("import-7", 2 * step, 20))
    happened.append(TaskMeta(task_id="import-7", status="FAILURE", result=_FAILURE))
    happened.append(TaskMeta(task_id="resize-1", status="SUCCESS", result="8 pictures resized"))
    happened += [progress("report-3", step, 3) for step in (1, 2)]
    happened.append(TaskMeta(task_id="report-3", status="SUCCESS", result={"pages": 12}))
    return happened


def recording() -> str:
    """The picture."""
    console = Console(
        file=io.StringIO(), force_terminal=True, width=COLUMNS, color_system="truecolor", legacy_windows=False
    )
    view = LiveView(IDS, console=console)
    frames = [_drawn(console, view)]
    for meta in states():
        view.show(meta.task_id or "", meta, None)
        frames.append(_drawn(console, view))
    return _animated(frames)


def _drawn(console: Console, view: LiveView) -> str:
    lines = [[Segment(COMMAND)], *console.render_lines(view.table(), pad=False)]
    return "".join(_line(number, segments) for number, segments in enumerate(lines))


def _line(number: int, segments: list[Segment]) -> str:
    """Each segment at its own column: no font is as wide as another."""
    texts: list[str] = []
    column = 0
    for segment in segments:
        shown = segment.text.rstrip()
        if shown:
            x, y = MARGIN + column * CELL, MARGIN + 22 + number * LINE
            texts.append(
                f'<text x="{x:.1f}" y="{y}" fill="{_colour(segment.style)}" textLength="{len(shown) * CELL:.1f}">'
                f"{escape(shown)}</text>"
            )
        column += segment.cell_length
    return "".join(texts)


def _colour(style: Style | None) -> str:
    if style is None:
        return _PLAIN
    if style.color is None:
        return _DIM if style.dim else _PLAIN
    return _PALETTE.get(style.color.name) or style.color.get_truecolor().hex


def _animated(frames: list[str]) -> str:
    seconds = SECONDS_A_FRAME * (len(frames) - 1) + SECONDS_AT_END
    width, height = MARGIN * 2 + COLUMNS * CELL, MARGIN * 2 + LINE * (len(IDS) + 1) + 6
    shares = [100 * number * SECONDS_A_FRAME / seconds for number in range(len(frames))] + [100.0]
    rules: list[str] = []
    for number in range(len(frames)):
        begin, end = shares[number], shares[number + 1]
        rules.append(
            f"@keyframes f{number}{{0%,{begin:.2f}%{{opacity:0}}{begin + 0.01:.2f}%,{end:.2f}%{{opacity:1}}"
            + ("" if end >= 100 else f"{end + 0.01:.2f}%,100%{{opacity:0}}")
            + f"}}.f{number}{{animation:f{number} {seconds:.2f}s infinite}}"
        )
    groups = "\n".join(f'<g class="f f{number}">{frame}</g>' for number, frame in enumerate(frames))
    last = len(frames) - 1
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" aria-labelledby="title">
<title id="title">asyncresult watch: three tasks, two with bars of progress; one fails, two succeed</title>
<style>
.f{{opacity:0}}.f{last}{{opacity:1}}
text{{font:14px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre}}
@media (prefers-reduced-motion:no-preference){{
{chr(10).join(rules)}
}}
</style>
<rect width="100%" height="100%" rx="8" fill="{_BACKGROUND}"/>
{groups}
</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(recording(), encoding="utf-8")
