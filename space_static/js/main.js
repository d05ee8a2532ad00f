// The page: its state, its controls, and the worker that draws what they ask for.

import { ClassBox } from "./class_box.js";
import { listen } from "./gestures.js";
import { Stage } from "./stage.js";
import { anotherSeed, Classes, designsOf, readLink, writeLink } from "./state.js";
import { extentOf, WHOLE, zoomAt } from "./view.js";

const MAX_SIDE = 1024; // pixels that are run for the canvas
const MESSAGE_MS = 6000;

const find = (id) => document.getElementById(id);
const canvas = find("canvas");
const stage = new Stage(canvas);
const worker = new Worker(new URL("./painter.js", import.meta.url), { type: "module" });
const boxes = {};

let metadata, classes, state;
let drawId = 0; // of the latest picture asked for
let saveId = 0;
let shownImage = null; // of the pictures on the stage
let isSaving = false;
let frame = 0;
let linkTimer = 0;
let messageTimer = 0;

// -- messages ---------------------------------------------------------------------------------------------------------
function say(text, isError = false) {
  clearTimeout(messageTimer);
  const message = find("message");
  message.textContent = text;
  message.classList.remove("unstarted");
  message.hidden = text === "";
  message.role = isError ? "alert" : "status";
  message.classList.toggle("error", isError);
}

function sayBriefly(text) {
  say(text);
  messageTimer = setTimeout(() => say(""), MESSAGE_MS);
}

function fail(text) {
  worker.onmessage = null; // what else is under way, such as another download, has no more to say
  worker.terminate();
  say(text, true);
  find("controls").inert = true;
  canvas.dataset.stage = "failed";
}

// -- state ------------------------------------------------------------------------------------------------------------
function imageOf({ classLabel, seed, psi, secondClassLabel, secondSeed, position, levels }) {
  return { classLabel, seed, psi, secondClassLabel, secondSeed, position, levels };
}

function update(changes) {
  state = { ...state, ...changes };
  showState();
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(draw);
  clearTimeout(linkTimer);
  linkTimer = setTimeout(() => history.replaceState(null, "", writeLink(state, metadata, classes)), 200);
}

/** Moves the last pictures at once, and asks for better ones. */
function draw() {
  const extent = extentOf(state);
  stage.draw(extent);
  canvas.dataset.stage = "drawing";
  canvas.dataset.extent = extent;
  worker.postMessage({ type: "draw", id: ++drawId, image: imageOf(state), extent, size: stage.size });
}

function describe() {
  const name = (id, seed) => (id === null ? `seed ${seed}` : `${classes.names[id]}, seed ${seed}`);
  const { classLabel, seed, secondClassLabel, secondSeed, position, levels, zoom } = state;
  const isMixed = position > 0 && levels.length > 0;
  const second = isMixed ? `, ${Math.round(100 * position)}% towards ${name(secondClassLabel, secondSeed)}` : "";
  const factor = 2 ** zoom;
  return `${name(classLabel, seed)}${second}, ${factor.toPrecision(factor < 100 ? 2 : 3)} times enlarged`;
}

function showState() {
  if (boxes.first) [boxes.first.value, boxes.second.value] = [state.classLabel, state.secondClassLabel];
  find("seed").value = state.seed;
  find("second-seed").value = state.secondSeed;
  find("position").value = state.position;
  find("psi").value = state.psi;
  for (const [id, classLabel, what] of [
    ["dice", state.classLabel, "seed"],
    ["second-dice", state.secondClassLabel, "second seed"],
  ]) {
    const count = designsOf(metadata, classLabel).length;
    const designs = count === 1 ? "; all show one design" : `: one of ${count} designs`;
    find(id).title = find(id).ariaLabel = `Another ${what}${count > 0 ? designs : ""}`;
  }
  for (const box of find("levels").querySelectorAll("input")) box.checked = state.levels.includes(Number(box.value));
  canvas.ariaLabel = describe();
}

// -- controls ---------------------------------------------------------------------------------------------------------
function buildClassBox(root, onChoose) {
  root.hidden = classes.names.length === 0;
  return root.hidden ? undefined : new ClassBox(root, classes, onChoose);
}

function buildLevels() {
  const labels = Array.from({ length: metadata.config.num_levels }, (_, level) => {
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: level });
    label.append(box, String(level));
    return label;
  });
  find("levels").replaceChildren(...labels);
  find("levels").addEventListener("change", () => {
    const chosen = [...find("levels").querySelectorAll(":checked")].map((box) => Number(box.value));
    update({ levels: chosen, position: state.position || 1 });
  });
}

function onNumber(id, change) {
  find(id).addEventListener("change", ({ target }) => {
    if (target.checkValidity()) update(change(target.valueAsNumber));
    else target.reportValidity();
  });
}

