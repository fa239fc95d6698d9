"use strict";
// Live by asking again. Everything works without this file.
(() => {
  const bar = document.querySelector("p.live");
  const policy = self.trustedTypes ? trustedTypes.createPolicy("noshi", { createHTML: (text) => text }) : null;
  const read = (text) => new DOMParser().parseFromString(policy ? policy.createHTML(text) : text, "text/html");
  const EVERY = 2000, SLOWEST = 30000;
  let mark = "", wait = EVERY, paused = false, timer = 0;

  // Whoever types, opens or points at a part of the page keeps it as it is.
  const isInUse = (part) =>
    part.contains(document.activeElement) && document.activeElement !== document.body ||
    part.querySelector("details[open]") !== null ||
    [...part.querySelectorAll("input, select")].some((it) => it.type !== "hidden" && it.value !== (it.defaultValue ?? it.value)) ||
    part.contains(getSelection()?.anchorNode) && !getSelection().isCollapsed;

  const show = (page) => {
    for (const part of document.querySelectorAll("[data-key]")) {
      const next = page.querySelector(`[data-key="${CSS.escape(part.dataset.key)}"]`);
      if (next && !isInUse(part) && next.outerHTML !== part.outerHTML) part.replaceWith(document.importNode(next, true));
    }
  };
  const told = (date) => {
    document.getElementById("as-of").textContent = new Date(date || Date.now()).toLocaleTimeString();
    document.body.classList.remove("stale");
  };
  const ask = async () => {
    if (paused || document.hidden) return;
    try {
      const headers = { "X-Noshi-Live": "1" };
      if (mark) headers["If-None-Match"] = mark;
      const answer = await fetch(location.href, { headers, cache: "no-store", redirect: "error" });
      if (answer.status === 401) return location.reload();
      if (answer.status !== 304 && !answer.ok) throw new Error(String(answer.status));
      if (answer.ok) {
        mark = answer.headers.get("ETag") || "";
        show(read(await answer.text()));
      }
      told(answer.headers.get("Date"));
      wait = EVERY;
    } catch {
      wait = Math.min(wait * 2, SLOWEST);
      document.body.classList.add("stale");
      document.getElementById("as-of").textContent = bar.dataset.stale;
    }
    timer = setTimeout(ask, wait);
  };
  const pause = () => {
    paused = !paused;
    document.getElementById("live").textContent = paused ? bar.dataset.goOn : bar.dataset.pause;
    clearTimeout(timer);
    ask();
  };
  // What a form answered is no page to ask for again.
  const isLive = bar && document.querySelector("main [data-key]");
  if (isLive) {
    bar.hidden = false;
    told();
    document.getElementById("live").addEventListener("click", pause);
    document.addEventListener("visibilitychange", () => { clearTimeout(timer); ask(); });
    timer = setTimeout(ask, EVERY);
  }

  // Shortcuts lead somewhere; none carries out an act.
  let go = false;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || typing) return;
    const link = go && document.querySelector(`a[data-go="${CSS.escape(event.key)}"]`);
    go = event.key === "g";
    if (link) link.click();
    else if (event.key === "p" && isLive) pause();
    else if (event.key === "/") {
      event.preventDefault();
      document.getElementById("find")?.focus();
    }
  });
})();
