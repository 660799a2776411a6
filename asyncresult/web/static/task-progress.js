/* <task-progress src="/tasks/ID">: the progress of a background task, live.
 *
 * Attributes: src (the task's URL), lang (en, de; else the document's), label (what the task does).
 * Events, bubbling: "progress" and "done"; detail is the status document.
 * Parts for styles: progress, status, error. Texts: TaskProgress.texts.en.failed = "…".
 *
 * Server-sent events where they come through, else requests that wait (Prefer: wait).
 */

const SAID_EVERY = 5000; // milliseconds between two announcements to a screen reader
const EVENT_TRIES = 3; // failures in a row after which events are taken to be blocked
const WAIT_SECONDS = 20;
const RETRY_MILLISECONDS = 2000;

const texts = {
  en: {
    PENDING: "Waiting", RECEIVED: "Waiting", STARTED: "Running", RETRY: "Trying again", PROGRESS: "Running",
    SUCCESS: "Done", failed: "The task failed", revoked: "The task was stopped", offline: "Connection lost, trying again",
    gone: "No such task", unreadable: "The result cannot be read", progress: "Progress", percent: (n) => `${n} percent`,
  },
  de: {
    PENDING: "Wartet", RECEIVED: "Wartet", STARTED: "Läuft", RETRY: "Neuer Versuch", PROGRESS: "Läuft",
    SUCCESS: "Fertig", failed: "Die Aufgabe ist fehlgeschlagen", revoked: "Die Aufgabe wurde abgebrochen",
    offline: "Verbindung verloren, neuer Versuch", gone: "Keine solche Aufgabe", unreadable: "Das Ergebnis ist nicht lesbar", progress: "Fortschritt",
    percent: (n) => `${n} Prozent`,
  },
};

const css = `
  :host { display: block; --color: var(--task-progress-color, #2563eb); --track: var(--task-progress-track, #e2e8f0); }
  :host([hidden]) { display: none; }
  progress { appearance: none; display: block; inline-size: 100%; block-size: .5rem; border: 0; border-radius: 1rem; overflow: hidden; background: var(--track); color: var(--color); }
  progress[hidden] { display: none; }
  progress::-webkit-progress-bar { background: none; }
  progress::-webkit-progress-value { background: currentColor; border-radius: 1rem; transition: inline-size .2s; }
  progress::-moz-progress-bar { background: currentColor; border-radius: 1rem; }
  progress:indeterminate { background: linear-gradient(90deg, var(--track) 30%, var(--color) 50%, var(--track) 70%) 0 0 / 200% 100%; animation: move 1.6s linear infinite; }
  progress:indeterminate::-moz-progress-bar { background: none; }
  @keyframes move { from { background-position-x: 200%; } }
  p { margin: .5rem 0 0; }
  p:empty { display: none; }
  [part=error] { color: var(--task-progress-error, #b91c1c); }
  .said { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
  @media (prefers-color-scheme: dark) {
    :host { --color: var(--task-progress-color, #93c5fd); --track: var(--task-progress-track, #334155); }
    [part=error] { color: var(--task-progress-error, #fca5a5); }
  }
  @media (prefers-reduced-motion: reduce) {
    progress:indeterminate { animation: none; }
    progress::-webkit-progress-value { transition: none; }
  }
  @media (forced-colors: active) {
    :host { --color: Highlight; --track: Canvas; }
    progress { forced-color-adjust: none; border: 1px solid CanvasText; }
    [part=error] { color: CanvasText; }
  }
`;

export class TaskProgress extends HTMLElement {
  static observedAttributes = ["src", "lang", "label"];
  static texts = texts;

  #bar; #status; #said; #error;
  #source = null; #abort = null; #timer = 0; #failures = 0; #lastSaid = 0; #pendingSaid = 0;
  #document = null; #running = false;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet(); // not <style>: allowed by a strict Content-Security-Policy
    sheet.replaceSync(css);
    root.adoptedStyleSheets = [sheet];
    this.#bar = Object.assign(document.createElement("progress"), { max: 1 });
    this.#bar.part = "progress";
    this.#status = Object.assign(document.createElement("p"));
    this.#status.part = "status";
    this.#status.setAttribute("aria-hidden", "true"); // the announcement below says the same, less often
    this.#said = Object.assign(document.createElement("p"), { className: "said" });
    this.#said.setAttribute("role", "status");
    this.#error = document.createElement("p");
    this.#error.part = "error";
    this.#error.setAttribute("role", "alert");
    root.append(this.#bar, this.#status, this.#said, this.#error);
  }

