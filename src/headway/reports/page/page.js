
"use strict";
(() => {
  const root = document.documentElement, tip = document.getElementById("tip");
  const hidden = new Set();

  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  for (const item of document.querySelectorAll("[data-legend]")) {
    const index = item.dataset.legend, button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.title = "Show or hide this method in every picture";
    button.append(...item.childNodes);
    item.append(button);
    button.addEventListener("click", () => {
      const off = !hidden.has(index);
      if (off) hidden.add(index); else hidden.delete(index);
      button.setAttribute("aria-pressed", String(!off));
      for (const part of document.querySelectorAll(`[data-m="${index}"]`)) {
        part.setAttribute("visibility", off ? "hidden" : "visible");
      }
    });
  }

  const bytes = (count) => {
    for (const unit of ["B", "kB", "MB", "GB"]) {
      if (count < 999.5 || unit === "GB") return `${Number(count.toPrecision(3))} ${unit}`;
      count /= 1000;
    }
  };
  const nearest = (places, wanted) => {
    let best = 0;
    for (let i = 1; i < places.length; i++) {
      if (Math.abs(places[i] - wanted) < Math.abs(places[best] - wanted)) best = i;
    }
    return best;
  };
  const show = (event, words) => {
    tip.textContent = words;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const right = event.clientX + 16 + box.width > innerWidth;
    tip.style.left = `${Math.max(4, right ? event.clientX - box.width - 14 : event.clientX + 16)}px`;
    tip.style.top = `${Math.min(innerHeight - box.height - 4, event.clientY + 14)}px`;
  };

  const follow = (svg) => {
    const plot = JSON.parse(svg.dataset.plot), [low, high, start, end, width] = plot.span;
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
    cursor.setAttribute("class", "cursor");
    const leave = () => { tip.hidden = true; cursor.remove(); };
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const at = (event.clientX - box.left) * width / box.width;
      const lines = plot.lines.filter((line) => !hidden.has(String(line.i)));
      if (at < start - 8 || at > end + 8 || !lines.length) return leave();
      const wanted = low + (high - low) * (at - start) / (end - start);
      const found = lines.map((line) => [line, nearest(line.x, wanted)]);
      const x = found[0][0].x[found[0][1]];
      const say = (value) => plot.unit === "bytes" ? bytes(value) : String(value);
      const rows = found.map(([line, i]) => `${line.n}: ${line.y[i]}` + (line.x[i] === x ? "" : ` at ${say(line.x[i])}`));
      cursor.setAttribute("d", `M${start + (end - start) * (x - low) / (high - low)} 12V238`);
      svg.append(cursor);
      show(event, [`${plot.x} ${say(x)}`, ...rows].join("\n"));
    });
  };
  document.querySelectorAll("svg[data-plot]").forEach(follow);
  document.addEventListener("replaced", (event) => {  // of a live page
    tip.hidden = true;
    event.target.querySelectorAll("svg[data-plot]").forEach(follow);
  });
})();
