// Shared by the browser tests and the screenshots: backends whose faults a test controls, the proxy
// as a process, requests at a steady rate, and Chromium.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { chromium } from "playwright-core";

const ROOT = resolve(import.meta.dirname, "../..");
/** The time limit of every wait. It only ends tests that hang. */
export const PATIENCE_MS = 60_000;

/** Returns the proxy's program: INTELLIPROXY, or the release build, or the debug build. */
export function program() {
  const builds = ["release", "debug"].map((kind) => join(ROOT, "target", kind, "intelliproxy"));
  const found = [process.env.INTELLIPROXY, ...builds].find((path) => path && existsSync(path));
  if (!found) throw new Error("build the proxy first: cargo build --release --locked");
  return found;
}

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Waits until a condition holds. */
export async function until(what, condition) {
  const end = performance.now() + PATIENCE_MS;
  while (performance.now() < end) {
    const found = await condition();
    if (found) return found;
    await pause(50);
  }
  throw new Error(`waited too long for: ${what}`);
}

async function freePort() {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** A backend. `delayMs`, `spreadMs` and `errors` (a share) may change at any time. */
export class Backend {
  constructor(name, delayMs = 5, spreadMs = 3) {
    Object.assign(this, { name, delayMs, spreadMs, errors: 0, queue: 0, busy: 0, slots: Infinity, waiting: [] });
    this.server = http.createServer((request, response) => this.answer(request, response));
    this.server.keepAliveTimeout = 60_000;
  }

  async start() {
    this.server.listen(this.port ?? 0, "127.0.0.1");
    await once(this.server, "listening");
    this.port = this.server.address().port;
    return this;
  }

  async stop() {
    this.server.close();
    this.server.closeAllConnections();
  }

  async answer(request, response) {
    request.resume();
    if (request.url === "/health") {
      await pause(this.delayMs);
      return response.end("ok");
    }
    if (request.url === "/metrics") {
      response.setHeader("Content-Type", "application/json");
      return response.end(JSON.stringify({ queueLen: this.waiting.length, cpuBusyMs: 8 * this.busy, heapUsed: 60e6 }));
    }
    if (this.busy >= this.slots) await new Promise((free) => this.waiting.push(free));
    this.busy += 1;
    await pause(this.delayMs + this.spreadMs * Math.random());
    this.busy -= 1;
    this.waiting.shift()?.();
    if (Math.random() < this.errors) response.statusCode = 500;
    response.end(`from ${this.name}\n`);
  }
}

/** The proxy as a process. */
export class Proxy {
  constructor(backends, settings = {}) {
    this.folder = mkdtempSync(join(tmpdir(), "intelliproxy-"));
    this.backends = backends;
    this.settings = settings;
  }

  async start() {
    this.port ??= await freePort();
    if (this.settings.tls) this.settings = { listen: [{ address: `127.0.0.1:${this.port}`, tls: this.settings.tls }] };
    this.adminPort ??= await freePort();
    const config = {
      listen: [`127.0.0.1:${this.port}`],
      admin: { listen: `127.0.0.1:${this.adminPort}` },
      ...this.settings,
      backends: this.backends.map(({ name, port, url }) => ({ name, url: url ?? `http://127.0.0.1:${port}` })),
    };
    this.file = join(this.folder, "proxy.json");
    writeFileSync(this.file, JSON.stringify(config));
    this.process = spawn(program(), ["--config", this.file], { stdio: ["ignore", "ignore", "pipe"] });
    let log = "";
    let listens = false;
    this.process.stderr.on("data", (bytes) => {
      listens ||= (log + bytes).includes("admin pages on");
      log = (log + bytes).slice(-20_000);
    });
    await until("the proxy listens", () => {
      if (this.process.exitCode !== null) throw new Error(`the proxy ended: ${log}`);
      return listens;
    });
    return this;
  }

  reload(backends) {
    this.backends = backends;
    const config = JSON.parse(JSON.stringify(this.settings));
    const rows = backends.map(({ name, port, url }) => ({ name, url: url ?? `http://127.0.0.1:${port}` }));
    const listen = [`127.0.0.1:${this.port}`];
    writeFileSync(this.file, JSON.stringify({ listen, admin: { listen: `127.0.0.1:${this.adminPort}` }, ...config, backends: rows }));
    this.process.kill("SIGHUP");
  }

  async stop() {
    const ended = once(this.process, "exit");
    this.process.kill("SIGTERM");
    await ended;
  }

  async end() {
    if (this.process?.exitCode === null) await this.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }

  get admin() {
    return `http://127.0.0.1:${this.adminPort}/`;
  }

  get stats() {
    return `http://127.0.0.1:${this.port}/stats`;
  }

  /** Returns the CPU time of the process so far, in seconds (Linux). */
  async cpuSeconds() {
    const text = await (await fetch(`${this.admin}metrics`)).text();
    return Number(/^process_cpu_seconds_total (\S+)/m.exec(text)[1]);
  }
}

/** Sends requests at a steady rate until `end` is called. */
export class Load {
  constructor(port, perSecond) {
    this.agent = new http.Agent({ keepAlive: true, maxSockets: 256 });
    this.perSecond = perSecond;
    let due = 0;
    this.timer = setInterval(() => {
      for (due += this.perSecond / 50; due >= 1; due -= 1) this.send(port);
    }, 20);
  }

  send(port) {
    const request = http.get({ host: "127.0.0.1", port, path: `/item/${Math.floor(Math.random() * 1000)}`, agent: this.agent });
    request.on("response", (response) => response.resume());
    // A proxy that restarts refuses connections; later requests reach it again.
    request.on("error", () => {});
  }

  end() {
    clearInterval(this.timer);
    this.agent.destroy();
  }
}

/** Starts Chromium, with further arguments for its command line. */
export async function openBrowser(more = []) {
  const paths = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
  const executablePath = paths.find((path) => path && existsSync(path));
  if (!executablePath) throw new Error("Chromium is not installed: apt-get install chromium");
  const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
  return chromium.launch({ executablePath, args: [...args, ...more, "--disable-component-update", "--disable-sync"] });
}

/** Opens the live page. Errors of the console and of the page are added to `errors`. */
export async function openPage(browser, address, errors, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") errors.push(message.text());
  });
  await page.goto(address);
  await page.waitForSelector('#connection[data-state="live"]');
  await page.waitForSelector("#rows tr");
  return page;
}