function buildControls() {
  const firstDesign = (classLabel, seed) => designsOf(metadata, classLabel)[0] ?? seed;
  // Whoever chooses a second image wants to see something of it.
  const secondly = (changes) => update({ ...changes, position: state.position || 0.5 });
  boxes.first = buildClassBox(find("class-box"), (classLabel) =>
    update({ classLabel, seed: firstDesign(classLabel, state.seed) }),
  );
  boxes.second = buildClassBox(find("second-class-box"), (secondClassLabel) =>
    secondly({ secondClassLabel, secondSeed: firstDesign(secondClassLabel, state.secondSeed) }),
  );
  buildLevels();
  onNumber("seed", (seed) => ({ seed }));
  onNumber("second-seed", (secondSeed) => ({ secondSeed, position: state.position || 0.5 }));
  find("dice").addEventListener("click", () => update({ seed: anotherSeed(metadata, state.classLabel, state.seed) }));
  find("second-dice").addEventListener("click", () =>
    secondly({ secondSeed: anotherSeed(metadata, state.secondClassLabel, state.secondSeed) }),
  );
  find("position").addEventListener("input", ({ target }) => update({ position: target.valueAsNumber }));
  find("psi").addEventListener("input", ({ target }) => update({ psi: target.valueAsNumber }));
  find("zoom-in").addEventListener("click", () => update(zoomAt(state, 1)));
  find("zoom-out").addEventListener("click", () => update(zoomAt(state, -1)));
  find("whole").addEventListener("click", () => update(WHOLE));
  find("save").addEventListener("click", save);
  find("copy").addEventListener("click", copyLink);
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  listen(canvas, (move) => update(move(state)));
  addEventListener("hashchange", restore);
  new ResizeObserver(fit).observe(canvas);
}

function fit() {
  const size = Math.round(canvas.clientWidth * devicePixelRatio);
  stage.resize(Math.min(Math.max(size, 64), MAX_SIDE));
  update({});
}

function restore() {
  const { state: held, rejected } = readLink(location.hash, metadata, classes);
  if (rejected.length > 0) sayBriefly(`There is no ${rejected.join(", no ")} here: shown as usual.`);
  update(held);
}

async function copyLink() {
  const link = new URL(writeLink(state, metadata, classes), location.href).href;
  try {
    await navigator.clipboard.writeText(link);
    sayBriefly("The link to this view is in the clipboard.");
  } catch {
    prompt("The link to this view:", link);
  }
}

// -- saving -----------------------------------------------------------------------------------------------------------
function save() {
  isSaving = !isSaving;
  const size = Number(find("size").value);
  if (isSaving) worker.postMessage({ type: "save", id: ++saveId, image: imageOf(state), extent: extentOf(state), size });
  else worker.postMessage({ type: "stop saving" });
  showSaving(0);
}

function showSaving(share) {
  find("save").textContent = isSaving ? `Stop (${Math.floor(100 * share)}%)` : "Download PNG";
}

function download(blob) {
  const name = state.classLabel === null ? "poly-inr" : classes.names[state.classLabel];
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(blob),
    download: `${name.replace(/[^\p{L}\p{N}]+/gu, "-")}-seed${state.seed}.png`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  isSaving = false;
  showSaving(0);
}

// -- the worker -------------------------------------------------------------------------------------------------------
function showPicture(message) {
  const { id, image } = message;
  const key = JSON.stringify(image);
  stage.put(message, key !== shownImage);
  shownImage = key;
  stage.draw(extentOf(state));
  if (find("message").textContent === "Drawing") say("");
  if (id !== drawId) return;
  canvas.dataset.stage = message.stage;
  find("where").textContent = describeWork(message);
}

/** How the picture on the canvas came about. */
function describeWork({ backend, rate, share, stage: reached }) {
  const speed = Number(rate.toPrecision(2)).toLocaleString("en");
  const how = {
    coarse: "a first sketch",
    sharp: `sharp from ${Math.min(99, Math.round(100 * share))}% of them`,
    exact: "every one computed",
  }[reached];
  return `${stage.size} × ${stage.size} pixels, ${how}; ${backend}, ${speed} points a second`;
}

function showAbout() {
  const { config, license, license_name: name } = metadata;
  const parts = [`${config.num_levels} levels, ${config.channels} channels`];
  if (config.num_classes) parts.push(`${config.num_classes.toLocaleString("en")} classes`);
  if (license) parts.push(`license of the weights: ${license === "other" && name ? name : license}`);
  find("about").textContent = `${parts.join("; ")}. Poly-INR: Singh, Shukla and Turaga, CVPR 2023.`;
}

function begin(message) {
  ({ metadata } = message);
  classes = new Classes(metadata);
  ({ state } = readLink("", metadata, classes));
  find("controls").inert = false;
  say("Drawing");
  showAbout();
  buildControls();
  restore();
}

const answers = {
  loading: ({ bytes }) => say(`Loading the network: ${(bytes / 1e6).toFixed(0)} MB`),
  ready: begin,
  picture: showPicture,
  saving: ({ id, share }) => isSaving && id === saveId && showSaving(share),
  saved: ({ id, blob }) => isSaving && id === saveId && download(blob),
  error: ({ message }) => fail(message),
};
say("Loading");
worker.onmessage = ({ data }) => answers[data.type](data);
worker.onerror = (event) => fail(`The page could not start its worker${event.message ? `: ${event.message}` : "."}`);
