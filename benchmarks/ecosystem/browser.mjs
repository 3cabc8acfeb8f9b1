// Drive a page of demo-web in Chromium: node browser.mjs JOB.json, with what was seen as JSON in the job's "out".
//
// The job: url, chromium (the program), args (for it), files (searched one by one), rounds (how often), camera (search
// with a picture of Chromium's false camera too), pictures (a folder for screenshots, or null).

import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";

const { chromium } = createRequire(path.join(process.cwd(), "browser.mjs"))("playwright-core");
const SIZES = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 900 } };
const SECONDS = 120_000;

const job = JSON.parse(await readFile(process.argv[2], "utf8"));
const seen = { version: "", messages: [], requests: [], failed: [], searches: [] };
const args = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", ...job.args];
const browser = await chromium.launch({ executablePath: job.chromium, args });
seen.version = browser.version();
try {
  const context = await browser.newContext({ viewport: SIZES.desktop, permissions: ["camera"] });
  const page = await context.newPage();
  page.setDefaultTimeout(SECONDS);
  page.on("console", (message) => seen.messages.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => seen.messages.push(`pageerror: ${error.message}`));
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("requestfailed", (request) => seen.failed.push(request.url()));

  await page.goto("about:blank");
  seen.blank_kb = await peak(browser);
  await page.goto(job.url);
  await page.waitForSelector("#facts dt, #error:not([hidden])");
  seen.facts = await facts(page);
  seen.error = await page.textContent("#error");
  for (let round = 0; round < job.rounds && !seen.error; round++) {
    for (const file of job.files) {
      await page.evaluate(forget);
      await page.setInputFiles("#file", file);
      seen.searches.push({ file, ...(await searched(page, path.basename(file))) });
    }
  }
  seen.peak_kb = await peak(browser);
  if (job.camera && !seen.error) {
    await page.evaluate(forget);
    await page.click("#camera");
    await page.click("#shoot");
    seen.camera = await searched(page, "the picture");
  }
  if (job.pictures) {
    seen.overflow = []; // pixels that a page is too wide
    for (const [device, viewport] of Object.entries(SIZES)) {
      for (const colorScheme of ["light", "dark"]) {
        await page.setViewportSize(viewport);
        await page.emulateMedia({ colorScheme });
        seen.overflow.push(await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth));
        await page.screenshot({ path: path.join(job.pictures, `${device}-${colorScheme}.png`), fullPage: true });
      }
    }
  }
  await page.reload();
  await page.waitForSelector("#facts dt, #error:not([hidden])");
  seen.again = await facts(page);
} finally {
  await browser.close();
}
await writeFile(job.out, JSON.stringify(seen));

/** Clear, in the page, what tells that a search has ended. */
function forget() {
  document.getElementById("status").textContent = "";
  document.getElementById("error").hidden = true;
}

async function facts(page) {
  const [names, values] = [await page.locator("#facts dt").allTextContents(), await page.locator("#facts dd").allTextContents()];
  return Object.fromEntries(names.map((name, index) => [name, values[index]]));
}

/** Wait for the search for a picture; return what the page shows of it. */
async function searched(page, name) {
  const done = page.locator("#status", { hasText: `images to ${name}.` });
  await Promise.race([done.waitFor(), page.waitForSelector("#error:not([hidden])")]);
  const texts = async (selector) => await page.locator(selector).allTextContents();
  const [decode, embed, search] = (await texts("#times dd")).map((text) => parseFloat(text));
  return {
    error: await page.textContent("#error"),
    ids: await texts("#found .id"),
    scores: (await texts("#found .score")).map(Number),
    pictures: await page.locator("#found img").evaluateAll((all) => Promise.all(all.map((each) => each.decode().then(() => true, () => false)))),
    decode_ms: decode,
    embed_ms: embed,
    search_ms: search,
  };
}

/** Return the largest resident memory so far of the process that shows the page, KiB. */
async function peak(browser) {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  await session.detach();
  const sizes = processInfo.filter((each) => each.type === "renderer").map(async ({ id }) => {
    const status = await readFile(`/proc/${id}/status`, "utf8");
    return Number(/VmHWM:\s+(\d+)/.exec(status)[1]);
  });
  return Math.max(...(await Promise.all(sizes)));
}
