// The network's own thread: draws what the page asks for, in steps short enough to notice that it asks for another.

import { latent } from "./latents.js";
import { coordinatesOf, ExactPicture, ProgressivePicture } from "./lattice.js";
import { openNetwork } from "./network.js";

const STEP_MS = 40; // of one run of the network
const SHOW_MS = 150; // between two looks at a picture that is under way
const MAX_KEPT = 16; // images whose affine parameters are kept

let network;
let points = 256; // in one run, as many as take STEP_MS
let rate = 0; // points a second, a running mean
const kept = new Map(); // affine parameters of images, the oldest first
let drawing = null; // what is on the page
let next = null; // what is to take its place
let saving = null;
let isBusy = false;

/** A promise for the next turn of the event loop, before which messages are read. */
function turn() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

async function affineParameters(classLabel, seed, psi) {
  const key = [classLabel, seed, psi].join();
  const A = kept.get(key) ?? (await network.map(latent(seed, network.metadata.config.z_dim), classLabel, psi));
  kept.delete(key);
  kept.set(key, A);
  if (kept.size > MAX_KEPT) kept.delete(kept.keys().next().value);
  return A;
}

/** Affine parameters of the first image, on the chosen levels moved towards the second. */
async function mixedParameters({ classLabel, seed, psi, secondClassLabel, secondSeed, position, levels }) {
  const first = await affineParameters(classLabel, seed, psi);
  if (position === 0 || levels.length === 0) return first;
  const second = await affineParameters(secondClassLabel, secondSeed, psi);
  const mixed = first.slice();
  const length = 3 * network.metadata.config.channels; // of a level
  for (const level of levels) {
    for (let i = level * length; i < (level + 1) * length; i++) mixed[i] = first[i] + position * (second[i] - first[i]);
  }
  return mixed;
}

function measure(count, milliseconds) {
  const now = (1000 * count) / Math.max(milliseconds, 0.1);
  rate = rate === 0 ? now : 0.8 * rate + 0.2 * now;
  if (milliseconds < STEP_MS && count === points) points = Math.min(2 * points, 32768);
  else if (milliseconds > 2 * STEP_MS) points = Math.max(points / 2, 64);
}

/** Runs the network once for a job, and shows the picture if it is time to. */
async function step(job) {
  job.A ??= await mixedParameters(job.image);
  const { picture } = job;
  const stage = picture.stage;
  const pixels = picture.take(points);
  const began = performance.now();
  picture.give(pixels, await network.synthesize(job.A, coordinatesOf(pixels, picture.side, picture.size, job.extent)));
  measure(pixels.length, performance.now() - began);
  if (picture.stage !== stage || performance.now() - job.shownAt > SHOW_MS) await job.show(job);
}

function showDrawing(job) {
  const { picture, id, image, extent } = job;
  if (picture.stage === "empty") return;
  job.shownAt = performance.now();
  const { pixels, count, span } = picture.snapshot();
  const share = picture.numRun / picture.size ** 2;
  const [top, left] = extent;
  const side = ((extent[2] - top) * span) / (picture.size - 1); // a lattice may reach past the picture
  const reached = [top, left, top + side, left + side];
  const { stage } = picture;
  const { backend } = network;
  const about = { stage, rate, share, backend };
  postMessage({ type: "picture", id, image, pixels, count, extent: reached, ...about }, [pixels.buffer]);
}

async function showSaving(job) {
  const { picture, id } = job;
  job.shownAt = performance.now();
  if (picture.stage !== "exact") {
    postMessage({ type: "saving", id, share: picture.numRun / picture.size ** 2 });
    return;
  }
  const canvas = new OffscreenCanvas(picture.size, picture.size);
  canvas.getContext("2d").putImageData(new ImageData(picture.snapshot().pixels, picture.size, picture.size), 0, 0);
  postMessage({ type: "saved", id, blob: await canvas.convertToBlob({ type: "image/png" }) });
}

/** What to run the network for: a picture on the page comes before one to be saved. */
function nextJob() {
  const isFirstLookDue = drawing?.picture.stage === "empty"; // always given, so that a moving hand sees pictures
  if (next && !isFirstLookDue) [drawing, next] = [next, null];
  if (drawing && drawing.picture.stage !== "exact") return drawing;
  return saving && saving.picture.stage !== "exact" ? saving : null;
}

async function work() {
  if (isBusy || !network) return;
  isBusy = true;
  try {
    for (let job = nextJob(); job; job = nextJob()) {
      await step(job);
      await turn();
    }
  } catch (error) {
    drawing = next = saving = null;
    postMessage({ type: "error", message: `The network stopped: ${error.message}` });
  } finally {
    isBusy = false;
  }
}

onmessage = ({ data: { type, id, image, extent, size } }) => {
  if (type === "draw") {
    const side = extent[2] - extent[0];
    const picture = new ProgressivePicture(size, size / (network.metadata.config.sample_size * side));
    next = { id, image, extent, picture, shownAt: 0, show: showDrawing };
  } else if (type === "save") {
    saving = { id, image, extent, picture: new ExactPicture(size), shownAt: 0, show: showSaving };
  } else if (type === "stop saving") {
    saving = null;
  }
  work();
};

try {
  network = await openNetwork((bytes) => postMessage({ type: "loading", bytes }));
  postMessage({ type: "ready", metadata: network.metadata });
} catch (error) {
  postMessage({ type: "error", message: error.message });
}
