// The model's files, and what runs them: WebGPU where there is one, otherwise WebAssembly on one thread or on several,
// whichever turns out to be faster.

import { Trial } from "./trial.js";

const RUNTIME = new URL("../runtime/", import.meta.url);
const MODEL = new URL("../model/", import.meta.url);
const MAX_THREADS = 8;

/** Bytes of one of the model's files. Throws an error with a sentence for the visitor. */
async function download(name, onBytes = () => {}) {
  let response;
  try {
    response = await fetch(new URL(name, MODEL));
  } catch {
    throw new Error(`model/${name} could not be fetched: the connection failed.`);
  }
  if (!response.ok) throw new Error(`model/${name} could not be fetched: the server answered ${response.status}.`);
  const parts = [];
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      onBytes(value.length);
    }
  } catch {
    throw new Error(`model/${name} could not be fetched: the connection broke off.`);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function readMetadata() {
  const bytes = await download("model.json");
  let metadata;
  try {
    metadata = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    throw new Error("model/model.json is damaged: it is not JSON.");
  }
  const sizes = ["z_dim", "channels", "num_levels", "sample_size"];
  const lacking = sizes.filter((name) => !Number.isInteger(metadata?.config?.[name]));
  if (lacking.length > 0) throw new Error(`model/model.json is damaged: its config has no ${lacking.join(", ")}.`);
  return metadata;
}

async function hasWebGPU() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

/** A worker that runs the graphs, asked one thing at a time. */
class Runner {
  constructor(backend) {
    this.backend = backend;
    this.worker = new Worker(new URL("./runner.js", import.meta.url), { type: "module" });
  }

  ask(name, argument) {
    return new Promise((resolve, reject) => {
      this.worker.onmessage = ({ data: { result, error } }) => (error ? reject(new Error(error)) : resolve(result));
      this.worker.onerror = (event) => reject(new Error(event.message || "its worker could not be started."));
      this.worker.postMessage({ name, argument });
    });
  }

  end() {
    this.worker.terminate();
  }
}

async function openRunner(runtime, provider, numThreads, { config }, graphs) {
  const threads = `WebAssembly, ${numThreads} thread${numThreads > 1 ? "s" : ""}`;
  const runner = new Runner(provider === "webgpu" ? "WebGPU" : threads);
  try {
    await runner.ask("open", { runtime, provider, numThreads, config, graphs });
  } catch (error) {
    runner.end();
    throw error;
  }
  return runner;
}

class Network {
  constructor(metadata, runner) {
    Object.assign(this, { metadata, runner, trial: null });
  }

  get backend() {
    return this.runner.backend;
  }

  /** Has `rival` run some of the next pictures' points, and keeps it if it is faster. */
  challenge(rival) {
    this.trial = new Trial([this.runner, rival]);
  }

  /** Affine parameters (L * n * 3) of z, a class id (null if unconditional) and psi. */
  map(z, classLabel, psi) {
    return this.runner.ask("map", { z, classLabel, psi });
  }

  /** Colors (3 for each point) at coordinates (2 for each point). */
  async synthesize(affineParameters, coordinates) {
    const { trial } = this;
    const runner = trial?.next ?? this.runner;
    const began = performance.now();
    const rgb = await runner.ask("synthesize", { affineParameters, coordinates });
    trial?.note(runner, coordinates.length / 2, performance.now() - began);
    if (trial?.winner) {
      this.runner = trial.winner;
      for (const other of trial.candidates) if (other !== trial.winner) other.end();
      this.trial = null;
    }
    return rgb;
  }
}

/** A sentence on the first of the runtime's files that cannot be had; undefined if they all can. */
async function lackingFile() {
  for (const name of ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]) {
    const response = await fetch(new URL(name, RUNTIME), { method: "HEAD" }).catch(() => null);
    if (!response?.ok) {
      const reason = response ? `the server answered ${response.status}` : "the connection failed";
      return `runtime/${name} could not be fetched: ${reason}.`;
    }
  }
}

/** The network, ready to run. `onProgress` is called with the bytes fetched so far. */
export async function openNetwork(onProgress) {
  if (typeof WebAssembly === "undefined") throw new Error("This browser has no WebAssembly, which the network needs.");
  let fetched = 0;
  const count = (bytes) => onProgress((fetched += bytes));
  const metadata = await readMetadata();
  const names = ["mapping.onnx", "synthesis.onnx"];
  const bytes = await Promise.all(names.map((name) => download(name, count)));
  const graphs = Object.fromEntries(names.map((name, i) => [name, bytes[i]]));
  if (await hasWebGPU()) {
    try {
      return new Network(metadata, await openRunner("ort.webgpu.min.mjs", "webgpu", 1, metadata, graphs));
    } catch (error) {
      console.warn(`WebGPU is there but could not be used: ${error.message}`);
    }
  }
  const open = (numThreads) => openRunner("ort.wasm.min.mjs", "wasm", numThreads, metadata, graphs);
  let network;
  try {
    network = new Network(metadata, await open(1));
  } catch (error) {
    throw new Error((await lackingFile()) ?? error.message); // onnxruntime names no file
  }
  // Several threads are opened beside the first pictures. Where the machine has other work they are the slower ones.
  const numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MAX_THREADS) : 1;
  if (numThreads > 1) {
    open(numThreads).then(
      (rival) => network.challenge(rival),
      (error) => console.warn(`Several threads could not be used: ${error.message}`),
    );
  }
  return network;
}
