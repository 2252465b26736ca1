// Looks at the pages of a folder in a headless Chromium, as a reader would: node check.mjs FOLDER [MODULES]
// FOLDER has patient.html and report.html of tests/browser.rs; MODULES has node_modules with what package.json names.
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import assert from "node:assert/strict";

const [folder, modules] = [process.argv[2], process.argv[3] ?? "."].map((path) => resolve(path));
const require = createRequire(pathToFileURL(join(modules, "package.json")));
const { chromium } = require("playwright-core");
const axe = require("axe-core").source;

const browser = await chromium.launch({ executablePath: process.env.FNDM_CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });

async function open(name, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, bypassCSP: false, ...options });
  const page = await context.newPage();
  const faults = [];
  // That pixels are read often is this program's own doing.
  const own = (words) => words.includes("willReadFrequently");
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !own(message.text())) faults.push(message.text());
  });
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("request", (request) => { if (!/^(file|data):/.test(request.url())) faults.push(`loads ${request.url()}`); });
  page.on("dialog", (dialog) => { faults.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  await page.goto(pathToFileURL(join(folder, name)).href);
  return { page, faults, context };
}

const drawn = (page, n) => page.waitForFunction((slice) => document.getElementById("viewer").dataset.drawn === slice, String(n));
// A pixel of the main view, at shares of its width and height.
const pixel = (page, x, y) => page.evaluate(([u, v]) => {
  const canvas = document.getElementById("main-view");
  return [...canvas.getContext("2d").getImageData(Math.floor(u * canvas.width), Math.floor(v * canvas.height), 1, 1).data];
}, [x, y]);
const all = (page) => page.evaluate(() => document.getElementById("main-view").toDataURL());
const text = (page, id) => page.locator(`#${id}`).textContent();

async function accessible(page, what) {
  // In a world of its own, as a reader's tool has it: the page's policy lets no other script in.
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const words = found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.html} ${n.failureSummary}`).join(" | ")}`);
  assert.deepEqual(words, [], `${what}: ${words.join("\n")}`);
  return found.passes.length;
}

