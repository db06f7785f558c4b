"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const count = data.labels.length, COLOURS = 7, SHAPES = 7, STEPS = 10000;
  const members = data.labels.map(() => []);
  data.label.forEach((label, point) => members[label].push(point));
  const colourOf = (label) => label % COLOURS;
  const shapeOf = (label) => (label + Math.floor(label / COLOURS)) % SHAPES;
  const pressed = new Set();
  let lit = null; // labels that are highlighted; null: all alike
  let current = -1; // the point that is pointed at

  const style = () => {
    const found = getComputedStyle(document.documentElement);
    const value = (name) => found.getPropertyValue(name).trim();
    return {
      colours: Array.from({ length: COLOURS }, (_, n) => value(`--c${n}`)),
      faint: value("--faint"), ring: value("--ring"), text: value("--soft"), page: value("--page"),
    };
  };

  // A mark, in one of seven shapes that differ without colour
  const trace = (pen, shape, x, y, r) => {
    pen.beginPath();
    if (shape === 0) pen.arc(x, y, r, 0, 7);
    else if (shape === 1) pen.rect(x - r * 0.85, y - r * 0.85, r * 1.7, r * 1.7);
    else if (shape === 2) polygon(pen, [[x, y - r * 1.15], [x + r, y + r * 0.8], [x - r, y + r * 0.8]]);
    else if (shape === 3) polygon(pen, [[x, y + r * 1.15], [x + r, y - r * 0.8], [x - r, y - r * 0.8]]);
    else if (shape === 4) polygon(pen, [[x, y - r * 1.25], [x + r * 1.1, y], [x, y + r * 1.25], [x - r * 1.1, y]]);
    else if (shape === 5) {
      pen.rect(x - r * 1.1, y - r * 0.35, r * 2.2, r * 0.7);
      pen.rect(x - r * 0.35, y - r * 1.1, r * 0.7, r * 2.2);
    } else {
      const a = r * 0.45, b = r * 1.05;
      polygon(pen, [[x - b, y - b + a], [x - b + a, y - b], [x, y - a], [x + b - a, y - b], [x + b, y - b + a], [x + a, y],
        [x + b, y + b - a], [x + b - a, y + b], [x, y + a], [x - b + a, y + b], [x - b, y + b - a], [x - a, y]]);
    }
  };
  const polygon = (pen, corners) => {
    corners.forEach(([x, y], n) => (n ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.closePath();
  };

  const element = (name, props = {}, ...children) => {
    const made = Object.assign(document.createElement(name), props);
    made.append(...children);
    return made;
  };

  const picture = (point) => {
    const spot = data.pictures[point];
    const made = element("span", { className: spot ? `pic s${spot[0]}` : "pic none" });
    if (spot) {
      made.style.backgroundPosition = `${spot[1]}% ${spot[2]}%`;
      made.setAttribute("role", "img");
      made.setAttribute("aria-label", data.images[point]);
    } else made.textContent = "no picture";
    return made;
  };

  const maps = [];
  for (const box of document.querySelectorAll("[data-map]")) {
    const [xs, ys] = data.maps[Number(box.dataset.map)];
    const canvas = element("canvas", { tabIndex: 0 });
    const title = box.parentElement.querySelector("h3").textContent;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label",
      `Map of ${xs.length} images of ${count} labels: ${title}. Search a label above to list its images below.`);
    const tip = element("div", { className: "tip", hidden: true });
    tip.setAttribute("role", "status");
    const view = { scale: 1, x: 0, y: 0 };
    const map = { canvas, box, draw };
    const buttons = [["+", "zoom in", 1.5], ["−", "zoom out", 1 / 1.5], ["⟲", "show the whole map", 0]].map(([sign, words, by]) => {
      const button = element("button", { type: "button", textContent: sign, title: words });
      button.setAttribute("aria-label", `${words}: ${title}`);
      button.addEventListener("click", () => zoom(by));
      return button;
    });
    box.append(canvas, element("div", { className: "zoom" }, ...buttons), tip);
    maps.push(map);

    const MARGIN = 26;
    let size = 0;
    const place = (point) => {
      const inner = size - 2 * MARGIN;
      const x = MARGIN + (xs[point] / STEPS) * inner, y = MARGIN + (1 - ys[point] / STEPS) * inner;
      return [size / 2 + (x - size / 2) * view.scale + view.x, size / 2 + (y - size / 2) * view.scale + view.y];
    };

    function draw() {
      const ratio = window.devicePixelRatio || 1;
      size = canvas.clientWidth;
      if (!size) return;
      canvas.width = canvas.height = Math.round(size * ratio);
      const pen = canvas.getContext("2d"), look = style();
      pen.scale(ratio, ratio);
      const radius = Math.min(7, (size < 420 ? 2.6 : 3.4) * Math.sqrt(view.scale) * (xs.length < 300 ? 1.6 : 1));
      const order = lit ? [...xs.keys()].sort((a, b) => lit.has(data.label[a]) - lit.has(data.label[b])) : xs.keys();
      for (const point of order) {
        const [x, y] = place(point), label = data.label[point];
        if (x < -9 || y < -9 || x > size + 9 || y > size + 9) continue;
        const dim = lit && !lit.has(label);
        trace(pen, shapeOf(label), x, y, dim ? radius * 0.7 : lit ? radius * 1.5 : radius);
        pen.globalAlpha = dim ? 0.55 : lit ? 1 : 0.85;
        pen.fillStyle = dim ? look.faint : look.colours[colourOf(label)];
        pen.fill();
        if (lit && !dim) { pen.strokeStyle = look.page; pen.lineWidth = 1; pen.stroke(); }
      }
      pen.globalAlpha = 1;
      if (current >= 0) {
        const [x, y] = place(current);
        pen.beginPath(); pen.arc(x, y, radius + 5, 0, 7);
        pen.strokeStyle = look.ring; pen.lineWidth = 2.5; pen.stroke();
      }
      pen.fillStyle = look.text; pen.font = "12px system-ui, sans-serif"; pen.textAlign = "center";
      words(pen, look, `${box.dataset.x}${box.dataset.x && " →"}`, size / 2, size - 8);
      pen.save(); pen.translate(14, size / 2); pen.rotate(-Math.PI / 2);
      words(pen, look, `${box.dataset.y}${box.dataset.y && " →"}`, 0, 0);
      pen.restore();
    }
    const words = (pen, look, text, x, y) => {
      pen.strokeStyle = look.page; pen.lineWidth = 4; pen.lineJoin = "round";
      pen.strokeText(text, x, y); pen.fillText(text, x, y);
    };

    const nearest = (x, y) => {
      let best = -1, least = 16 * 16;
      for (let point = 0; point < xs.length; point++) {
        if (lit && !lit.has(data.label[point])) continue;
        const [px, py] = place(point), apart = (px - x) ** 2 + (py - y) ** 2;
        if (apart < least) { least = apart; best = point; }
      }
      return best;
    };
    const show = (point) => {
      if (point === current && tip.hidden === point < 0) return;
      current = point;
      maps.forEach((other) => { other.hide(); other.draw(); });
      if (point < 0) return;
      const near = data.nearest[point];
      tip.replaceChildren(picture(point), element("b", { textContent: data.labels[data.label[point]] }),
        element("span", { textContent: data.images[point] }));
      if (near !== null) {
        tip.append(element("span", { className: `verdict ${data.right[point] ? "right" : "wrong"}`,
          textContent: data.right[point] ? "✓ nearest is right" : `✗ nearest is ${near}` }));
      }
      tip.hidden = false;
      const [x, y] = place(point), wide = tip.offsetWidth, high = tip.offsetHeight;
      const left = x + 14 + wide <= size ? x + 14 : x - 14 - wide;
      tip.style.left = `${Math.max(4, Math.min(left, size - wide - 4))}px`;
      tip.style.top = `${Math.max(4, Math.min(y - high / 2, size - high - 4))}px`;
    };
    map.hide = () => { tip.hidden = true; };

    const clamp = () => {
      const most = (size / 2) * view.scale;
      view.x = Math.max(-most, Math.min(most, view.x));
      view.y = Math.max(-most, Math.min(most, view.y));
      canvas.style.touchAction = view.scale > 1 ? "none" : "manipulation";
    };
    const zoom = (by, x = size / 2, y = size / 2) => {
      const scale = by ? Math.max(1, Math.min(40, view.scale * by)) : 1, change = scale / view.scale;
      view.x = scale === 1 ? 0 : (view.x + size / 2 - x) * change - size / 2 + x;
      view.y = scale === 1 ? 0 : (view.y + size / 2 - y) * change - size / 2 + y;
      view.scale = scale;
      clamp(); map.hide(); draw();
    };
    const move = (x, y) => {
      if (view.scale === 1) return;
      view.x += x; view.y += y;
      clamp(); map.hide(); draw();
    };

    const fingers = new Map();
    const inside = (event) => {
      const edge = canvas.getBoundingClientRect();
      return [event.clientX - edge.left, event.clientY - edge.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, inside(event));
      canvas.setPointerCapture(event.pointerId);
      show(nearest(...inside(event)));
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId), now = inside(event);
      if (!before) { show(nearest(...now)); return; }
      if (fingers.size === 2) {
        const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
        const apart = (at) => Math.hypot(at[0] - other[0], at[1] - other[1]) || 1;
        zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      } else move(now[0] - before[0], now[1] - before[1]);
      fingers.set(event.pointerId, now);
    });
    const lift = (event) => fingers.delete(event.pointerId);
    canvas.addEventListener("pointerup", lift);
    canvas.addEventListener("pointercancel", lift);
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse" && !fingers.size) show(-1); });
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return; // the page scrolls on
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 300), ...inside(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const keys = { "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => zoom(0), Escape: () => show(-1),
        ArrowLeft: () => move(40, 0), ArrowRight: () => move(-40, 0), ArrowUp: () => move(0, 40), ArrowDown: () => move(0, -40) };
      if (event.ctrlKey || event.metaKey || !keys[event.key]) return;
      if (event.key.startsWith("Arrow") && view.scale === 1) return;
      event.preventDefault();
      keys[event.key]();
    });
    clamp();
    new ResizeObserver(draw).observe(canvas);
  }

  // Labels: search, highlight, list
  const find = document.getElementById("find"), list = document.getElementById("labels");
  const status = document.getElementById("count"), strip = document.getElementById("strip");
  const chips = data.labels.map((name, label) => {
    const mark = element("canvas", { width: 28, height: 28 });
    mark.setAttribute("aria-hidden", "true");
    const chip = element("button", { type: "button" }, mark, element("span", { textContent: `${name} (${members[label].length})` }));
    chip.setAttribute("aria-pressed", "false");
    chip.addEventListener("click", () => {
      if (!pressed.delete(label)) pressed.add(label);
      chip.setAttribute("aria-pressed", String(pressed.has(label)));
      highlight();
    });
    return chip;
  });
  list.append(...chips);
  const paintChips = () => {
    const look = style();
    chips.forEach((chip, label) => {
      const pen = chip.firstChild.getContext("2d");
      pen.clearRect(0, 0, 28, 28);
      pen.fillStyle = pressed.has(label) ? look.page : look.colours[colourOf(label)];
      trace(pen, shapeOf(label), 14, 14, 10);
      pen.fill();
    });
  };

  const MOST = 24;
  const highlight = () => {
    const text = find.value.trim().toLocaleLowerCase();
    const matching = data.labels.map((name) => name.toLocaleLowerCase().includes(text));
    chips.forEach((chip, label) => { chip.hidden = !(matching[label] || pressed.has(label)); });
    if (pressed.size) lit = new Set(pressed);
    else lit = text ? new Set([...matching.keys()].filter((label) => matching[label])) : null;
    if (current >= 0 && lit && !lit.has(data.label[current])) current = -1;
    const points = lit ? [...lit].flatMap((label) => members[label]) : [];
    status.textContent = lit ? `${lit.size} of ${count} labels, ${points.length} images` : `${count} labels`;
    strip.replaceChildren(...points.slice(0, MOST).map((point) =>
      element("figure", {}, picture(point), element("figcaption", { textContent: data.labels[data.label[point]] }))));
    if (points.length > MOST) strip.append(element("p", { className: "soft", textContent: `and ${points.length - MOST} more` }));
    paintChips();
    maps.forEach((map) => { map.hide(); map.draw(); });
  };
  find.addEventListener("input", highlight);
  document.getElementById("clear").addEventListener("click", () => {
    find.value = "";
    pressed.clear();
    chips.forEach((chip) => chip.setAttribute("aria-pressed", "false"));
    highlight();
  });
  highlight();

  // The scheme: the canvases follow it, and paper is light
  const repaint = () => { paintChips(); maps.forEach((map) => map.draw()); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  addEventListener("beforeprint", () => { document.documentElement.dataset.print = ""; repaint(); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.print; repaint(); });

  const copy = document.getElementById("copy");
  if (copy) copy.addEventListener("click", async () => {
    const params = document.getElementById("params"), said = document.getElementById("copied");
    try {
      await navigator.clipboard.writeText(params.textContent);
      said.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(params);
      said.textContent = "selected: copy it with your keyboard";
    }
  });
})();
