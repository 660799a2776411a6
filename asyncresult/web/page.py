"""The status page of one task or several, and the files that it needs: no build step, no CDN, a strict CSP."""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from starlette.responses import HTMLResponse, Response

from .problems import Problem

__all__ = ["html_page", "page", "static_file"]

#: What the page may load: its own scripts and styles, and requests to its own host. Nothing inline.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
STATIC = {
    "task-progress.js": "text/javascript; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
}
_static = files("asyncresult.web") / "static"


def static_file(name: str) -> Response:
    """One of the files of the page.

    Raises:
        Problem: 404.
    """
    if name not in STATIC:
        raise Problem.not_found()
    headers = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
    return Response((_static / name).read_bytes(), headers=headers, media_type=STATIC[name])


def page(tasks: Sequence[dict[str, Any]], *, base: str, revoke: bool = False, home: str | None = None) -> Response:
    """The page.

    Args:
        tasks: Status documents, with links.
        base: The path below which the routes are.
        revoke: Whether there are buttons that revoke.
        home: Where a link at the top leads.
    """
    title = f"Task {tasks[0]['id']}" if len(tasks) == 1 else f"{len(tasks)} tasks"
    cards = "\n".join(_card(task, revoke) for task in tasks)
    top = f'<nav><a href="{html.escape(home)}">All tasks</a></nav>\n' if home is not None else ""
    main = f"{top}<h1>{'Task' if len(tasks) == 1 else title}</h1>\n{cards}"
    return html_page(title, main, base=base, script="page.js")


def html_page(title: str, main: str, *, base: str, script: str) -> Response:
    """A whole page, under a policy that allows no script but ours."""
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{html.escape(base)}/static/page.css">
<script type="module" src="{html.escape(base)}/static/task-progress.js"></script>
<script type="module" src="{html.escape(base)}/static/{script}"></script>
</head>
<body>
<main data-base="{html.escape(base)}">
{main}
</main>
</body>
</html>
"""
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Vary": "Prefer, Accept",
    }
    return HTMLResponse(text.encode("utf-8", "replace"), headers=headers)


def _card(task: dict[str, Any], revoke: bool) -> str:
    links = task["links"]
    id = html.escape(str(task["id"]))
    button = (
        f'<button type="button" class="revoke" data-href="{html.escape(links["self"])}/revoke">Stop</button>'
        if revoke
        else ""
    )
    state, here = html.escape(task["state"]), html.escape(links["self"])
    return f"""<article class="task" data-id="{id}" data-self="{here}" data-state="{state}">
<header><h2>{id}</h2><span class="state">{state}</span>{button}</header>
<task-progress label="Progress of task {id}"></task-progress>
<dl class="facts"></dl>
<section hidden><h3>Result</h3>
<pre class="result" tabindex="0" role="region" aria-label="Result of {id}"></pre></section>
<section hidden><h3>Tasks that it has sent</h3><ul class="tree"></ul></section>
</article>"""
