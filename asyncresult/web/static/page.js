/* The status page: what <task-progress> does not show. The component brings the documents; nothing else is fetched for
 * a task but the tree below it, once it has ended. */

const FACTS = [["date_done", "Ended", time], ["stale", "Worker", () => "no heartbeat"]];

function time(text) {
  return Object.assign(document.createElement("time"), { dateTime: text, textContent: new Date(text).toLocaleString() });
}

function element(name, ...inside) {
  const made = document.createElement(name);
  made.append(...inside);
  return made;
}

const base = document.querySelector("main").dataset.base;

for (const card of document.querySelectorAll(".task")) {
  const show = (event) => render(card, event.detail);
  card.addEventListener("progress", show);
  card.addEventListener("done", (event) => { show(event); tree(card); });
  card.querySelector(".revoke")?.addEventListener("click", (event) => revoke(event.currentTarget));
}

/* A browser opens six connections to a host: one stream for all. Where it is blocked, each component fetches for itself. */
const cards = new Map([...document.querySelectorAll(".task")].map((card) => [card.dataset.id, card]));
if (cards.size === 1) each();
else if (cards.size > 1) {
  const ids = [...cards.keys()].map((id) => `id=${encodeURIComponent(id)}`).join("&");
  const source = new EventSource(`${base}/events?format=json&${ids}`);
  const take = (event) => {
    const status = JSON.parse(event.data);
    cards.get(status.id).querySelector("task-progress").status = status;
  };
  source.addEventListener("progress", take);
  source.addEventListener("done", take);
  source.addEventListener("end", () => source.close());
  source.addEventListener("error", () => { if (source.readyState === EventSource.CLOSED) each(); });
}

function each() {
  for (const card of cards.values()) card.querySelector("task-progress").setAttribute("src", card.dataset.self);
}

function render(card, status) {
  card.dataset.state = status.state;
  card.querySelector(".state").textContent = status.state;
  const facts = card.querySelector(".facts");
  facts.replaceChildren(
    ...FACTS.filter(([name]) => status[name] !== undefined).flatMap(([name, title, form]) => [
      element("dt", title),
      element("dd", form(status[name])),
    ]),
  );
  const result = card.querySelector(".result");
  const shown = status.result !== undefined && status.result !== null;
  result.parentElement.hidden = !shown;
  if (shown) {
    result.textContent = typeof status.result === "string" ? status.result : JSON.stringify(status.result, null, 2);
  }
  const button = card.querySelector(".revoke");
  if (button) button.hidden = status.ready;
}

async function tree(card) {
  const response = await fetch(`${card.dataset.self}/tree`, { credentials: "same-origin" });
  if (!response.ok) return;
  const { children, more } = await response.json();
  const list = card.querySelector(".tree");
  list.parentElement.hidden = children.length === 0;
  list.replaceChildren(...children.map(branch), ...(more ? [element("li", "… and more")] : []));
}

function branch(node) {
  const item = element("li");
  if (node.state === null) item.append(`group ${node.id}`);
  else {
    const link = element("a", node.id);
    link.href = `${base}/${encodeURIComponent(node.id)}/page`;
    const state = Object.assign(element("span", node.state), { className: "state" });
    item.dataset.state = node.state;
    item.append(link, " ", state);
  }
  if (node.children.length) item.append(element("ul", ...node.children.map(branch)));
  return item;
}

async function revoke(button) {
  button.disabled = true;
  const response = await fetch(button.dataset.href, { method: "POST", credentials: "same-origin" });
  if (!response.ok) {
    button.disabled = false;
    button.textContent = "Not stopped; try again";
  }
}
