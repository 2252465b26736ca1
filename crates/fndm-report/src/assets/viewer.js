// What is shown: the slice, the picture, the overlays, the window of each picture. `draw` makes pixels of it.
const viewer = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { frame, slices, layers, measures } = data;
  const all = layers.map((layer, index) => ({ layer, index }));
  const methods = [...new Set(layers.map((layer) => layer.method).filter((method) => method !== null))];
  const whole = { level: 127.5, width: 255 };
  const state = {
    slice: 0,
    method: methods[0] ?? null,
    picture: 0,
    opacity: 0.6,
    // Overlays that are on, by their titles, so that a choice outlives a change of the method.
    on: new Set(),
    windows: layers.map(() => ({ ...whole })),
  };

  const current = ({ layer }) => layer.method === null || layer.method === state.method;
  const isPicture = ({ layer }) => layer.kind === "image" || layer.kind === "map";
  const pictures = () => all.filter((entry) => current(entry) && isPicture(entry));
  const overlays = () => all.filter((entry) => current(entry) && entry.layer.kind !== "image");
  const masks = () => overlays().filter(({ layer }) => layer.kind !== "map");
  masks().forEach(({ layer }) => state.on.add(layer.title));

  // A map over a picture: what is 0 isn't seen, half its scale is as opaque as it gets.
  const fade = (byte) => 255 * state.opacity * Math.min(1, byte / 128);

  async function render(context, entry, withOverlays) {
    const { layer, index } = entry;
    const n = state.slice;
    const bytes = await draw.slice(layer, index, n);
    const over = [];
    if (withOverlays) {
      for (const other of overlays()) {
        if (other === entry || !state.on.has(other.layer.title)) continue;
        over.push([other, await draw.slice(other.layer, other.index, n)]);
      }
    }
    // Another slice was asked for meanwhile: its own drawing follows.
    if (n !== state.slice) return;
    context.fillStyle = "#000";
    context.fillRect(0, 0, context.canvas.width, context.canvas.height);
    draw.layer(context, frame, layer, bytes, draw.colours(layer.kind, state.windows[index]));
    const maps = over.filter(([other]) => other.layer.kind === "map");
    for (const [other, pixels] of maps) {
      const table = draw.colours("map", state.windows[other.index]);
      draw.layer(context, frame, other.layer, pixels, table, fade);
    }
    for (const [other, pixels] of over) {
      if (other.layer.kind !== "map") draw.mask(context, frame, other.layer, pixels, state.opacity);
    }
  }

  const bounded = (value, low, high) => Math.min(high, Math.max(low, value));
  const shown = () => all[state.picture];
  const window = () => state.windows[state.picture];

  return {
    data,
    methods,
    state,
    pictures,
    overlays,
    shown,
    window,
    render,
    setSlice(n) { state.slice = bounded(n, 0, slices.length - 1); },
    // The next slice in a direction in which some mask has an area.
    nextWithMask(step) {
      for (let n = state.slice + step; n >= 0 && n < slices.length; n += step) {
        if (measures.some((measure) => measure.areas[n] > 0)) return n;
      }
      return state.slice;
    },
    setPicture(index) { state.picture = index; },
    // The same picture of another method where it has one, by its title.
    setMethod(method) {
      const { title } = shown().layer;
      state.method = method;
      const same = pictures().find(({ layer }) => layer.title === title);
      state.picture = (same ?? pictures()[0]).index;
    },
    toggle(title, on) { if (on) state.on.add(title); else state.on.delete(title); },
    setOpacity(value) { state.opacity = bounded(value, 0, 1); },
    setWindow(level, width) {
      Object.assign(window(), { level: bounded(level, 0, 255), width: bounded(width, 2, 512) });
    },
    resetWindow() { Object.assign(window(), whole); },
    // A byte of the shown picture in the units that it was made of.
    unit(byte) {
      const [low, high] = shown().layer.range;
      return low + (high - low) * (byte / 255);
    },
    words() {
      const { z, stored } = slices[state.slice];
      const areas = measures.map(({ title, areas: of }) => `${title} ${of[state.slice].toFixed(0)} mm²`);
      const place = `Slice ${z + 1} of ${data.total} (in the file ${stored + 1})`;
      return [place, ...areas].join("; ");
    },
  };
})();
