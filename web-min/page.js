// Keeps an open page current. Everything works without it: forms post, pages reload themselves.
"use strict";
(() => {
  const base = document.body.dataset.base;
  const live = () => document.getElementById("live");
  const topics = () => live().dataset.live.split(" ").filter(Boolean);
  const words = {
    unconfigured: "not set up", disconnected: "offline", connecting: "connecting",
    logging_in: "logging in", logged_in: "online",
  };

  // Times in the reader's own zone; the title keeps UTC.
  const localTimes = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (!Number.isNaN(at.getTime())) {
        const timeStyle = time.closest(".log") ? "medium" : "short";
        time.textContent = at.toLocaleString([], { dateStyle: "short", timeStyle });
      }
    }
  };
  localTimes(document);

  const rate = (n) => {
    const units = ["B/s", "KiB/s", "MiB/s", "GiB/s"];
    let unit = 0;
    while (n >= 1024 && unit < 3) { n /= 1024; unit += 1; }
    return (unit ? n.toFixed(1) : n) + " " + units[unit];
  };
  const pulse = (name, text) => {
    const place = document.querySelector('[data-pulse="' + name + '"]');
    if (place && place.textContent !== text) { place.textContent = text; }
  };

  // A reload would take away what somebody types, reads or is just pressing, so it waits for them.
  let pressed = 0;
  addEventListener("pointerdown", () => { pressed = Date.now(); }, true);
  for (const name of ["click", "pointercancel"]) { addEventListener(name, () => { pressed = 0; }, true); }
  const busy = () => {
    const active = document.activeElement;
    // Released elsewhere, it is no click, and is waited for no longer.
    if (Date.now() - pressed < 5000) { return true; }
    if (document.hidden || live().querySelector("details[open]")) { return true; }
    if (live().contains(active) && active.matches("input, textarea, select")) { return true; }
    return [...live().querySelectorAll("input:not([type=hidden]), textarea")].some((f) => f.value !== f.defaultValue || f.checked !== f.defaultChecked);
  };
  let due = false;
  let running = false;
  const reload = async () => {
    if (!due || running || busy()) { return; }
    due = false;
    running = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.ok && !answer.redirected) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
        if (fresh && !busy()) {
          const label = document.activeElement && document.activeElement.getAttribute("aria-label");
          localTimes(fresh);
          live().replaceWith(fresh);
          if (label) {
            const again = [...document.querySelectorAll("#live [aria-label]")]
              .find((e) => e.getAttribute("aria-label") === label);
            if (again) { again.focus({ preventScroll: true }); }
          }
        }
      }
    } catch (_) { due = true; }
    running = false;
  };
  setInterval(() => reload(), 2000);

  // A browser opens six connections to one host: only the tab that is looked at listens.
  let events = null;
  let later = false;
  let deaf = false;
  setInterval(() => { if (deaf) { due = true; } }, 10000);
  const listen = () => {
    if (events || document.hidden || !document.querySelector("[data-pulse]")) { return; }
    deaf = false;
    events = new EventSource(base + "/api/events");
    // What happened since the page was made, or since the connection broke, was told to nobody.
    events.addEventListener("open", () => { if (topics().length > 0) { due = later = true; } });
    events.addEventListener("status", (event) => {
      const now = JSON.parse(event.data);
      pulse("server", words[now.server] || now.server);
      pulse("down", rate(now.downloads.speed));
      pulse("up", rate(now.uploads.speed));
      if (later || topics().includes("every")) { due = true; }
      later = false;
    });
    for (const name of ["transfer", "download_finished", "search", "message", "server", "shares", "library", "missed"]) {
      events.addEventListener(name, () => {
        const topic = name === "download_finished" ? "transfer" : name;
        // Counts on the page come out of the next status, so then it is time once more.
        if (name === "missed" || topics().includes(topic)) { due = later = true; }
      });
    }
    // Refused (too many listen already): look by the clock instead.
    events.addEventListener("error", () => {
      if (events && events.readyState === EventSource.CLOSED) { deaf = topics().length > 0; }
    });
  };
  const rest = () => { if (events) { events.close(); events = null; } };
  addEventListener("pagehide", rest);
  addEventListener("pageshow", listen);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { rest(); } else { due = topics().length > 0; listen(); }
  });
  listen();

  // Asking for a file must not lose the place in a long list.
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    const button = event.submitter;
    if (!form.hasAttribute("data-stay") || !button) { return; }
    event.preventDefault();
    button.disabled = true;
    const said = button.textContent;
    button.textContent = "Asking…";
    try {
      const body = new URLSearchParams(new FormData(form));
      body.append(button.name, button.value);
      const answer = await fetch(form.action, { method: "POST", body });
      if (answer.ok) { button.textContent = "Asked for"; return; }
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const why = page.querySelector("#live p");
      document.querySelector("[role=status]").textContent = why ? why.textContent : "That did not work.";
    } catch (_) { /* the button comes back */ }
    button.disabled = false;
    button.textContent = said;
  });
})();
