// Makes the pictures of the live page in .github/screenshots: `npm run screenshots`. They show a
// real proxy with six backends under load, and a fault of one of them.
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { Backend, Load, Proxy, openBrowser, openPage, pause, until } from "./stage.mjs";

const FOLDER = process.env.SCREENSHOTS ?? resolve(import.meta.dirname, "../../.github/screenshots");
const WARM_UP_MS = Number(process.env.WARM_UP_MS ?? 150_000);

const names = ["berlin-1", "berlin-2", "paris-1", "paris-2", "oslo-1", "oslo-2"];
const backends = await Promise.all(names.map((name, place) => new Backend(name, 9 + 3 * place, 5 + 2 * place).start()));
backends.forEach((backend) => (backend.slots = 6));
const proxy = await new Proxy(backends, { routing: { policy: "learned" } }).start();
const load = new Load(proxy.port, 420);
const browser = await openBrowser();
const errors = [];
mkdirSync(FOLDER, { recursive: true });

const shot = async (name, options, prepare = async () => {}) => {
  const page = await openPage(browser, proxy.admin, errors, options);
  await pause(2500);
  await prepare(page);
  await page.screenshot({ path: join(FOLDER, `${name}.png`), fullPage: options.whole ?? false, animations: "disabled" });
  await page.context().close();
};

try {
  // Small faults, so that the time line and the charts have something to show.
  await pause(WARM_UP_MS * 0.3);
  backends[2].delayMs = 160;
  await pause(WARM_UP_MS * 0.15);
  backends[2].delayMs = 15;
  await pause(WARM_UP_MS * 0.15);
  backends[4].errors = 0.9;
  await pause(WARM_UP_MS * 0.1);
  backends[4].errors = 0;
  await pause(WARM_UP_MS * 0.3);
  const wide = { viewport: { width: 1280, height: 880 } };
  await shot("page-light", { ...wide, colorScheme: "light" });
  await shot("page-dark", { ...wide, colorScheme: "dark" });
  await shot("page-narrow", { viewport: { width: 360, height: 780 }, colorScheme: "light" });
  await shot("page-wide", { viewport: { width: 1920, height: 800 }, colorScheme: "dark" });
  await shot("page-explain", { ...wide, colorScheme: "light" }, async (page) => {
    await page.getByRole("button", { name: "berlin-1" }).click();
    await page.waitForSelector("dialog .why");
  });
  backends[1].errors = 1;
  const page = await openPage(browser, proxy.admin, errors, { ...wide, colorScheme: "light" });
  await until("an ejection", () => page.locator('.state[data-state="ejected"]').count());
  await page.screenshot({ path: join(FOLDER, "page-fault.png"), animations: "disabled" });
  if (errors.length > 0) throw new Error(`the console has errors: ${errors.join("; ")}`);
} finally {
  load.end();
  await browser.close();
  await proxy.end();
  await Promise.all(backends.map((backend) => backend.stop()));
}
