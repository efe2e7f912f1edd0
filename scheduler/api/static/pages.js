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

// <div data-live="address" data-every="seconds">: its content comes anew until it says data-final
function live(region) {
  const pause = Number(region.dataset.every) * 1000;
  let waiting = pause;
  async function look() {
    if (!document.hidden) {
      try {
        const answer = await fetch(region.dataset.live, { headers: { Accept: "text/html" } });
        if (answer.redirected || !answer.ok) throw new Error(String(answer.status));
        replace(region, await answer.text());
        waiting = pause;
      } catch {
        waiting = Math.min(waiting * 2, 60000); // it is away, or we are
      }
      const final = region.querySelector("[data-final]");
      if (final) {
        document.getElementById("said").textContent = `${final.dataset.told}: complete`;
        document.querySelectorAll("[data-running]").forEach((one) => one.remove());
        return;
      }
    }
    setTimeout(look, waiting);
  }
  setTimeout(look, waiting);
}

function replace(region, html) {
  const focused = region.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const made = new DOMParser().parseFromString(html, "text/html");
  region.replaceChildren(...made.body.childNodes);
  if (focused) region.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

// a choice is shown at once, and empty fields stay out of the address
function filters(form) {
  form.addEventListener("change", (event) => {
    if (event.target.matches("select, input[type=checkbox]")) form.requestSubmit();
  });
  form.addEventListener("submit", () => {
    for (const field of form.elements) if (field.name && field.value === "") field.disabled = true;
  });
  addEventListener("pageshow", () => {
    for (const field of form.elements) field.disabled = false;
  });
}

// one open menu at a time; Escape and a click beside it close it
function menus() {
  const open = () => document.querySelectorAll("details.action[open]");
  document.addEventListener("click", (event) => {
    for (const one of open()) if (!one.contains(event.target)) one.open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const one of open()) {
      one.open = false;
      one.querySelector("summary").focus();
    }
  });
}

function arrows() {
  document.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    if (!way || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.matches("input, select, textarea, [tabindex='0']")) return;
    document.querySelector(`.steps a[rel=${way}]`)?.click();
  });
}

theme();
menus();
arrows();
document.querySelectorAll("[data-live]").forEach(live);
document.querySelectorAll("[data-filters]").forEach(filters);