  /** The last status document, or null. A page that has one stream for many tasks sets it; src is not needed then. */
  get status() { return this.#document; }
  set status(document) { this.#take(document); }

  connectedCallback() { this.#running = true; this.#start(); }
  disconnectedCallback() { this.#running = false; this.#stop(); }
  attributeChangedCallback(name, before, after) {
    if (before === after || !this.#running) return; // an upgraded element has attributes before it is connected
    if (name === "src") { this.#stop(); this.#start(); } else { this.#render(); }
  }

  get #texts() {
    const wanted = (this.getAttribute("lang") || this.closest("[lang]")?.lang || navigator.language || "en").slice(0, 2);
    return { ...TaskProgress.texts.en, ...TaskProgress.texts[wanted] };
  }

  #start() {
    const src = this.getAttribute("src");
    if (!src) return;
    this.#document = null;
    this.#failures = 0;
    this.#error.textContent = "";
    this.#render();
    if ("EventSource" in window) this.#listen(src); else this.#poll(src);
  }

  #stop() {
    this.#source?.close();
    this.#abort?.abort();
    clearTimeout(this.#timer);
    clearTimeout(this.#pendingSaid);
    this.#source = this.#abort = null;
  }

  #listen(src) {
    const source = this.#source = new EventSource(`${src}/events?format=json`, { withCredentials: true });
    const take = (event) => { this.#failures = 0; this.#take(JSON.parse(event.data)); };
    source.addEventListener("progress", take);
    source.addEventListener("done", take);
    source.addEventListener("end", () => source.close());
    source.addEventListener("problem", () => { source.close(); this.#poll(src); });
    source.addEventListener("error", () => {
      if (this.#document?.ready) return source.close();
      this.#failures += 1;
      if (source.readyState === EventSource.CLOSED || this.#failures >= EVENT_TRIES) {
        source.close();
        this.#poll(src);
      }
    });
  }

  async #poll(src) {
    const abort = this.#abort = new AbortController();
    let first = true;
    while (!abort.signal.aborted) {
      try {
        const headers = { Accept: "application/json" };
        if (!first) headers.Prefer = `wait=${WAIT_SECONDS}`;
        const response = await fetch(src, { headers, credentials: "same-origin", signal: abort.signal, cache: "no-store" });
        if ([400, 404, 502].includes(response.status)) {
          return this.#fail(response.status === 502 ? this.#texts.unreadable : this.#texts.gone);
        }
        if (!response.ok) throw new Error(response.status);
        this.#take(await response.json());
        if (this.#document.ready) return;
        // A proxy may drop what it does not know: then nothing has waited.
        if (!first && !response.headers.has("Preference-Applied")) await this.#pause();
        first = false;
      } catch (error) {
        if (abort.signal.aborted) return;
        this.#status.textContent = this.#texts.offline;
        await this.#pause();
      }
    }
  }

  #pause() {
    return new Promise((resolve) => { this.#timer = setTimeout(resolve, RETRY_MILLISECONDS); });
  }

  #take(status) {
    this.#document = status;
    this.#render();
    if (status.ready) this.#stop();
    this.dispatchEvent(new CustomEvent(status.ready ? "done" : "progress", { detail: status, bubbles: true, composed: true }));
  }

  #render() {
    const words = this.#texts;
    const status = this.#document;
    this.#bar.setAttribute("aria-label", this.getAttribute("label") || words.progress);
    if (status === null) {
      this.#bar.removeAttribute("value");
      this.#status.textContent = words.PENDING;
      return;
    }
    if (status.ready) this.#bar.value = this.#bar.max = 1;
    else if (status.progress) { this.#bar.max = status.progress.total; this.#bar.value = status.progress.current; }
    else this.#bar.removeAttribute("value");
    if (status.error) {
      const title = status.state === "REVOKED" ? words.revoked : words.failed;
      this.#status.textContent = "";
      return this.#fail(status.error.detail ? `${title}: ${status.error.detail}` : title);
    }
    const parts = [words[status.state] || status.state];
    if (status.progress) {
      parts.push(words.percent(Math.round(status.progress.percent)));
      if (status.progress.description) parts.push(status.progress.description);
    }
    this.#status.textContent = parts.join(", ");
    this.#say(this.#status.textContent, status.ready);
  }

  #say(text, now) {
    clearTimeout(this.#pendingSaid);
    const wait = now ? 0 : Math.max(0, this.#lastSaid + SAID_EVERY - Date.now());
    const say = () => { this.#said.textContent = text; this.#lastSaid = Date.now(); };
    if (wait === 0) say(); else this.#pendingSaid = setTimeout(say, wait);
  }

  #fail(text) {
    this.#bar.hidden = true;
    this.#said.textContent = "";
    this.#error.textContent = text;
  }
}

if (!customElements.get("task-progress")) customElements.define("task-progress", TaskProgress);
