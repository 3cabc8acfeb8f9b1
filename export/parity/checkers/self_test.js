// Compare a session's vectors with those of a parity pack: at start-up, before the first result is shown.
//
//   import * as ort from "onnxruntime-web/webgpu";
//   import { selfTest } from "./parity/self_test.js";
//   const { ok, worst } = await selfTest(ort, session, "fp16", (name) => fetch(`parity/${name}`));
//   if (!ok) { /* this execution provider computes something else: fall back to wasm */ }

/**
 * @param ort onnxruntime-web, onnxruntime-node or another module with its Tensor.
 * @param session a session of a file that takes pixels.
 * @param precision of the file: "fp32", "fp16" or "int8".
 * @param read takes the name of a file of the pack, returns a response as fetch does.
 * @param all true to try all images, false for the smallest alone.
 * @returns {Promise<{ok: boolean, worst: number, results: {name: string, distance: number, limit: number}[]}>} worst is
 *   the largest distance from an expected vector, in the unit of the pack.
 */
export async function selfTest(ort, session, precision, read, all = false) {
  const manifest = await (await read("manifest.json")).json();
  const about = manifest.precisions[precision];
  if (!about) throw new Error(`The parity pack has no vectors for ${precision}.`);
  const expected = new Float32Array(await (await read(about.expected)).arrayBuffer());
  const size = (image) => image.height * image.width;
  const smallest = manifest.images.reduce((one, other) => (size(other) < size(one) ? other : one));
  const results = [];
  for (const [index, image] of manifest.images.entries()) {
    if (!all && image !== smallest) continue;
    const pixels = new Uint8Array(await (await read(image.pixels)).arrayBuffer());
    const tensor = new ort.Tensor("uint8", pixels, [1, image.height, image.width, 3]);
    const { embedding } = await session.run({ image: tensor });
    const vector = expected.subarray(index * manifest.dim, (index + 1) * manifest.dim);
    results.push({ name: image.pixels, distance: distance(embedding.data, vector) / about.unit, limit: about.tolerance });
  }
  const worst = Math.max(...results.map((result) => result.distance));
  return { ok: results.every((result) => result.distance <= result.limit), worst, results };
}

/** Return the distance of two vectors; infinite where one is not a number, or of another length. */
export function distance(found, expected) {
  if (found.length !== expected.length) return Infinity;
  let apart = 0;
  for (let i = 0; i < expected.length; i++) apart += (found[i] - expected[i]) ** 2;
  return Number.isNaN(apart) ? Infinity : Math.sqrt(apart);
}
