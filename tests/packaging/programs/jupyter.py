"""The cells of docs/howto/jupyter.md in a notebook, run by a kernel."""

from __future__ import annotations

import nbformat
from nbclient import NotebookClient
from support import DOCS

# nbclient takes what comes in the name of the cell that runs: there the display has to keep up within its own.
programs = [(DOCS / f"cell_{number}.py").read_text() for number in range(1, 6)]
programs[2] = programs[2].replace("show(handle)", "await show(handle)")
cells = [nbformat.v4.new_code_cell(program) for program in programs]
notebook = nbformat.v4.new_notebook(cells=cells)
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()

outputs = [cell.outputs for cell in notebook.cells]
assert outputs[:2] == [[], []], outputs
(shown,) = outputs[2]
assert shown.output_type == "display_data"
assert "SUCCESS" in shown.data["text/html"] and "resized" in shown.data["text/html"], shown
assert [output.data["text/plain"] for output in outputs[3]] == ["'resized'"]
assert "of 2 done" in outputs[4][0].data["text/html"]
