
"use strict";
(() => {
  const QUIET_S = 30, RETRY_S = 5, SPOKEN_S = 10;  // without news the connection counts as lost
  const body = document.body, lost = document.getElementById("lost"), spoken = document.getElementById("spoken");
  const pause = document.getElementById("pause"), waiting = new Map();
  let ahead = Number(body.dataset.now) - Date.now() / 1000;  // of the server's clock before this machine's
  let heard = Date.now(), over = false, paused = false, source = null, said = 0, saying = null, retry = null;

  const duration = (seconds) => {
    const whole = Math.max(0, Math.round(seconds));
    for (const [length, large, part, small] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
      if (whole >= length) {
        const rest = Math.floor(whole % length / part);
        return `${Math.floor(whole / length)} ${large}` + (rest ? ` ${rest} ${small}` : "");
      }
    }
    return `${whole} s`;
  };
  const write = (element, words) => { if (element.textContent !== words) element.textContent = words; };
  const clocks = () => {
    const now = Date.now() / 1000 + ahead;
    for (const each of document.querySelectorAll("time[data-since]")) write(each, duration(now - each.dataset.since));
    for (const each of document.querySelectorAll("time[data-until]")) write(each, duration(each.dataset.until - now));
  };

  // what a reader has opened, scrolled and focused stays
  const focusable = "a, button, summary, [tabindex]";
  const replace = (place, html) => {
    const open = [...place.querySelectorAll("details")].map((each) => each.open);
    const scrolled = [...place.querySelectorAll(".scroll")].map((each) => [each.scrollLeft, each.scrollTop]);
    const focus = [...place.querySelectorAll(focusable)].indexOf(document.activeElement);
    const made = document.createElement("template");
    made.innerHTML = html;
    place.replaceChildren(made.content);
    place.querySelectorAll("details").forEach((each, i) => { each.open = Boolean(open[i]); });
    place.querySelectorAll(".scroll").forEach((each, i) => {
      if (scrolled[i]) [each.scrollLeft, each.scrollTop] = scrolled[i];
    });
    if (focus >= 0) place.querySelectorAll(focusable)[focus]?.focus({preventScroll: true});
    place.dispatchEvent(new CustomEvent("replaced", {bubbles: true}));
  };
  const show = () => {
    if (paused) return;
    for (const [name, html] of waiting) {
      const place = document.querySelector(`[data-fragment="${CSS.escape(name)}"]`);
      if (place) replace(place, html);
    }
    waiting.clear();
    clocks();
  };
  const say = () => {
    if (saying === null || paused || (Date.now() - said < SPOKEN_S * 1000 && !over)) return;
    write(spoken, saying);
    [said, saying] = [Date.now(), null];
  };

  const alive = (event) => {
    heard = Date.now();
    lost.hidden = true;
    const news = JSON.parse(event.data);
    ahead = news.at - Date.now() / 1000;
    return news;
  };
  const connect = () => {
    source = new EventSource("v1/events");
    source.addEventListener("status", (event) => {
      const news = alive(event);
      for (const [name, html] of Object.entries(news.fragments)) {
        if (name === "spoken") saying = html;
        else if (name === "title") document.title = html;
        else waiting.set(name, html);
      }
      over = news.over;
      show();
      say();
      if (news.last) source.close();
    });
    source.addEventListener("tick", alive);
    source.addEventListener("error", () => {
      if (over && source.readyState === EventSource.CLOSED) return;
      if (source.readyState === EventSource.CLOSED && retry === null) {
        retry = setTimeout(() => { retry = null; connect(); }, RETRY_S * 1000);
      }
    });
  };

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Paused: go on" : "Pause";
    show();
  });
  setInterval(() => {
    if (!over || source.readyState !== EventSource.CLOSED) {
      const silent = (Date.now() - heard) / 1000;
      const broken = source.readyState !== EventSource.OPEN && silent > 3;
      if ((silent > QUIET_S || broken) && !over) {
        lost.hidden = false;
        write(lost, `No contact with the server for ${duration(silent)}: what is shown is from then. The page tries again by itself.`);
      }
    }
    if (!paused && !over) clocks();
    say();
  }, 1000);
  clocks();
  connect();
})();
