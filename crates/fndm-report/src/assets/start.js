// Controls, keys and the mouse, and what is drawn after each change.
(() => {
  const get = (id) => document.getElementById(id);
  const { data, state, methods } = viewer;
  const { frame, slices, measures } = data;
  const main = get("main-view");
  const section = get("viewer");
  const [slider, opacity, level, width] = ["slice", "opacity", "level", "width"].map(get);
  const tall = frame.rows * frame.spacing[0];
  const wide = frame.columns * frame.spacing[1];
  const side = (pixels) => [pixels * Math.min(1, wide / tall), pixels * Math.min(1, tall / wide)].map(Math.round);
  [main.width, main.height] = side(768);
  const context = main.getContext("2d");
  const thumbs = new Map();

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  // Buttons with small pictures, made anew where the method is another.
  function makePictures() {
    thumbs.clear();
    get("pictures").replaceChildren(...viewer.pictures().map(({ layer, index }, n) => {
      const [w, h] = side(96);
      const canvas = element("canvas", { width: w, height: h });
      canvas.setAttribute("aria-hidden", "true");
      const radio = element("input", { type: "radio", name: "picture", value: String(index) });
      radio.addEventListener("change", () => { viewer.setPicture(index); refresh(); });
      thumbs.set(index, { canvas, radio });
      return element("label", {}, radio, canvas, element("span", {}, `${n + 1} ${layer.title}`));
    }));
  }

  const line = { mask: "solid outline", truth: "dashed outline", map: "colours" };
  function makeOverlays() {
    get("overlays").replaceChildren(...viewer.overlays().map(({ layer }) => {
      const box = element("input", { type: "checkbox", checked: state.on.has(layer.title) });
      box.dataset.title = layer.title;
      box.addEventListener("change", () => { viewer.toggle(layer.title, box.checked); refresh(); });
      const sign = element("span", { className: `sign ${layer.kind}` });
      sign.setAttribute("aria-hidden", "true");
      return element("label", {}, box, sign, `${layer.title} (${line[layer.kind]})`);
    }));
  }

  // Areas of the masks by slice: bars, the truth a line over them, and a mark at the slice shown.
  function drawProfile() {
    const canvas = get("profile");
    canvas.hidden = measures.length === 0;
    if (canvas.hidden) return;
    [canvas.width, canvas.height] = [768, 56];
    const profile = canvas.getContext("2d");
    const style = getComputedStyle(section);
    const step = canvas.width / slices.length;
    const chosen = measures.filter(({ title }) => title !== "truth");
    const mask = chosen.find(({ title }) => title === `mask by ${state.method}`) ?? chosen[0];
    const truth = measures.find(({ title }) => title === "truth");
    const most = Math.max(1e-9, ...(mask?.areas ?? []), ...(truth?.areas ?? []));
    const y = (area) => (canvas.height - 4) * (1 - area / most) + 2;
    profile.fillStyle = style.getPropertyValue("--bars");
    mask?.areas.forEach((area, n) => profile.fillRect(n * step, y(area), Math.max(1, step - 1), canvas.height - y(area)));
    if (truth) {
      profile.strokeStyle = style.getPropertyValue("--ink");
      profile.lineWidth = 2;
      profile.setLineDash([6, 4]);
      profile.beginPath();
      truth.areas.forEach((area, n) => { profile.lineTo(n * step, y(area)); profile.lineTo((n + 1) * step, y(area)); });
      profile.stroke();
      profile.setLineDash([]);
    }
    profile.strokeStyle = style.getPropertyValue("--accent");
    profile.lineWidth = 3;
    profile.strokeRect(state.slice * step + 1, 1, Math.max(3, step - 2), canvas.height - 2);
    const top = (areas) => areas.indexOf(Math.max(...areas));
    const words = measures.map(({ title, areas }) => `${title}: at most ${Math.max(...areas).toFixed(0)} mm², in slice ${slices[top(areas)].z + 1}`);
    canvas.setAttribute("aria-label", `Areas by slice. ${words.join(". ")}`);
  }

  const number = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3));

  function showControls() {
    slider.value = state.slice;
    const words = viewer.words();
    slider.setAttribute("aria-valuetext", words.split(";")[0]);
    if (get("status").textContent !== words) get("status").textContent = words;
    const { layer } = viewer.shown();
    main.setAttribute("aria-label", `${layer.title}, ${words}`);
    opacity.value = Math.round(100 * state.opacity);
    get("opacity-value").textContent = `${opacity.value} %`;
    const now = viewer.window();
    [level.value, width.value] = [now.level, now.width];
    const scale = (layer.range[1] - layer.range[0]) / 255;
    get("level-value").textContent = number(viewer.unit(now.level));
    get("width-value").textContent = number(now.width * scale);
    get("scale-low").textContent = number(viewer.unit(now.level - now.width / 2));
    get("scale-high").textContent = `${number(viewer.unit(now.level + now.width / 2))} (${layer.title})`;
    get("scale-bar").className = `bar ${layer.kind}`;
    for (const [index, { radio }] of thumbs) radio.checked = index === state.picture;
    for (const box of get("overlays").querySelectorAll("input")) box.checked = state.on.has(box.dataset.title);
  }

  let waiting = false;
  function refresh() {
    showControls();
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(async () => {
      waiting = false;
      drawProfile();
      await viewer.render(context, viewer.shown(), true);
      for (const entry of viewer.pictures()) {
        await viewer.render(thumbs.get(entry.index).canvas.getContext("2d"), entry, false);
      }
      section.dataset.drawn = `${state.slice}`;
    });
  }

  function go(n) { viewer.setSlice(n); refresh(); }
  function setWindow(l, w) { viewer.setWindow(l, w); refresh(); }
  function toggle(kind, title) {
    const found = viewer.overlays().find(({ layer }) => layer.kind === kind && layer.title.startsWith(title));
    if (!found) return;
    viewer.toggle(found.layer.title, !state.on.has(found.layer.title));
    refresh();
  }
  function pick(n) {
    const found = viewer.pictures()[n];
    if (found) { viewer.setPicture(found.index); refresh(); }
  }

  const move = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5, Home: -Infinity, End: Infinity };
  const keys = {
    n: () => go(viewer.nextWithMask(1)),
    p: () => go(viewer.nextWithMask(-1)),
    m: () => toggle("mask", ""),
    t: () => toggle("truth", ""),
    a: () => toggle("map", "anomaly"),
    c: () => toggle("map", "coarse"),
    r: () => { viewer.resetWindow(); refresh(); },
    "+": () => { viewer.setOpacity(state.opacity + 0.1); refresh(); },
    "-": () => { viewer.setOpacity(state.opacity - 0.1); refresh(); },
    "[": () => setWindow(viewer.window().level - 5, viewer.window().width),
    "]": () => setWindow(viewer.window().level + 5, viewer.window().width),
    "{": () => setWindow(viewer.window().level, viewer.window().width - 10),
    "}": () => setWindow(viewer.window().level, viewer.window().width + 10),
    "?": () => { get("help").open = !get("help").open; },
  };

  section.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const { target, key } = event;
    // Arrows are a slider's, a list's and a choice's own.
    const own = target !== main && /^(INPUT|SELECT)$/.test(target.tagName) && target.type !== "checkbox";
    if (key in move && !own) go(state.slice + move[key]);
    else if (key in keys && target.tagName !== "SELECT") keys[key]();
    else if (/^[1-9]$/.test(key) && target.tagName !== "SELECT") pick(Number(key) - 1);
    else return;
    event.preventDefault();
  });

  let wheel = 0;
  main.addEventListener("wheel", (event) => {
    if (event.ctrlKey) return;
    event.preventDefault();
    // A wheel's notch is about 100; a touchpad sends many small ones.
    wheel += event.deltaMode === 0 ? event.deltaY : 50 * event.deltaY;
    const steps = Math.trunc(wheel / 50);
    if (steps === 0) return;
    wheel -= 50 * steps;
    go(state.slice - Math.sign(steps) * Math.min(3, Math.abs(steps) > 2 ? 2 : 1));
  }, { passive: false });

  let drag = null;
  main.addEventListener("pointerdown", (event) => {
    main.focus({ preventScroll: true });
    drag = { x: event.clientX, y: event.clientY, ...viewer.window() };
    main.setPointerCapture(event.pointerId);
  });
  main.addEventListener("pointermove", (event) => {
    if (drag) setWindow(drag.level - (drag.y - event.clientY) / 2, drag.width + event.clientX - drag.x);
  });
  for (const end of ["pointerup", "pointercancel"]) main.addEventListener(end, () => { drag = null; });

  get("profile").addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    go(Math.floor(((event.clientX - box.left) / box.width) * slices.length));
  });
  slider.max = slices.length - 1;
  slider.addEventListener("input", () => go(Number(slider.value)));
  opacity.addEventListener("input", () => { viewer.setOpacity(opacity.value / 100); refresh(); });
  for (const bar of [level, width]) bar.addEventListener("input", () => setWindow(Number(level.value), Number(width.value)));
  get("reset").addEventListener("click", keys.r);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.go");
    if (button) toSlice(Number(button.dataset.z));
  });

  function toSlice(z) {
    const n = slices.findIndex((slice) => slice.z === z);
    if (n < 0) return;
    go(n);
    section.scrollIntoView();
    main.focus({ preventScroll: true });
  }

  get("method-row").hidden = methods.length < 2;
  get("method").append(...methods.map((method) => element("option", { value: method }, method)));
  get("method").addEventListener("change", () => {
    viewer.setMethod(get("method").value);
    makePictures();
    makeOverlays();
    refresh();
  });

  // `#slice=45` of another page leads to that slice, counted from 1.
  function fromAddress() {
    const asked = /^#slice=(\d+)$/.exec(location.hash);
    if (asked) toSlice(Number(asked[1]) - 1);
  }
  addEventListener("hashchange", fromAddress);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);

  const areas = measures.find((measure) => measure.areas.some((area) => area > 0))?.areas;
  viewer.setSlice(areas ? areas.indexOf(Math.max(...areas)) : Math.floor(slices.length / 2));
  makePictures();
  makeOverlays();
  refresh();
  fromAddress();
})();
