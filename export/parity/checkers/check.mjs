// Check an ONNX file in Node against this parity pack, with onnxruntime-node or onnxruntime-web:
//
//   node check.mjs ../pixels/model.onnx fp32 [onnxruntime-web]

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { selfTest } from "./self_test.js";

const [file, precision = "fp32", runtime = "onnxruntime-node"] = process.argv.slice(2);
if (!file) {
  console.error("usage: node check.mjs MODEL.onnx [fp32|fp16|int8] [onnxruntime-node|onnxruntime-web]");
  process.exit(2);
}
// The runtime is looked for where the command is run, not beside the pack.
const found = createRequire(path.join(process.cwd(), "check.mjs")).resolve(runtime);
const module = await import(pathToFileURL(found).href);
const ort = module.InferenceSession ? module : module.default;
const session = await ort.InferenceSession.create(new Uint8Array(await readFile(file)));
const read = async (name) => new Response(await readFile(new URL(name, import.meta.url)));
const { ok, results } = await selfTest(ort, session, precision, read, true);
for (const { name, distance, limit } of results) {
  const state = distance <= limit ? "ok    " : "FAILED";
  console.log(`${state} ${name.padEnd(14)} distance ${distance.toExponential(2)} (at most ${limit.toExponential(1)})`);
}
process.exit(ok ? 0 : 1);
