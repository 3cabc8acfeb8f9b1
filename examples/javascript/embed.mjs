// node embed.mjs MODEL.onnx < paths
// Reads paths of images, one a line, and writes for each its vector as a JSON list.
// Needs npm install onnxruntime-node sharp.
import { createInterface } from "node:readline";

import * as ort from "onnxruntime-node";
import sharp from "sharp";

const session = await ort.InferenceSession.create(process.argv[2]);

async function embed(path) {
  const upright = sharp(path).rotate().flatten({ background: "white" }).toColourspace("srgb");
  const { data, info } = await upright.raw().toBuffer({ resolveWithObject: true });
  const image = new ort.Tensor("uint8", data, [1, info.height, info.width, 3]);
  const { embedding } = await session.run({ image });
  return Array.from(embedding.data);
}

for await (const path of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await embed(path)));
}
