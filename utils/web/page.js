"use strict";
// The viewer: two canvases in a slider, moved together, that show a frame of a method each.

const page = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const canvases = [...document.querySelectorAll(".view canvas")];
const sides = [$("left"), $("right")];
const PIXELS = 16; // screen pixels for one of the frame, of the button
const LARGEST = 48; // the same at the largest zoom
const PLAYED = 250; // ms for a frame
let clip, timer, drawn = 0;

const panzoom = Panzoom(canvases[1], {
  minScale: 1, contain: "outside", noBind: true, step: 0.4, animate: false,
  setTransform: (_, { scale, x, y }) => {
    for (const canvas of canvases) canvas.style.transform = `scale(${scale}) translate(${x}px, ${y}px)`;
    showZoom(scale);
  },
});

function showZoom(scale) {
  const perPixel = clip ? (scale * $("stage").clientWidth) / clip.width : 1;
  $("stage").classList.toggle("sharp", perPixel >= 1);
  $("zoom").value = `${perPixel.toFixed(perPixel < 10 ? 1 : 0)}\u00d7`;
}

function source(name) {
  return clip.sources.find((one) => one.name === name);
}

// The decoded frame of a source at a time; a source of given frames has fewer of them.
function picture(from, time) {
  const index = Math.floor(time / from.step);
  from.pictures ??= [];
  return from.pictures[index] ??= (async () => {
    const image = new Image();
    image.src = `data:image/webp;base64,${from.frames[index]}`;
    await image.decode();
    return image;
  })();
}

function pixels(image) {
  const canvas = new OffscreenCanvas(clip.width, clip.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, clip.width, clip.height);
  return context.getImageData(0, 0, clip.width, clip.height);
}

// The mean difference of the three channels, in the colours of the legend.
function errorMap(image, reference) {
  const result = pixels(image), a = result.data, b = pixels(reference).data;
  for (let i = 0; i < a.length; i += 4) {
    const error = Math.abs(a[i] - b[i]) + Math.abs(a[i + 1] - b[i + 1]) + Math.abs(a[i + 2] - b[i + 2]);
    const colour = page.colours[Math.min(Math.round((error / 3) * (255 / page.levels)), 255)];
    [a[i], a[i + 1], a[i + 2]] = colour;
  }
  return result;
}

function isGiven(time) {
  return (clip.first + time) % clip.step === 0;
}

function label(from, time) {
  const figure = from.figures?.[time];
  const given = from.step > 1 ? `, frame ${clip.first + Math.floor(time / from.step) * from.step}` : "";
  return from.name + given + (figure ? ` \u00b7 ${figure}` : "");
}

async function draw() {
  const number = ++drawn, time = Number($("time").value);
  const shown = sides.map((side) => source(side.value));
  const withErrors = $("error").checked;
  const references = withErrors
    ? shown.map((_, i) => (clip.reference ? source(clip.reference) : shown[1 - i])) : [];
  const images = await Promise.all([...shown, ...references].map((from) => picture(from, time)));
  if (number !== drawn) return; // a later call has overtaken this one
  canvases.forEach((canvas, i) => {
    const context = canvas.getContext("2d");
    if (withErrors) context.putImageData(errorMap(images[i], images[i + 2]), 0, 0);
    else {
      context.imageSmoothingEnabled = false;
      context.drawImage(images[i], 0, 0, clip.width, clip.height);
    }
  });
  $("left-label").value = label(shown[0], time);
  $("right-label").value = label(shown[1], time);
  const kind = isGiven(time) ? "given" : "interpolated";
  $("when").value = `frame ${clip.first + time} of ${clip.first}\u2013${clip.first + clip.count - 1} \u00b7 ${kind}`;
  $("viewer").classList.toggle("errors", withErrors);
  document.body.dataset.drawn = `${clip.name} ${time} ${shown.map((from) => from.name)}${withErrors ? " errors" : ""}`;
}

function resize() {
  const height = Math.min(innerHeight * 0.74, 900);
  $("stage").style.width = `min(100%, ${(height * clip.width) / clip.height}px)`;
  $("stage").style.aspectRatio = `${clip.width} / ${clip.height}`;
  panzoom.setOptions({ maxScale: Math.max((LARGEST * clip.width) / $("stage").clientWidth, 1) });
  panzoom.reset({ animate: false });
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name) => new Option(name)));
  select.value = chosen;
}

function open(number) {
  stop();
  clip = page.clips[number];
  const names = clip.sources.map((one) => one.name);
  sides.forEach((side, i) => fill(side, names, names.includes(side.value) ? side.value : clip.shown[i]));
  canvases.forEach((canvas) => Object.assign(canvas, { width: clip.width, height: clip.height }));
  Object.assign($("time"), { max: clip.count - 1, value: clip.start });
  $("error-name").textContent = clip.reference ? `Error against ${clip.reference}` : "Difference of both";
  $("note").textContent = clip.note;
  resize();
  draw();
}

function stop() {
  clearInterval(timer);
  timer = null;
  for (const id of ["play", "flicker"]) $(id).setAttribute("aria-pressed", "false");
}

// Two buttons that run until they or the other are pressed: which time comes after which.
function button(id, next) {
  $(id).addEventListener("click", () => {
    const wasOn = $(id).getAttribute("aria-pressed") === "true";
    stop();
    if (wasOn) return;
    $(id).setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      $("time").value = next(Number($("time").value));
      draw();
    }, PLAYED);
  });
}

function zoomTo(perPixel) {
  panzoom.zoom((perPixel * clip.width) / $("stage").clientWidth);
}

if (page.clips.length) {
  $("viewer").hidden = false;
  fill($("clip"), page.clips.map((one) => one.name), page.clips[0].name);
  $("clip").addEventListener("change", () => open($("clip").selectedIndex));
  for (const id of ["left", "right", "error"]) $(id).addEventListener("change", draw);
  $("time").addEventListener("input", () => { stop(); draw(); });
  button("play", (time) => (time + 1) % clip.count);
  button("flicker", (time) => (isGiven(time) && time + 1 < clip.count ? time + 1 : time - 1));
  $("less").addEventListener("click", () => panzoom.zoomOut());
  $("more").addEventListener("click", () => panzoom.zoomIn());
  $("fit").addEventListener("click", () => panzoom.reset());
  $("pixels").addEventListener("click", () => zoomTo(PIXELS));

  const slider = $("slider"), handle = slider.querySelector(".handle");
  slider.addEventListener("wheel", panzoom.zoomWithWheel, { passive: false });
  slider.addEventListener("pointerdown", (event) => {
    const { left, right } = handle.getBoundingClientRect();
    if (event.clientX < left || event.clientX > right) panzoom.handleDown(event); // else it is dragged
  });
  document.addEventListener("pointermove", panzoom.handleMove);
  document.addEventListener("pointerup", panzoom.handleUp);
  addEventListener("resize", resize);

  const stops = [0, 0.25, 0.5, 0.75, 1].map((share) => `rgb(${page.colours[Math.round(255 * share)]})`);
  $("legend").querySelector("i").style.background = `linear-gradient(to right, ${stops})`;
  $("levels").textContent = `${page.levels} of 255`;
  open(0);
}
