// What scripts add to pages that work without them: the theme's button, fresh figures, fewer clicks.

const YEAR = 31536000;

function theme() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const show = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    const wanted = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = wanted;
    document.querySelector("meta[name=color-scheme]").content = wanted;
    document.cookie = `routet2i_theme=${wanted}; path=/; max-age=${YEAR}; samesite=strict`;
    show();
  });
  dark.addEventListener("change", show);
  button.hidden = false;
  show();
}

// <div data-live="address" data-every="seconds" data-events="address">: its content comes anew, when the server's
// events say that something changed, and now and then without them, until it says data-final
const SLOW = 15000;
const LONGEST = 60000;

function live(region) {
  const fast = Number(region.dataset.every) * 1000;
  let pause = fast;
  let timer = 0;
  let source = null;
  let asking = false;
  let missed = false;

  function plan() {
    clearTimeout(timer);
    if (!document.hidden && region.dataset.live) timer = setTimeout(look, source?.readyState === 1 ? SLOW : pause);
  }

  async function look() {
    if (asking || document.hidden || !region.dataset.live) {
      missed = asking;
      return;
    }
    asking = true;
    missed = false;
    try {
      const answer = await fetch(region.dataset.live, { headers: { Accept: "text/html" } });
      if (answer.redirected || !answer.ok) throw new Error(String(answer.status));
      const made = new DOMParser().parseFromString(await answer.text(), "text/html");
      become(region, made.body);
      pause = fast;
      const final = region.querySelector("[data-final]");
      if (final) {
        delete region.dataset.live;
        hush();
        say(`${final.dataset.told}: complete`);
      }
    } catch {
      pause = Math.min(pause * 2, LONGEST); // it is away, or we are
    }
    asking = false;
    if (missed) look();
    else plan();
  }

  function listen() {
    if (!region.dataset.events || !region.dataset.live || source) return;
    source = new EventSource(region.dataset.events);
    for (const name of ["progress", "done"]) source.addEventListener(name, look);
    source.addEventListener("open", plan);
    source.addEventListener("error", () => {
      if (source?.readyState === 2) source = null; // refused: asking goes on without
      plan();
    });
  }

  function hush() {
    clearTimeout(timer);
    source?.close();
    source = null;
  }

  // nobody looks: no question, no open connection
  document.addEventListener("visibilitychange", () => {
    hush();
    if (document.hidden) return;
    listen();
    look();
  });
  addEventListener("pagehide", hush);
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    listen();
    look();
  });
  listen();
  plan();
}

// change only what differs: nothing flickers, focus and selection stay
function become(old, made) {
  const keyed = new Map([...old.children].filter((one) => one.dataset.key).map((one) => [one.dataset.key, one]));
  let place = old.firstChild;
  for (const child of [...made.childNodes]) {
    const key = child.dataset?.key;
    if (!key && child.nodeType === Node.ELEMENT_NODE) place = skipped(place, child);
    const match = key ? keyed.get(key) : place;
    if (!match || !alike(match, child)) {
      old.insertBefore(child, place);
      if (key && match) {
        if (match === place) place = place.nextSibling;
        match.remove();
      }
      continue;
    }
    if (match !== place) old.insertBefore(match, place);
    place = match.nextSibling;
    if (child.nodeType !== Node.ELEMENT_NODE) {
      if (match.data !== child.data) match.data = child.data;
      continue;
    }
    for (const { name } of [...match.attributes]) if (!child.hasAttribute(name)) match.removeAttribute(name);
    for (const { name, value } of child.attributes)
      if (match.getAttribute(name) !== value) match.setAttribute(name, value);
    become(match, child);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

// remove what went away before an element that is still there
function skipped(place, wanted) {
  let match = place;
  while (match && !alike(match, wanted)) match = match.nextSibling;
  if (!match) return place;
  while (place !== match) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
  return match;
}

function alike(one, other) {
  return (
    one.nodeType === other.nodeType &&
    one.nodeName === other.nodeName &&
    one.dataset?.key === other.dataset?.key &&
    one.classList?.[0] === other.classList?.[0]
  );
}

function say(text) {
  document.getElementById("said").textContent = text;
}

// what was done is read aloud, and neither a reload nor the way back says it again
function notice() {
  const told = document.querySelector("[data-notice]");
  if (!told) return;
  const address = new URL(location.href);
  for (const name of ["did", "n"]) address.searchParams.delete(name);
  history.replaceState(null, "", address);
  setTimeout(() => say(told.textContent), 100);
}

// a question is a page; here it is asked on top of the one that it is about
function questions() {
  const dialog = document.getElementById("dialog");
  if (!dialog) return;
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-ask]");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    try {
      const answer = await fetch(link.href, { headers: { Accept: "text/html" } });
      const made = new DOMParser().parseFromString(await answer.text(), "text/html");
      const question = made.querySelector("[data-question]");
      if (!question) throw new Error(String(answer.status));
      dialog.replaceChildren(question);
      dialog.showModal();
    } catch {
      location.href = link.href;
    }
  });
  dialog.addEventListener("click", (event) => {
    if (event.target !== dialog && !event.target.closest("[data-keep]")) return;
    event.preventDefault();
    dialog.close();
  });
  dialog.addEventListener("submit", (event) => {
    if (dialog.dataset.sent) event.preventDefault();
    dialog.dataset.sent = "1";
  });
  addEventListener("pageshow", () => {
    delete dialog.dataset.sent;
    dialog.close();
  });
}

// a choice is shown at once, and empty fields stay out of the address
function filters(form) {
  form.addEventListener("change", (event) => {
    if (event.target.matches("select, input[type=checkbox]")) form.requestSubmit();
  });
  form.addEventListener("submit", () => {
    for (const field of form.elements) field.disabled = field.value === "" ? Boolean(field.name) : field.name === "sort" && field.value === "line";
  });
  addEventListener("pageshow", () => {
    for (const field of form.elements) field.disabled = false;
    form.reset(); // on the way back: to what the address says
  });
}

function arrows() {
  document.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    if (!way || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.matches("input, select, textarea, [tabindex='0']") || document.querySelector("dialog[open]")) return;
    document.querySelector(`.steps a[rel=${way}]`)?.click();
  });
}

theme();
notice();
questions();
arrows();
document.querySelectorAll("[data-live]").forEach(live);
document.querySelectorAll("[data-filters]").forEach(filters);
