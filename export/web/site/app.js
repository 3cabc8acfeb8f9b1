// Search a gallery in the browser. All files are in this folder; nothing is loaded from elsewhere, nothing is sent.
//
//   gallery.json    what the gallery is: ids, dimensions, metric, how vectors are stored, which model made them
//   vectors.bin     the vectors, row by row: float32, or a byte a dimension
//   model.onnx      pixels in, embedding out: resize, crop and normalisation are inside
//   runtime/        onnxruntime-web
//   parity/         an image with the vector that it must give, to test this browser with
//
// ?backend=wasm or ?backend=webgpu in the address has the page use that one.

import { selfTest } from "./parity/self_test.js";

const SHOWN = 12;
const MAX_PIXELS = 89478485; // as Embedder allows
const LEAST_SIDE = 1024; // larger pictures are halved while their shorter side keeps as much; as Embedder does
const MAX_ASPECT = 200;
const MAX_THREADS = 4;

const at = (id) => document.getElementById(id);
let model; // what openModel returns
let gallery;
let turn = Promise.resolve(); // one search after the other
let stream = null; // of the camera

// ---- loading

async function read(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} cannot be loaded (${response.status}).`);
  return response;
}

/** Return the header, with the vectors as `rows` and what a stored value stands for: offset + scale * value. */
async function loadGallery() {
  const header = await (await read("gallery.json")).json();
  const content = await (await read("vectors.bin")).arrayBuffer();
  const bytes = header.kind === "sq8" ? 1 : 4;
  if (content.byteLength !== header.count * header.dim * bytes || header.ids.length !== header.count) {
    throw new Error("vectors.bin and gallery.json do not belong together. Write the page again.");
  }
  const rows = header.kind === "sq8" ? new Uint8Array(content) : new Float32Array(content);
  const offset = Float64Array.from(header.offset ?? new Array(header.dim).fill(0));
  const scale = Float64Array.from(header.scale ?? new Array(header.dim).fill(1));
  return { ...header, rows, offset, scale };
}

/**
 * Open the model on WebGPU where there is one that computes what it should, else on wasm.
 *
 * @returns {Promise<{ort, session, backend: string, threads: number, test, notes: string[]}>} notes: why a backend is
 *   not used.
 */
async function openModel(header) {
  const asked = new URLSearchParams(location.search).get("backend");
  const content = new Uint8Array(await (await read("model.onnx")).arrayBuffer());
  const notes = [];
  for (const backend of ["webgpu", "wasm"]) {
    const module = header.runtime.modules[backend];
    if (!module || (asked && asked !== backend)) continue;
    let session = null;
    try {
      const reason = backend === "webgpu" ? await againstWebgpu(asked === backend) : "";
      if (reason) {
        notes.push(`WebGPU: ${reason}`);
        continue;
      }
      const ort = await import(`./${module}`);
      const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MAX_THREADS) : 1;
      ort.env.wasm.numThreads = threads;
      session = await ort.InferenceSession.create(content, {
        executionProviders: [backend === "wasm" ? backend : { name: backend, forceCpuNodeNames: header.cpu_nodes }],
        logSeverityLevel: 3, // errors
      });
      const test = await selfTest(ort, session, header.encoder.precision, (name) => read(`parity/${name}`));
      if (test.ok || backend === "wasm") return { ort, session, backend, threads, test, notes };
      notes.push(`WebGPU: computes other vectors here (distance ${test.worst.toPrecision(2)}).`);
    } catch (error) {
      notes.push(`${backend === "webgpu" ? "WebGPU" : "wasm"}: ${error.message}`);
    }
    await session?.release();
  }
  throw new Error(`The model does not run in this browser. ${notes.join(" ") || `There is no backend ${asked}.`}`);
}

/** Return why WebGPU is not tried; empty where it is. On a CPU it is far slower than wasm. */
async function againstWebgpu(asked) {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) return "not offered by this browser.";
  return adapter.info?.isFallbackAdapter && !asked ? "no graphics processor." : "";
}

// ---- from a file to pixels

/**
 * Decode a picture as Embedder does: turned as EXIF says, no colour profile applied, transparent pixels on white, large
 * pictures halved.
 *
 * @returns {Promise<{rgb: Uint8Array, width: number, height: number}>}
 */
async function decode(blob, name) {
  let bitmap;
  try {
    const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
    bitmap = await createImageBitmap(blob, options);
  } catch {
    throw new Error(`This browser cannot decode ${name}. Choose a JPEG, PNG or WebP file.`);
  }
  const { width, height } = bitmap;
  try {
    if (width * height > MAX_PIXELS) {
      throw new Error(`${name} has ${width} × ${height} pixels, more than this page takes. Make it smaller.`);
    }
    if (Math.max(width, height) > MAX_ASPECT * Math.min(width, height)) {
      throw new Error(`${name} has ${width} × ${height} pixels; its sides differ more than ${MAX_ASPECT} times.`);
    }
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error(`${name} has ${width} × ${height} pixels, more than this browser can draw.`);
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    return reduced(context.getImageData(0, 0, width, height).data, width, height);
  } finally {
    bitmap.close();
  }
}

/** Return RGB of RGBA: each pixel the mean of a square of 1, 2, 4 or 8 pixels, cut off at the right and lower edge. */
function reduced(rgba, width, height) {
  const factor = [8, 4, 2].find((by) => Math.min(width, height) >= by * LEAST_SIDE) ?? 1;
  const [columns, lines] = [Math.ceil(width / factor), Math.ceil(height / factor)];
  const rgb = new Uint8Array(columns * lines * 3);
  let to = 0;
  for (let y = 0; y < height; y += factor) {
    const below = Math.min(y + factor, height);
    for (let x = 0; x < width; x += factor) {
      const right = Math.min(x + factor, width);
      let [red, green, blue] = [0, 0, 0];
      for (let row = y; row < below; row++) {
        for (let from = (row * width + x) * 4, end = (row * width + right) * 4; from < end; from += 4) {
          red += rgba[from];
          green += rgba[from + 1];
          blue += rgba[from + 2];
        }
      }
      const count = (below - y) * (right - x);
      rgb[to++] = Math.floor(red / count + 0.5);
      rgb[to++] = Math.floor(green / count + 0.5);
      rgb[to++] = Math.floor(blue / count + 0.5);
    }
  }
  return { rgb, width: columns, height: lines };
}

// ---- search

async function embed({ rgb, width, height }) {
  const image = new model.ort.Tensor("uint8", rgb, [1, height, width, 3]);
  const { embedding } = await model.session.run({ image });
  return embedding.data;
}

/** Return the k nearest rows, nearest first, of equally near ones the lower: {row, apart}, a squared distance. */
function nearest(query, k) {
  const { rows, offset, scale, dim, count } = gallery;
  const shifted = Float64Array.from(query, (value, d) => value - offset[d]);
  const best = [];
  for (let row = 0, start = 0; row < count; row++, start += dim) {
    let apart = 0;
    for (let d = 0; d < dim; d++) {
      const difference = shifted[d] - scale[d] * rows[start + d];
      apart += difference * difference;
    }
    if (best.length === k && !(apart < best[k - 1].apart)) continue;
    let place = best.length;
    while (place && best[place - 1].apart > apart) place--;
    best.splice(place, 0, { row, apart });
    if (best.length > k) best.pop();
  }
  return best;
}

/** Return cosine similarity or Euclidean distance; both vectors have length 1 where the metric is cosine. */
function score(apart) {
  return gallery.metric === "cosine" ? 1 - apart / 2 : Math.sqrt(apart);
}

function search(blob, name) {
  turn = turn.then(() => searchNow(blob, name)).catch(showError);
}

async function searchNow(blob, name) {
  showError(null);
  at("status").textContent = `Searching for ${name}.`;
  const times = [performance.now()];
  const pixels = await decode(blob, name);
  times.push(performance.now());
  const query = await embed(pixels);
  times.push(performance.now());
  const found = nearest(query, SHOWN);
  times.push(performance.now());
  showPreview(blob);
  show(found);
  if (matchMedia("(max-width: 51.9rem)").matches) at("found-heading").scrollIntoView();
  for (const [index, id] of ["decode-ms", "embed-ms", "search-ms"].entries()) {
    at(id).textContent = `${(times[index + 1] - times[index]).toFixed(1)} ms`;
  }
  at("times").hidden = false;
  at("status").textContent = `Found the nearest of ${gallery.count} images to ${name}.`;
}

// ---- what is shown: texts of others only as textContent

function showError(error) {
  at("error").hidden = error === null;
  at("error").textContent = error === null ? "" : error.message;
  if (error !== null) at("status").textContent = model ? "Ready." : "";
}

function showPreview(blob) {
  URL.revokeObjectURL(at("preview").src);
  at("preview").src = URL.createObjectURL(blob);
  at("preview").hidden = false;
}

function show(found) {
  at("none").hidden = true;
  at("found").replaceChildren(
    ...found.map(({ row, apart }) => {
      const item = document.createElement("li");
      const picture = document.createElement("img");
      picture.src = `thumbnails/${row}.jpg`;
      picture.alt = "";
      const caption = document.createElement("p");
      const number = document.createElement("span");
      number.className = "score";
      number.textContent = score(apart).toFixed(3);
      const id = document.createElement("span");
      id.className = "id";
      // Lines may break after a slash or an underscore.
      for (const part of gallery.ids[row].split(/(?<=[/_])/)) id.append(part, document.createElement("wbr"));
      caption.append(number, id);
      item.append(picture, caption);
      return item;
    }),
  );
}

function showFacts(milliseconds) {
  const { backend, threads, test, notes } = model;
  const { encoder, runtime } = gallery;
  const passed = `distance ${test.worst.toPrecision(2)}, at most ${test.results[0].limit} is allowed`;
  const facts = [
    ["Backend", backend === "webgpu" ? "WebGPU" : `wasm, ${threads} ${threads === 1 ? "thread" : "threads"}`],
    ["Self-test", `${test.ok ? "passed" : "failed"}: ${passed}`],
    ["Ready after", `${Math.round(milliseconds)} ms`],
    ["Model", `${encoder.architecture}, ${encoder.precision}, ${(encoder.bytes / 1e6).toFixed(1)} MB`],
    ["Gallery", `${gallery.count} images, ${gallery.dim} dimensions, ${gallery.kind}`],
    ["Scores", gallery.metric === "cosine" ? "cosine similarity, 1 is the same" : "Euclidean distance, 0 is the same"],
    ["Runtime", `${runtime.name} ${runtime.version}`],
  ];
  if (notes.length) facts.push(["Not used", notes.join(" ")]);
  const entries = facts.flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  });
  at("facts").replaceChildren(...entries);
}

// ---- what people do

function searchFile(file) {
  if (file) search(file, file.name || "the picture");
}

async function openCamera() {
  showError(null);
  if (!navigator.mediaDevices?.getUserMedia) {
    at("capture").click(); // pages without https: phones open their own camera
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    at("video").srcObject = stream;
    await at("video").play();
    at("live").hidden = false;
  } catch (error) {
    closeCamera();
    showError(new Error(`The camera cannot be used: ${error.message}`));
  }
}

function closeCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  at("video").srcObject = null;
  at("live").hidden = true;
}

function takePicture() {
  const [video, canvas] = [at("video"), document.createElement("canvas")];
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  canvas.toBlob((blob) => search(blob, "the picture"), "image/png");
}

function listen() {
  at("choose").addEventListener("click", () => at("file").click());
  for (const id of ["file", "capture"]) {
    at(id).addEventListener("change", (event) => {
      searchFile(event.target.files[0]);
      event.target.value = ""; // so that the same file can be chosen again
    });
  }
  at("camera").addEventListener("click", openCamera);
  at("shoot").addEventListener("click", takePicture);
  at("stop").addEventListener("click", closeCamera);
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", kind === "dragover");
    });
  }
  document.addEventListener("drop", (event) => searchFile(event.dataTransfer.files[0]));
  at("choose").disabled = at("camera").disabled = false;
}

async function start() {
  at("hint").remove();
  gallery = await loadGallery();
  model = await openModel(gallery);
  showFacts(performance.now());
  listen();
  at("status").textContent = "Ready.";
  if (!model.test.ok) {
    showError(new Error("This browser computes other vectors than it should; what is found may be wrong."));
  }
}

start().catch(showError);
