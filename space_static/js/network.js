// The two graphs in onnxruntime-web: on WebGPU where there is one, otherwise in WebAssembly.

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

async function createSession(ort, graph, name, provider) {
  try {
    return await ort.InferenceSession.create(graph, { executionProviders: [provider] });
  } catch (error) {
    throw new Error(`model/${name} could not be opened: ${error.message}`);
  }
}

class Network {
  constructor(ort, metadata, mapping, synthesis, backend) {
    Object.assign(this, { ort, metadata, mapping, synthesis, backend });
  }

  /** Affine parameters (L * n * 3) of z, a class id (null if unconditional) and psi. */
  async map(z, classLabel, psi) {
    const { Tensor } = this.ort;
    const inputs = { z: new Tensor("float32", z, [1, z.length]), truncation_psi: new Tensor("float32", [psi], []) };
    if (classLabel !== null) inputs.class_labels = new Tensor("int64", BigInt64Array.of(BigInt(classLabel)), [1]);
    return (await this.mapping.run(inputs)).affine_parameters.data;
  }

  /** Colors (3 for each point) at coordinates (2 for each point). */
  async synthesize(affineParameters, coordinates) {
    const { num_levels, channels } = this.metadata.config;
    const results = await this.synthesis.run({
      affine_parameters: new this.ort.Tensor("float32", affineParameters, [num_levels, channels, 3]),
      coordinates: new this.ort.Tensor("float32", coordinates, [coordinates.length / 2, 2]),
    });
    const rgb = results.rgb.data;
    if (!rgb.every(Number.isFinite)) throw new Error("The network gave colors that are no numbers.");
    return rgb;
  }
}

async function start(runtime, provider, metadata, graphs) {
  const ort = await import(new URL(runtime, RUNTIME));
  const numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MAX_THREADS) : 1;
  ort.env.wasm.wasmPaths = RUNTIME.href;
  ort.env.wasm.numThreads = numThreads;
  ort.env.logLevel = "error";
  const mapping = await createSession(ort, graphs["mapping.onnx"], "mapping.onnx", "wasm");
  const synthesis = await createSession(ort, graphs["synthesis.onnx"], "synthesis.onnx", provider);
  const threads = `WebAssembly, ${numThreads} thread${numThreads > 1 ? "s" : ""}`;
  const network = new Network(ort, metadata, mapping, synthesis, provider === "webgpu" ? "WebGPU" : threads);
  // A first, tiny picture: what a machine cannot run after all, or files of different models, show here.
  try {
    const { z_dim, num_classes } = metadata.config;
    const A = await network.map(new Float32Array(z_dim).fill(1), num_classes ? 0 : null, 1);
    await network.synthesize(A, new Float32Array(2));
  } catch (error) {
    throw new Error(`The files in model/ do not work together: ${error.message}`);
  }
  return network;
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
      return await start("ort.webgpu.min.mjs", "webgpu", metadata, graphs);
    } catch (error) {
      console.warn(`WebGPU is there but could not be used: ${error.message}`);
    }
  }
  try {
    return await start("ort.wasm.min.mjs", "wasm", metadata, graphs);
  } catch (error) {
    throw new Error((await lackingFile()) ?? error.message); // onnxruntime names no file
  }
}
