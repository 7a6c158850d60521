// The reports of the lab and of replay in Chromium, from files: `node --test reports.mjs`.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import test, { after, before } from "node:test";
import { pathToFileURL } from "node:url";
import { Backend, Load, Proxy, openBrowser, pause, program } from "./stage.mjs";

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const folder = mkdtempSync(join(tmpdir(), "intelliproxy-reports-"));
let browser;
before(async () => (browser = await openBrowser()));
after(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Returns the lab's program: LAB, or the release build, or the debug build. */
function lab() {
  const builds = ["release", "debug"].map((kind) => resolve(import.meta.dirname, "../../target", kind, "lab"));
  const found = [process.env.LAB, ...builds].find((path) => path && existsSync(path));
  if (!found) throw new Error("build the lab first: cargo build --release --locked -p intelliproxy-lab");
  return found;
}

/** Runs a program that writes a report. Returns its text and the address of the report. */
function report(name, file, args) {
  const html = join(folder, name);
  const { status, stdout, stderr } = spawnSync(file, [...args, "--html", html], { encoding: "utf8" });
  assert.equal(status, 0, stderr);
  assert.ok(statSync(html).size < 1_000_000, "a report is below a megabyte");
  return { text: stdout, url: pathToFileURL(html).href };
}

/** Opens a report and scrolls through it, so that its charts are drawn. The console must be empty. */
async function withReport(url, options, play) {
  const errors = [];
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => errors.push(message.text()));
  page.on("request", (request) => {
    if (!request.url().startsWith("file:") && !request.url().startsWith("data:")) errors.push(request.url());
  });
  await page.goto(url);
  const height = await page.evaluate(() => document.documentElement.scrollHeight);
  for (let y = 0; y < height; y += 600) {
    await page.mouse.wheel(0, 600);
    await pause(30);
  }
  await play(page);
  await context.close();
  assert.deepEqual(errors, []);
}

/** Each visible chart is drawn, nothing is wider than the window, axe finds no serious fault. */
async function isSound(page) {
  const figures = await page.locator("figure[data-chart]:visible").count();
  assert.ok(figures >= 4, `${figures} charts`);
  assert.equal(await page.locator("figure[data-chart]:visible canvas").count(), figures);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => axe.run());
  const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  assert.deepEqual(serious.map(({ id, nodes }) => `${id}: ${nodes[0].html} ${nodes[0].failureSummary}`), []);
}

test("a printed report has the charts that nobody scrolled to", async () => {
  const { url } = report("print.html", lab(), ["brownout", "sinkhole", "--duration-scale", "0.1", "--seeds", "1"]);
  const page = await browser.newPage();
  await page.goto(url);
  await page.pdf();
  const figures = await page.locator("figure[data-chart]:visible").count();
  assert.ok(figures >= 4, `${figures} charts`);
  assert.equal(await page.locator("figure[data-chart]:visible canvas").count(), figures);
  await page.close();
});

const looks = [{ colorScheme: "light" }, { colorScheme: "dark" }, { viewport: { width: 360, height: 780 } }];

test("the report of the lab has the table of the text, charts, and those of another policy by choice", async () => {
  const args = ["brownout", "sinkhole", "--duration-scale", "0.2", "--seeds", "1"];
  const { text, url } = report("lab.html", lab(), args);
  // The page's policy allows no foreign scripts, so axe is injected in spite of it.
  for (const look of looks) await withReport(url, { ...look, bypassCSP: true }, isSound);
  await withReport(url, {}, async (page) => {
    const cells = await page.locator("section").nth(1).locator("tbody tr").nth(1).locator("td").allTextContents();
    const row = text.split("\n").find((line) => line.startsWith("score"));
    assert.equal(["score", ...cells].join(" "), row.trim().replace(/ +/g, " "));
    // Ten policies share eight colours: the last two are dashed, in the legend as in the chart.
    const swatches = await page.locator("figure").first().locator(".legend li").evaluateAll((items) =>
      items.map((item) => [item.textContent.split(/[\d–]/)[0], item.firstChild.hasAttribute("data-dashed")]),
    );
    assert.deepEqual(swatches.filter(([, isDashed]) => isDashed).map(([name]) => name), ["round_robin", "random"]);
    const title = page.locator("figure:visible b", { hasText: "learned: share" });
    assert.equal(await title.count(), 0);
    // Charts are drawn only when they come into view.
    await page.locator("select").first().scrollIntoViewIfNeeded();
    await page.locator("select").first().selectOption({ label: "learned" });
    await title.waitFor();
    assert.equal(await page.locator("figure:visible b", { hasText: "score: share" }).count(), 1, "of the other scenario");
  });
});

test("without JavaScript the tables are there", async () => {
  const { url } = report("plain.html", lab(), ["brownout", "--duration-scale", "0.05", "--seeds", "1"]);
  await withReport(url, { javaScriptEnabled: false }, async (page) => {
    assert.equal(await page.locator("noscript").count(), 1);
    assert.ok(await page.locator("td", { hasText: "faulty" }).first().isVisible());
  });
});

test("the reports of a recording have the figures of the text, and the switch from a slow backend", async () => {
  const backends = await Promise.all(["A", "B"].map((name) => new Backend(name).start()));
  const file = join(folder, "recording");
  const settings = { recording: { file }, routing: { policy: "score", switch: { cooldownMs: 500 } } };
  const proxy = await new Proxy(backends, settings).start();
  const load = new Load(proxy.port, 60);
  await pause(3000);
  backends.forEach((backend, at) => (backend.delayMs = at === 0 ? 400 : 5));
  await pause(3000);
  backends.forEach((backend, at) => (backend.delayMs = at === 0 ? 5 : 400));
  await pause(3000);
  load.end();
  await proxy.stop();
  await Promise.all(backends.map((backend) => backend.stop()));
  for (const [name, more] of [["check.html", []], ["again.html", ["--policy", "learned"]]]) {
    const { text, url } = report(name, program(), ["replay", file, ...more]);
    for (const look of looks) {
      await withReport(url, { ...look, bypassCSP: true }, async (page) => {
        await isSound(page);
        const over = () => [...document.querySelectorAll(".scroll")].map((box) => box.scrollWidth - box.clientWidth);
        assert.deepEqual(await page.evaluate(over), [0], "text breaks into lines");
      });
    }
    await withReport(url, {}, async (page) => {
      const shown = (await page.locator("tbody tr").allTextContents()).join(" ").replace(/\s+/g, " ");
      for (const line of text.trim().split("\n")) {
        const figures = line.slice(11).trim().replace(/\s+/g, " ");
        assert.ok(shown.includes(figures), `${figures} in ${shown}`);
      }
      const marks = await page.evaluate(() => JSON.parse(document.getElementById("report").textContent)[1].marks);
      if (more.length === 0) assert.ok(marks.some(({ label }) => label.startsWith("to ")), JSON.stringify(marks));
    });
  }
  await proxy.end();
});