const tests = {
  async "a page shows a slice, and scrolling shows another"() {
    const { page, faults } = await open("patient.html");
    await drawn(page, 2);
    assert.match(await text(page, "status"), /^Slice 6 of 24 \(in the file 19\)/);
    // tests/browser.rs: slice n is grey of 20 n + 10 at the left of the patient, 20 n + 90 at the right.
    const right = await pixel(page, 0.25, 0.9);
    const left = await pixel(page, 0.75, 0.9);
    assert.deepEqual(right, [130, 130, 130, 255]);
    assert.deepEqual(left, [50, 50, 50, 255]);
    assert.deepEqual(await page.locator(".edge").allTextContents(), ["R", "L", "A", "P"]);
    const before = await all(page);
    await page.locator("#main-view").hover();
    await page.mouse.wheel(0, -100);
    await drawn(page, 3);
    assert.notEqual(await all(page), before);
    assert.deepEqual(await pixel(page, 0.25, 0.9), [150, 150, 150, 255]);
    await page.mouse.wheel(0, 100);
    await drawn(page, 2);
    assert.equal(await all(page), before);
    assert.deepEqual(faults, []);
  },

  async "keys do what the help says"() {
    const { page, faults } = await open("patient.html");
    await drawn(page, 2);
    await page.locator("#main-view").focus();
    const presses = [["ArrowUp", 3], ["ArrowRight", 4], ["ArrowDown", 3], ["ArrowLeft", 2], ["PageUp", 7], ["PageDown", 2], ["End", 8], ["Home", 0], ["n", 1], ["n", 2], ["n", 3], ["n", 3], ["p", 2]];
    for (const [key, slice] of presses) {
      await page.keyboard.press(key);
      await drawn(page, slice);
      assert.equal(await page.locator("#slice").inputValue(), String(slice), key);
    }
    const settled = async () => { await page.waitForTimeout(150); return all(page); };
    const before = await settled();
    for (const [key, id] of [["m", "mask"], ["t", "truth"], ["a", "anomaly map"]]) {
      const box = page.locator(`#overlays input[data-title="${id}"]`);
      const on = await box.isChecked();
      await page.keyboard.press(key);
      assert.equal(await box.isChecked(), !on, key);
      assert.notEqual(await settled(), before, `${key} changes the picture`);
      await page.keyboard.press(key);
      assert.equal(await settled(), before, `${key} twice changes nothing`);
    }
    for (const key of ["-", "[", "}"]) {
      await page.keyboard.press(key);
      assert.notEqual(await settled(), before, key);
      await page.keyboard.press(key === "-" ? "+" : "r");
      assert.equal(await settled(), before, `${key} and back`);
    }
    await page.keyboard.press("2");
    assert.notEqual(await settled(), before);
    assert.equal(await page.locator("#pictures input").nth(1).isChecked(), true);
    await page.keyboard.press("?");
    assert.equal(await page.locator("#help").evaluate((help) => help.open), true);
    // Outside of the viewer keys are the browser's.
    await page.locator("a.skip").focus();
    const slice = await page.locator("#slice").inputValue();
    await page.keyboard.press("End");
    assert.equal(await page.locator("#slice").inputValue(), slice);
    assert.deepEqual(faults, []);
  },

  async "the slider, the window, the lesions' buttons and the address lead to slices"() {
    const { page, faults } = await open("patient.html");
    await drawn(page, 2);
    await page.locator("#slice").fill("5");
    await drawn(page, 5);
    const before = await pixel(page, 0.25, 0.9);
    await page.locator("#level").fill("60");
    await page.waitForTimeout(150);
    assert.ok((await pixel(page, 0.25, 0.9))[0] > before[0]);
    await page.locator("#reset").click();
    await page.locator("summary", { hasText: "Lesions: mask" }).first().click();
    await page.locator("button.go").first().click();
    await drawn(page, 2);
    await page.goto(`${page.url().split("#")[0]}#slice=8`);
    await drawn(page, 4);
    assert.deepEqual(faults, []);
  },

  async "dragging changes the window"() {
    const { page } = await open("patient.html");
    await drawn(page, 2);
    const box = await page.locator("#main-view").boundingBox();
    await page.mouse.move(box.x + 100, box.y + 100);
    await page.mouse.down();
    await page.mouse.move(box.x + 160, box.y + 60);
    await page.mouse.up();
    assert.notEqual(await page.locator("#width").inputValue(), "255");
    assert.notEqual(await page.locator("#level").inputValue(), "128");
  },

  async "another method brings its own maps"() {
    const { page } = await open("patient.html");
    await drawn(page, 2);
    const before = await all(page);
    await page.locator("#method").selectOption("second");
    await page.waitForTimeout(200);
    assert.notEqual(await all(page), before);
  },

  async "hostile names are words"() {
    const { page, faults } = await open("hostile.html");
    await page.waitForTimeout(300);
    assert.equal(await page.locator("h1").textContent(), "</script><img src=x onerror=globalThis.touched=1>");
    assert.equal(await page.evaluate(() => globalThis.touched), undefined);
    assert.deepEqual(faults, []);
  },

  async "the index sorts, filters and leads to pages"() {
    const { page, faults } = await open("report.html");
    const names = () => page.locator("tbody tr:not([hidden]) th a").allTextContents();
    assert.deepEqual(await names(), ["p2", "p10", "p1"]);
    await page.locator("button.sort", { hasText: "Patient" }).click();
    assert.deepEqual(await names(), ["p1", "p2", "p10"]);
    await page.locator("button.sort", { hasText: "Volume" }).click();
    assert.deepEqual(await names(), ["p10", "p1", "p2"]);
    await page.locator("button.sort", { hasText: "Volume" }).click();
    assert.deepEqual(await names(), ["p1", "p10", "p2"]);
    assert.equal(await page.locator("th[aria-sort=descending]").count(), 1);
    await page.locator("#filter").fill("p1");
    assert.deepEqual(await names(), ["p1", "p10"]);
    assert.equal(await text(page, "shown"), "2 of 3");
    await page.locator("tbody a", { hasText: "p10" }).click();
    await page.waitForURL(/patient\.html$/);
    assert.deepEqual(faults, []);
  },

  async "axe finds nothing, light and dark, wide and narrow"() {
    for (const name of ["patient.html", "report.html"]) {
      for (const colorScheme of ["light", "dark"]) {
        for (const width of [1280, 380]) {
          // The policy of the page is not what is tested here.
          const { page, context } = await open(name, { colorScheme, viewport: { width, height: 800 }, bypassCSP: true });
          await page.evaluate(() => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
          const passes = await accessible(page, `${name}, ${colorScheme}, ${width}`);
          assert.ok(passes > 10);
          const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          assert.ok(overflow <= 1, `${name} at ${width} is ${overflow} pixels too wide`);
          await context.close();
        }
      }
    }
  },

  async "the focus is seen"() {
    const { page } = await open("patient.html");
    await drawn(page, 2);
    for (let n = 0; n < 25; n += 1) {
      await page.keyboard.press("Tab");
      const outline = await page.evaluate(() => {
        const seen = (e) => { const s = getComputedStyle(e); return s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2; };
        const e = document.activeElement;
        return e === document.body || seen(e) || (e.closest("label") !== null && seen(e.closest("label"))) ? "" : e.outerHTML;
      });
      assert.equal(outline, "");
    }
  },

  async "reduced motion and no program"() {
    const { page } = await open("patient.html", { reducedMotion: "reduce" });
    await drawn(page, 2);
    const { page: plain } = await open("patient.html", { javaScriptEnabled: false });
    assert.ok((await plain.locator("main").textContent()).includes("Volumes and lesions"));
  },
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    console.log(`ok   ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}\n${error.stack}`);
  }
}
if (process.env.FNDM_SCREENSHOTS) {
  for (const [name, scheme] of [["patient", "light"], ["patient", "dark"], ["report", "light"]]) {
    const { page } = await open(`${name}.html`, { colorScheme: scheme });
    await page.waitForTimeout(500);
    await page.screenshot({ path: join(process.env.FNDM_SCREENSHOTS, `${name}-${scheme}.png`), fullPage: true });
  }
}
console.log(await browser.version());
await browser.close();
console.log(`${Object.keys(tests).length - failed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
