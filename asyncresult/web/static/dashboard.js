/* The list of tasks: fetched again and again while the page is visible. Rows stay where they are in the document,
 * so that neither the focus nor a selection is lost. */

const INTERVAL = 2000; // milliseconds
const table = document.querySelector("table");
const body = table.tBodies[0];
const note = document.querySelector("#note");
const base = document.querySelector("main").dataset.base;
const rows = new Map();

function row(task) {
  if (!rows.has(task.id)) {
    const made = document.createElement("tr");
    const link = Object.assign(document.createElement("a"), { textContent: task.id });
    link.href = `${base}/${encodeURIComponent(task.id)}/page`;
    for (const name of ["id", "name", "state", "ended"]) made.insertCell().className = name;
    for (const cell of made.cells) cell.append(cell.className === "id" ? link : document.createElement("span"));
    rows.set(task.id, made);
  }
  const made = rows.get(task.id);
  made.dataset.state = task.state;
  const percent = task.percent === null ? "" : ` ${Math.round(task.percent)} %`;
  const ended = task.date_done === null ? "" : new Date(task.date_done).toLocaleString();
  [task.name ?? "", task.state + percent, ended].forEach((text, index) => {
    const cell = made.cells[index + 1].firstChild;
    if (cell.textContent !== text) cell.textContent = text;
  });
  return made;
}

function show({ tasks, complete }) {
  const shown = tasks.map(row);
  for (const [id, made] of rows) if (!shown.includes(made)) { made.remove(); rows.delete(id); }
  shown.forEach((made, index) => { if (body.rows[index] !== made) body.insertBefore(made, body.rows[index] ?? null); });
  table.hidden = tasks.length === 0;
  say(tasks.length === 0 ? "There is nothing yet." : complete ? "" : `${tasks.length} of those that are there; others by their ids.`);
}

function say(text) { if (note.textContent !== text) note.textContent = text; }

async function look() {
  try {
    const response = await fetch("/list", { cache: "no-store", credentials: "same-origin" });
    if (!response.ok) throw new Error((await response.json()).title);
    show(await response.json());
  } catch (error) {
    say(`No list: ${error.message}. Trying again.`);
  }
}

for (;;) {
  if (document.visibilityState === "visible") await look();
  await new Promise((resolve) => setTimeout(resolve, INTERVAL));
}
