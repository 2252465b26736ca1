"use strict";
// Pixels: from the atlas of a layer to a canvas. Knows nothing of controls.
const draw = (() => {
  const canvas = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

  // A layer's atlas is decoded when it is first asked for.
  function decoded(layer, index) {
    layer.image ??= (async () => {
      const image = new Image();
      image.src = `data:image/png;base64,${document.getElementById(`layer-${index}`).textContent}`;
      await image.decode();
      return image;
    })();
    return layer.image;
  }

  // One slice of a layer as bytes, row by row.
  async function slice(layer, index, n) {
    const image = await decoded(layer, index);
    const { width, height, columns } = layer;
    layer.scratch ??= canvas(width, height).getContext("2d", { willReadFrequently: true });
    const context = layer.scratch;
    context.imageSmoothingEnabled = false;
    const left = (n % columns) * width;
    const top = Math.floor(n / columns) * height;
    context.drawImage(image, left, top, width, height, 0, 0, width, height);
    const rgba = context.getImageData(0, 0, width, height).data;
    const bytes = new Uint8Array(width * height);
    for (let i = 0; i < bytes.length; i += 1) bytes[i] = rgba[4 * i];
    return bytes;
  }

  // Black, red, yellow, white.
  const hot = (u) => [3 * u, 3 * u - 1, 3 * u - 2].map((c) => 255 * Math.min(1, Math.max(0, c)));

  // Colours of the 256 bytes, by a window of a level and a width in bytes.
  function colours(kind, { level, width }) {
    const table = new Uint8ClampedArray(4 * 256);
    for (let byte = 0; byte < 256; byte += 1) {
      const unit = Math.min(1, Math.max(0, (byte - level) / width + 0.5));
      const [r, g, b] = kind === "map" ? hot(unit) : [255 * unit, 255 * unit, 255 * unit];
      table.set([r, g, b, 255], 4 * byte);
    }
    return table;
  }

  // Bytes as a picture of their own size. `alpha` makes an opacity of a byte.
  function picture(layer, bytes, table, alpha) {
    const { width, height } = layer;
    const out = canvas(width, height);
    const context = out.getContext("2d");
    const data = context.createImageData(width, height);
    for (let i = 0; i < bytes.length; i += 1) {
      const byte = bytes[i];
      data.data.set(table.subarray(4 * byte, 4 * byte + 4), 4 * i);
      if (alpha) data.data[4 * i + 3] = alpha(byte);
    }
    context.putImageData(data, 0, 0);
    return out;
  }

  // Where a layer lies on a canvas that shows the whole frame.
  function place(layer, frame, context) {
    const [x, y] = [context.canvas.width / frame.columns, context.canvas.height / frame.rows];
    const { left, top, width, height } = layer.place;
    return [left * x, top * y, width * x, height * y];
  }

  function layer(context, frame, shown, bytes, table, alpha) {
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(picture(shown, bytes, table, alpha), ...place(shown, frame, context));
  }

  // A mask: a light fill, and lines along the edges of its pixels; the truth's are dashed.
  function mask(context, frame, shown, bytes, opacity) {
    const truth = shown.kind === "truth";
    const colour = truth ? "60, 220, 80" : "255, 70, 50";
    const { width, height } = shown;
    const [left, top, wide, high] = place(shown, frame, context);
    const [dx, dy] = [wide / width, high / height];
    const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bytes[y * width + x] > 127;
    const edges = new Path2D();
    context.fillStyle = `rgba(${colour}, ${0.35 * opacity})`;
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        if (!inside(x, y)) continue;
        const [x0, y0, x1, y1] = [left + x * dx, top + y * dy, left + (x + 1) * dx, top + (y + 1) * dy];
        if (!truth) context.fillRect(x0, y0, dx, dy);
        const line = (a, b, c, d) => { edges.moveTo(a, b); edges.lineTo(c, d); };
        if (!inside(x, y - 1)) line(x0, y0, x1, y0);
        if (!inside(x, y + 1)) line(x0, y1, x1, y1);
        if (!inside(x - 1, y)) line(x0, y0, x0, y1);
        if (!inside(x + 1, y)) line(x1, y0, x1, y1);
      }
    }
    // Dark below, so that the line stands out on white too.
    context.setLineDash(truth ? [Math.max(dx, 5) * 0.6, Math.max(dx, 5) * 0.4] : []);
    context.strokeStyle = "rgba(0, 0, 0, 0.75)";
    context.lineWidth = 4;
    context.stroke(edges);
    context.strokeStyle = `rgb(${colour})`;
    context.lineWidth = 2;
    context.stroke(edges);
    context.setLineDash([]);
  }

  return { slice, colours, layer, mask };
})();
