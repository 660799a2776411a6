"""The site: ``uvicorn web:app``, then http://localhost:8000/. See tasks.py for what to install, and for the worker."""

from typing import Any

import tasks
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

import asyncresult
from asyncresult.web import accepted, exception_handlers, healthz, lifespan
from asyncresult.web.fastapi import router

PAGE = """<!doctype html>
<html lang="en">
<title>Reports</title>
<script type="module" src="/tasks/static/task-progress.js"></script>
<h1>Reports</h1>
<button>Write one</button>
<div id="reports"></div>
<script>
  document.querySelector("button").onclick = async () => {
    const started = await fetch("/reports/Ada?pages=100", { method: "POST" });
    const progress = document.createElement("task-progress");
    progress.setAttribute("src", started.headers.get("Location"));
    progress.setAttribute("label", "Report for Ada");
    document.querySelector("#reports").append(progress);
  };
</script>
"""


def may_see(request: Request, task_id: str) -> bool:
    return True  # in earnest: whether the user of the session has started this task


app = FastAPI(lifespan=lifespan(tasks.app), exception_handlers=exception_handlers())
app.include_router(router(authorize=may_see, revoke=True), prefix="/tasks")
app.add_route("/healthz", healthz)


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


@app.post("/reports/{customer}", status_code=202)
async def start(request: Request, customer: str, pages: int = 10) -> Any:
    """202 and where to look; with ``Prefer: wait=5``, and if it has ended by then, the report."""
    return await accepted(request, await tasks.write_report.adelay(customer, pages))


@app.get("/totals")
async def totals() -> dict[str, list[str]]:
    """Waits for three tasks; other requests are answered meanwhile."""
    handles = [await tasks.write_report.adelay(customer, 2) for customer in ("Ada", "Grace", "Edith")]
    return {"reports": list(await asyncresult.gather(*handles, timeout=30))}
