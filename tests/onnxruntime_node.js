// Runs one ONNX model in onnxruntime-node: `node onnxruntime_node.js JOB.json`, which `onnxruntime_node.py` writes.
// The job names the package's folder, the model, and each input's type, shape and file of raw little-endian values.
// The outputs go into the job's folder in the same way, and the last line printed says what they are.
"use strict";
const fs = require("fs");
const path = require("path");

const ARRAYS = {
  bool: Uint8Array,
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
};

function read(ort, folder, input) {
  const raw = fs.readFileSync(path.join(folder, input.file));
  // A copy, because a view needs an aligned start.
  const bytes = raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length);
  return new ort.Tensor(input.type, new ARRAYS[input.type](bytes), input.shape);
}

function write(folder, name, tensor, index) {
  const file = `output${index}.bin`;
  const data = tensor.data;
  fs.writeFileSync(path.join(folder, file), Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  return { name, type: tensor.type, shape: tensor.dims, file };
}

async function main() {
  const job = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
  const ort = require(job.package);
  const options = { executionProviders: ["cpu"], intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 3 };
  const session = await ort.InferenceSession.create(job.model, options);
  const feeds = Object.fromEntries(job.inputs.map((input) => [input.name, read(ort, job.folder, input)]));
  const results = await session.run(feeds);
  const outputs = session.outputNames.map((name, index) => write(job.folder, name, results[name], index));
  console.log(JSON.stringify(outputs));
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
