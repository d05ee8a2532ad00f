// onnxruntime-web in a worker of its own: both graphs, with one provider and one number of threads. Whoever ends the
// worker ends its threads and has its memory back.

const RUNTIME = new URL("../runtime/", import.meta.url);

let ort, config, mapping, synthesis, numThreads;

async function createSession(graph, name, provider) {
  try {
    return await ort.InferenceSession.create(graph, { executionProviders: [provider] });
  } catch (error) {
    throw new Error(`model/${name} could not be opened: ${error.message}`);
  }
}

const calls = {
  /** Opens the graphs, and draws a tiny picture: what a machine cannot run after all, or files of different models, show. */
  async open({ runtime, provider, graphs, ...others }) {
    ({ config, numThreads } = others);
    ort = await import(new URL(runtime, RUNTIME));
    ort.env.wasm.wasmPaths = RUNTIME.href;
    ort.env.wasm.numThreads = numThreads;
    ort.env.logLevel = "error";
    mapping = await createSession(graphs["mapping.onnx"], "mapping.onnx", "wasm");
    synthesis = await createSession(graphs["synthesis.onnx"], "synthesis.onnx", provider);
    try {
      const z = new Float32Array(config.z_dim).fill(1);
      const affineParameters = await calls.map({ z, classLabel: config.num_classes ? 0 : null, psi: 1 });
      await calls.synthesize({ affineParameters, coordinates: new Float32Array(2) });
    } catch (error) {
      throw new Error(`The files in model/ do not work together: ${error.message}`);
    }
  },

  /** Affine parameters (L * n * 3) of z, a class id (null if unconditional) and psi. */
  async map({ z, classLabel, psi }) {
    const inputs = { z: new ort.Tensor("float32", z, [1, z.length]), truncation_psi: new ort.Tensor("float32", [psi], []) };
    if (classLabel !== null) inputs.class_labels = new ort.Tensor("int64", BigInt64Array.of(BigInt(classLabel)), [1]);
    return (await mapping.run(inputs)).affine_parameters.data;
  },

  /** Colors (3 for each point) at coordinates (2 for each point). */
  async synthesize({ affineParameters, coordinates }) {
    const { num_levels, channels } = config;
    const results = await synthesis.run({
      affine_parameters: new ort.Tensor("float32", affineParameters, [num_levels, channels, 3]),
      coordinates: new ort.Tensor("float32", coordinates, [coordinates.length / 2, 2]),
    });
    const rgb = results.rgb.data;
    if (!rgb.every(Number.isFinite)) throw new Error("The network gave colors that are no numbers.");
    return rgb;
  },
};

onmessage = async ({ data: { name, argument } }) => {
  try {
    postMessage({ result: await calls[name](argument) });
  } catch (error) {
    postMessage({ error: error.message });
  }
};
