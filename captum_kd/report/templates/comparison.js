"use strict";
// Draws the maps. All text enters the page as text nodes or attributes, never as markup.
(() => {
  const LONG_SIDE = 192;  // pixels of a drawn map
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const colours = {positive: bytes(data.colours.positive), signed: bytes(data.colours.signed)};
  const listed = (words) => [...new Set(words)].join(", ");

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // A number in little room, whatever its size.
  function short(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 0.01 && size < 100 ? value.toPrecision(2) : value.toExponential(1);
  }

  // Values of a map as shares of its peak.
  function decode(map, signed) {
    const levels = bytes(map.values);
    return Float32Array.from(levels, (level) => (signed ? (level - 128) / 127 : level / 255));
  }

  // For each of `count` positions the two neighbours among `length`, and the share of the second: pixel
  // centres at halves, edges repeated, as in torch's bilinear interpolation.
  function neighbours(length, count) {
    return Array.from({length: count}, (_, i) => {
      const place = Math.max(0, (i + 0.5) * length / count - 0.5);
      const first = Math.min(Math.floor(place), length - 1);
      return [first, Math.min(first + 1, length - 1), place - first];
    });
  }

  // A table of colours as whole pixels, whatever the byte order of the machine.
  function opaque(table) {
    const pixels = new Uint8ClampedArray(4 * 256).fill(255);
    for (let i = 0; i < 256; i++) pixels.set(table.subarray(3 * i, 3 * i + 3), 4 * i);
    return new Uint32Array(pixels.buffer);
  }

  function draw(canvas, map, signed, limit) {
    const context = canvas.getContext("2d");
    const picture = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(picture.data.buffer);
    const table = opaque(signed ? colours.signed : colours.positive);
    const [rows, width] = map.size;
    const values = map.values ? decode(map, signed) : new Float32Array(rows * width);
    const gain = limit > 0 ? map.peak / limit : 0;
    const columns = neighbours(width, canvas.width);
    let pixel = 0;
    for (const [top, bottom, down] of neighbours(rows, canvas.height)) {
      const line = values.subarray(top * width, (top + 1) * width)
        .map((value, i) => (value * (1 - down) + values[bottom * width + i] * down) * gain);
      for (const [left, right, across] of columns) {
        const share = line[left] * (1 - across) + line[right] * across;
        const level = Math.floor((signed ? (share + 1) / 2 : share) * 256);
        pixels[pixel++] = table[Math.max(0, Math.min(255, level))];
      }
    }
    context.putImageData(picture, 0, 0);
  }

  // Where a map is largest, in words for those who do not see it.
  function summit(map, signed) {
    const values = decode(map, signed).map(Math.abs);
    const place = values.indexOf(Math.max(...values));
    const third = (position, length) => Math.floor(3 * (position + 0.5) / length);
    const row = third(Math.floor(place / map.size[1]), map.size[0]);
    const column = third(place % map.size[1], map.size[1]);
    const words = [["top"], [], ["bottom"]][row].concat([["left"], [], ["right"]][column]);
    return words.length ? words.join(" ") : "centre";
  }

  function panel(image, method, side, map, limit, layer) {
    const name = method.sides[side];
    const title = `${name[0].toUpperCase()}${name.slice(1)} map of ${image.class} by ${method.name} at ${layer}`;
    const frame = element("div", {class: "frame"}, element("img", {src: image.url, alt: ""}));
    let amount = "not finite";
    let label = `${title}: not finite, so not drawn`;
    if (map.peak !== null) {
      const factor = LONG_SIDE / Math.max(...image.size);
      const [height, width] = image.size.map((length) => Math.max(1, Math.round(length * factor)));
      amount = map.peak === 0 ? "all 0" : `max ${method.signed ? "±" : ""}${short(map.peak)}`;
      label = map.peak === 0
        ? `${title}: zero everywhere`
        : `${title}: largest, ${short(map.peak)}, at the ${summit(map, method.signed)}; ` +
          `the scale ends at ${short(limit)}`;
      const canvas = element("canvas", {width, height});
      draw(canvas, map, method.signed, limit);
      frame.append(canvas);
    }
    frame.setAttribute("role", "img");
    frame.setAttribute("aria-label", label);
    return element("div", {class: "panel"}, frame,
      element("p", {"aria-hidden": "true"}, element("span", {}, name), element("span", {}, amount)));
  }

  const peak = (maps) => Math.max(0, ...maps.map((map) => map.peak ?? 0));

  function methodFigure(image, index, method, state, layer) {
    const shared = state.scale === "layer" ? method.pairs.flat() : method.pairs[index];
    const sides = state.side === "both" ? [0, 1] : [Number(state.side)];
    const panels = sides.map((side) =>
      panel(image, method, side, method.pairs[index][side], peak(shared), layer));
    return element("figure", {class: "method"}, element("figcaption", {}, method.name),
      element("div", {class: "panels"}, ...panels));
  }

  function imageItem(image, index, layer, state) {
    const about = element("div", {class: "about"}, element("h3", {}, image.class));
    if (image.file) about.append(element("p", {}, image.file));
    const original = element("figure", {class: "original"}, element("figcaption", {}, "Image"),
      element("img", {src: image.url, alt: `The image itself: ${image.class}`}));
    const methods = layer.methods.map((method) => methodFigure(image, index, method, state, layer.name));
    return element("li", {}, about, original,
      element("div", {class: state.side === "both" ? "methods" : "methods single"}, ...methods));
  }

  function ramp(kind, from, to) {
    const table = colours[kind];
    const stops = Array.from({length: 17}, (_, i) => {
      const colour = table.subarray(3 * Math.round(i * 255 / 16), 3 * Math.round(i * 255 / 16) + 3);
      return `rgb(${colour.join(" ")})`;
    });
    const bar = element("i", {class: "ramp"});
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    return element("span", {}, from, bar, to);
  }

  const choice = {student: find("student"), layer: find("layer"), scale: find("scale")};
  const form = document.querySelector("#viewer form");

  function fill(select, names) {
    select.replaceChildren(...names.map((name, i) => element("option", {value: i}, name)));
  }

  const student = () => data.students[choice.student ? Number(choice.student.value) : 0];

  function fillLayers() {
    const before = choice.layer.selectedOptions[0]?.textContent;
    const names = student().layers.map((layer) => layer.name);
    fill(choice.layer, names);
    const kept = names.indexOf(before);
    choice.layer.value = kept >= 0 ? kept : Math.max(0, names.length - 2);  // the last but one says most
  }

  function render() {
    const layer = student().layers[Number(choice.layer.value)];
    const state = {side: form.elements.side.value, scale: choice.scale.value};
    find("images").replaceChildren(...data.images.map((image, i) => imageItem(image, i, layer, state)));
    const sizes = listed(layer.methods.flatMap((m) => m.pairs[0].map((map) => map.size.join(" × "))));
    const shown = state.side === "both" ? "both maps" : form.querySelector(":checked + span").textContent;
    find("status").textContent = `${student().name} at ${layer.name}: ${shown.toLowerCase()}, ${sizes} positions, ` +
      `scale shared ${choice.scale.selectedOptions[0].textContent}`;
    const end = state.scale === "layer" ? "largest of all images" : "larger of the two";
    const kinds = new Set(layer.methods.map((method) => (method.signed ? "signed" : "positive")));
    find("ramps").replaceChildren(...[...kinds].map((kind) =>
      (kind === "signed" ? ramp(kind, "negative", "positive") : ramp(kind, "0", end))));
  }

  function showOpacity() {
    const percent = `${find("opacity").value} %`;
    find("opacity").setAttribute("aria-valuetext", percent);
    find("opacity-text").textContent = percent;
    find("viewer").style.setProperty("--opacity", find("opacity").value / 100);
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    if (event.target === choice.student) fillLayers();
    if (event.target.id !== "opacity") render();
  });
  find("opacity").addEventListener("input", showOpacity);
  if (choice.student) fill(choice.student, data.students.map((one) => one.name));
  fillLayers();
  render();
  showOpacity();
  find("undrawn").hidden = true;
  find("viewer").hidden = false;
})();
