// Embed a job's tensors and files with transformers.js: node tools.mjs JOB.json, with the job's result as JSON.

import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const found = createRequire(path.join(process.cwd(), "tools.mjs")).resolve("@huggingface/transformers");
const module = await import(pathToFileURL(found).href);
const { AutoModel, RawImage, Tensor, env, pipeline } = module.pipeline ? module : module.default;
env.allowRemoteModels = false;

const job = JSON.parse(await readFile(process.argv[2], "utf8"));
const rows = {};
const extract = await pipeline("image-feature-extraction", job.folder, { dtype: job.dtype });
if (job.tensors) {
  const data = new Float32Array((await readFile(job.tensors)).buffer.slice(0));
  const length = 3 * job.height * job.width;
  rows.tensors = [];
  for (let start = 0; start < data.length; start += length) {
    const tensor = new Tensor("float32", data.slice(start, start + length), [1, 3, job.height, job.width]);
    rows.tensors.push(Array.from((await extract.model({ pixel_values: tensor })).image_embeds.data));
  }
}
rows.pipeline = [];
for (const file of job.files) rows.pipeline.push(Array.from((await extract(file)).data));

const name = { fp32: "model", fp16: "model-fp16", q8: "model-int8" }[job.dtype];
const whole = await AutoModel.from_pretrained(job.folder, { subfolder: "pixels", model_file_name: name, dtype: "fp32" });
rows.pixels = [];
for (const file of job.files) {
  const image = (await RawImage.read(file)).rgb();
  const pixels = new Tensor("uint8", image.data, [1, image.height, image.width, 3]);
  rows.pixels.push(Array.from((await whole({ image: pixels })).embedding.data));
}
await writeFile(job.out, JSON.stringify(rows));
