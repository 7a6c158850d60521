// The live page in Chromium, against the real proxy: `npm test`. The name of each test says what it
// shows. The limit of a wait only ends tests that hang; times are printed, not tested.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import test, { after, before } from "node:test";
import { Backend, Load, Proxy, openBrowser, openPage, pause, until } from "./stage.mjs";

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let browser;
before(async () => (browser = await openBrowser()));
after(() => browser?.close());

/** Runs a test with backends, a proxy and a page, and ends all of them. The console must stay
 * empty, except for errors that `excused` matches. */
async function onStage({ names, settings, load: perSecond = 0, address = "admin", options }, play, excused = /$^/) {
  const backends = await Promise.all(names.map((name) => new Backend(name).start()));
  const proxy = await new Proxy(backends, settings).start();
  const load = perSecond > 0 ? new Load(proxy.port, perSecond) : null;
  const errors = [];
  try {
    const page = await openPage(browser, proxy[address], errors, options);
    await play({ page, proxy, backends, load });
    await page.context().close();
  } finally {
    load?.end();
    await proxy.end();
    await Promise.all(backends.map((backend) => backend.stop()));
  }
  assert.deepEqual(errors.filter((error) => !excused.test(error)), []);
}

const quick = { probes: { pingIntervalMs: 500, reportIntervalMs: 1000 } };
const state = (page, name) => page.locator("tr", { hasText: name }).locator(".state");

test("the page shows every backend, its traffic and its explanation, on both ports", async () => {
  for (const address of ["admin", "stats"]) {
    await onStage({ names: ["A", "B", "C"], load: 60, address }, async ({ page }) => {
      assert.equal(await page.locator("#rows tr").count(), 3);
      await until("requests per second", async () => {
        const facts = await page.locator('[data-name="requests/s"] dd').textContent();
        return Number(facts) > 20;
      });
      assert.equal(await page.locator("canvas").count() >= 6, true);
      await until("a p99", async () => /\d ms/.test(await page.locator('td[data-label="p99"]').first().textContent()));
      const current = page.locator("tr", { has: page.locator('.state[data-state="current"], .state[data-state="full"]') });
      await current.first().locator(".name button").click();
      await page.waitForSelector("dialog .why");
      await page.waitForSelector("dialog .stack");
      await page.keyboard.press("Escape");
      assert.equal(await page.locator("dialog").isVisible(), false);
    });
  }
});

test("a backend that becomes slow: the switch is on the time line and in the table", async () => {
  const settings = { routing: { ...quick, policy: "score", switch: { cooldownMs: 1000 } } };
  await onStage({ names: ["A", "B"], settings, load: 40 }, async ({ page, backends }) => {
    await until("a current backend", () => page.locator('.state[data-state="current"]').count());
    await pause(3000);
    const row = page.locator("tr", { has: page.locator('.state[data-state="current"]') });
    const name = (await row.locator(".name button").textContent()).trim();
    const slow = backends.find((backend) => backend.name === name);
    const switches = () => page.locator('.events [data-kind="switch"]').count();
    const before = await switches();
    const begun = performance.now();
    slow.delayMs = 400;
    await until("a switch on the time line", async () => (await switches()) > before);
    const seen = performance.now();
    // The event has the time of the switch, by the proxy's clock.
    const at = await page.evaluate(() => {
      const last = store.events.filter(([, , kind]) => kind === "switch").at(-1);
      return Date.now() - (last[1] + store.offset);
    });
    console.log(`# slowed to shown: ${Math.round(seen - begun)} ms; switched to shown: ${Math.round(at)} ms`);
    const text = await page.locator(".events li", { has: page.locator('[data-kind="switch"]') }).first().textContent();
    assert.match(text, /switch . -> .: better by [\d.]+ points|failover/);
    const other = backends.find((backend) => backend.name !== name);
    await until("the other one is current", async () => /current|full/.test(await state(page, other.name).textContent()));
    assert.match(await page.locator("#spoken").textContent(), /switch/);
  });
});

test("a backend that fails is shown as ejected, and returns", async () => {
  const settings = { routing: { ...quick, policy: "learned" } };
  await onStage({ names: ["A", "B", "C"], settings, load: 80 }, async ({ page, backends }) => {
    await pause(3000);
    backends[1].errors = 1;
    await page.waitForSelector('.events [data-kind="ejection"]');
    const text = await page.locator(".events li", { has: page.locator('[data-kind="ejection"]') }).first().textContent();
    assert.match(text, /B is ejected: (1 failure|\d+ failures in a row), /);
    backends[1].errors = 0;
    await page.waitForSelector('.events [data-kind="return"]');
    await page.waitForSelector(".model path");
    // The list is as high as its panel, which is as high as that of the policy.
    const rest = await page.evaluate(() => {
      const events = document.getElementById("events");
      return events.closest(".panel").getBoundingClientRect().bottom - events.getBoundingClientRect().bottom;
    });
    assert.ok(rest < 24, `${rest} pixels are empty below the time line`);
  });
});

test("a backend that is gone is shown as down", async () => {
  await onStage({ names: ["A", "B"], settings: { routing: quick } }, async ({ page, backends }) => {
    await until("B is up", async () => /up|current/.test(await state(page, "B").textContent()));
    await backends[1].stop();
    await until("B is down", async () => (await state(page, "B").getAttribute("data-state")) === "down");
    assert.equal(await page.locator('[data-name="usable"] dd').textContent(), "1 of 2");
  });
});

test("a restart of the proxy is shown, and the page recovers by itself", async () => {
  await onStage(
    { names: ["A", "B"], load: 40 },
    async ({ page, proxy }) => {
      await proxy.stop();
      await page.waitForSelector('#connection[data-state="lost"]');
      await proxy.start();
      await page.waitForSelector('#connection[data-state="live"]');
      await until("rows with traffic", async () => Number(await page.locator('[data-name="requests/s"] dd').textContent()) > 5);
      assert.equal(await page.locator("#rows tr").count(), 2);
    },
    /Failed to load resource|ERR_(CONNECTION|INCOMPLETE|EMPTY)/,
  );
});

test("a page whose place another reader got says so, does not fight for it, and returns by its button", async () => {
  await onStage({ names: ["A"] }, async ({ page, proxy }) => {
    const others = [];
    const open = () => new Promise((done, fail) => others.push(http.get(`${proxy.admin}events`, done).on("error", fail)));
    for (let count = 0; count < 12; count += 1) assert.equal((await open()).statusCode, 200);
    await page.waitForSelector('#connection[data-state="replaced"]');
    assert.match(await page.locator("#connection").textContent(), /another one took the place/);
    let asked = 0;
    page.on("request", () => (asked += 1));
    await pause(3000);
    assert.equal(asked, 0);
    await page.locator("#take-back").click();
    await page.waitForSelector('#connection[data-state="live"]');
    assert.equal(await page.locator("#take-back").isVisible(), false);
    others.forEach((request) => request.destroy());
  });
});

test("a reload adds a backend while the page is open", async () => {
  await onStage({ names: ["A", "B"] }, async ({ page, proxy, backends }) => {
    backends.push(await new Backend("C").start());
    proxy.reload(backends);
    await until("three rows", async () => (await page.locator("#rows tr").count()) === 3);
    await page.waitForSelector('.events [data-kind="reload"]');
    assert.match(await page.locator(".events").textContent(), /configuration: added C/);
  });
});

test("200 backends: all rows, a filter, sorting; the CPU time of the page is printed", async () => {
  const shared = await new Backend("shared").start();
  const names = Array.from({ length: 200 }, (_, at) => ({ name: `node-${String(at).padStart(3, "0")}`, port: shared.port }));
  const proxy = await new Proxy(names, { routing: { policy: "least_request" } }).start();
  const load = new Load(proxy.port, 200);
  const errors = [];
  try {
    const begun = performance.now();
    const page = await openPage(browser, proxy.admin, errors);
    await until("200 rows", async () => (await page.locator("#rows tr").count()) === 200);
    console.log(`# 200 rows after ${Math.round(performance.now() - begun)} ms`);
    await pause(4000);
    const session = await page.context().newCDPSession(page);
    await session.send("Performance.enable", { timeDomain: "threadTicks" });
    const spent = async () => {
      const { metrics } = await session.send("Performance.getMetrics");
      return Object.fromEntries(metrics.map(({ name, value }) => [name, 1000 * value]));
    };
    const before = await spent();
    await pause(6000);
    const after = await spent();
    const [all, script, layout] = ["TaskDuration", "ScriptDuration", "LayoutDuration"].map((name) => ((after[name] - before[name]) / 6).toFixed(1));
    console.log(`# 200 backends: ${all} ms of CPU time of the page per second, ${script} ms in scripts, ${layout} ms in layout`);
    // Only some have the colour of a line in the charts; names and URLs begin at one place in all of them.
    const places = await page.evaluate(() => {
      const text = (node) => {
        const range = document.createRange();
        range.selectNodeContents(node);
        return Math.round(range.getBoundingClientRect().left);
      };
      return [...document.querySelectorAll(".name button > :last-child, .name .url")].slice(0, 40).map(text);
    });
    assert.deepEqual([...new Set(places)].length, 1, `${places}`);
    await page.locator("#filter-text").fill("node-19");
    await until("ten rows", async () => (await page.locator("#rows tr").count()) === 10);
    await page.locator("#filter-text").fill("");
    await page.getByRole("button", { name: "Req/s" }).click();
    assert.equal(await page.locator('th[aria-sort="descending"]').textContent(), "Req/s");
    await page.context().close();
    assert.deepEqual(errors, []);
  } finally {
    load.end();
    await proxy.end();
    await shared.stop();
  }
});

/** Returns an event in the form that it has in a stream. */
const event = (name, data) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;

/** Returns the contents of the first events of a stream. */
const beginning = (page) =>
  page.evaluate(
    () =>
      new Promise((done) => {
        const source = new EventSource("events");
        const found = {};
        for (const name of ["hello", "backends"]) {
          source.addEventListener(name, ({ data }) => {
            found[name] = JSON.parse(data);
            if (found.hello && found.backends) {
              source.close();
              done(found);
            }
          });
        }
      }),
  );

/** Loads the page again with a stream that has these contents. */
async function reloadWith(page, body) {
  await page.route("**/events", (route) => route.fulfill({ contentType: "text/event-stream", body }));
  await page.reload();
}

test("rows are drawn while others are on their way, and p50 and p99 in them", async () => {
  await onStage({ names: ["A", "B"] }, async ({ page }) => {
    const { hello, backends } = await beginning(page);
    const first = backends.backends[0];
    const values = (value) => Array(hello.covered / hello.interval).fill(value);
    Object.assign(first.history, { p50: values(50), p99: values(100) });
    await reloadWith(page, event("hello", { ...hello, count: 200 }) + event("backends", { first: 0, backends: [first] }));
    await until("the first row", async () => (await page.locator("#rows tr").count()) === 1);
    // Each figure is constant, so its curve is horizontal: some rows of pixels are inked over the
    // whole width.
    const bars = () =>
      page.evaluate(() => {
        const canvas = document.querySelector("#rows canvas");
        const { width, height } = canvas;
        const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
        const isInked = (y) => Array.from({ length: width }, (_, x) => data[4 * (y * width + x) + 3]).every((alpha) => alpha > 0);
        return Array.from({ length: height }, (_, y) => isInked(y) && !(y > 0 && isInked(y - 1))).filter(Boolean).length;
      });
    await until("two lines", async () => (await bars()) === 2);
  });
});

test("the policy's pictures have their scales", async () => {
  await onStage({ names: ["A", "B"] }, async ({ page }) => {
    const { hello, backends } = await beginning(page);
    const guard = { inCharge: true, returnsInMs: null, demotions: 0, controls: 500, ratio: 0.9, interval: [0.4, 1.1], alarm: 0.1 };
    for (const backend of backends.backends) backend.row[hello.fields.indexOf("width")] = 8;
    const curves = [[[1, 10], [8, 20], [64, 160]], [[1, 5], [64, 5]]];
    const body =
      event("hello", { ...hello, pool: { ...hello.pool, policy: "learned", guard } }) + event("backends", backends) + event("model", { curves });
    await reloadWith(page, body);
    await page.waitForSelector(".gain text");
    const places = await page.evaluate(() => [...document.querySelectorAll(".gain text")].map((text) => [text.getBBox().x, text.getBBox().width]));
    assert.equal(places.length, 5);
    for (const [x, width] of places) assert.ok(x >= 0 && x + width <= 400, `a label is cut: ${x} to ${x + width}`);
    assert.equal(await page.locator(".gain path").count(), 1, "the interval goes on at its lower end");
    assert.match(await page.locator("#policy").textContent(), /10\.0 % less cost than least_request \(95 %: 60\.0 % less to 10\.0 % more\)/);
    const models = await page.locator(".model").allTextContents();
    assert.match(models[0], /1 to 64 in flight: 10 ms to 160 ms/);
    assert.match(models[1], /1 to 64 in flight: 5 ms/);
    assert.match(await page.locator(".model").first().innerText(), /to 160 ms\n/);
  });
});

test("a point of a large pool is the average of the seconds since the last one", async () => {
  await onStage({ names: ["A"] }, async ({ page }) => {
    const { hello, backends } = await beginning(page);
    const errors = hello.fields.indexOf("errors");
    const ticks = [0, 0, 10, 0, 0].map((value, at) => {
      const tick = { at: hello.at + 1000 * at, pool: hello.pool, rows: [[0, errors, value]], events: [] };
      return event("tick", tick);
    });
    await reloadWith(page, event("hello", { ...hello, interval: 5 }) + event("backends", backends) + ticks.join(""));
    await until("the point", () => page.evaluate(() => store.backends[0]?.errors.at(-1) === 2));
  });
});

test("the panel of the policy keeps a selection", async () => {
  await onStage({ names: ["A", "B"] }, async ({ page }) => {
    const { hello, backends } = await beginning(page);
    const tick = (at) => event("tick", { at: hello.at + at, pool: { ...hello.pool, holds: at }, rows: [], events: [] });
    let streams = 0;
    await page.route("**/events", (route) => {
      streams += 1;
      const body = event("hello", hello) + event("backends", backends) + tick(streams);
      return route.fulfill({ contentType: "text/event-stream", body });
    });
    await page.reload();
    await page.waitForSelector("#policy dl");
    await page.evaluate(() => getSelection().selectAllChildren(document.querySelector("#policy p")));
    const before = streams;
    await until("two more streams", () => streams >= before + 2);
    assert.notEqual(await page.evaluate(() => getSelection().toString()), "");
  });
});

test("rows beside the screen have their figures", async () => {
  const options = { viewport: { width: 360, height: 400 } };
  await onStage({ names: ["A", "B", "C", "D", "E", "F"], load: 60, options }, async ({ page }) => {
    const texts = (selector) => page.locator(selector).allTextContents();
    await until("all ages", async () => (await texts("#rows .ages .number")).every((text) => text !== ""));
    await until("all requests", async () => (await texts('#rows td[data-label="Req/s"]')).some((text) => Number(text) > 5));
    assert.ok((await texts("#rows .state")).every((text) => text !== ""));
    // A picture of the whole page has them, too.
    const isDrawn = () => [...document.querySelectorAll("#rows tr")].every((row) => row.checkVisibility({ contentVisibilityAuto: true }));
    assert.ok(await page.evaluate(isDrawn));
    // Without requests the bar of the share is empty.
    const widths = await page.evaluate(() => [...document.querySelectorAll(".share .bar > span")].map((bar) => bar.offsetWidth / bar.parentElement.offsetWidth));
    assert.ok(widths.reduce((sum, width) => sum + width) < 1.5, `${widths}`);
  });
});

test("a screen reader hears the parts of a score and which signal an age is of", async () => {
  await onStage({ names: ["A", "B"], load: 20 }, async ({ page }) => {
    const row = page.locator("#rows tr").first();
    await until("a part of the score", async () => /\d points: .*latency \d/.test(await row.locator("td.score").textContent()));
    await until("all ages", async () => /^ ping: \S.* report: \S.* request: \S/.test(await row.locator("td.ages").textContent()));
  });
});

test("a wide table of candidates scrolls visibly in a narrow window", async () => {
  const options = { viewport: { width: 360, height: 780 } };
  await onStage({ names: ["A", "B"], load: 40, options }, async ({ page }) => {
    await until("traffic", async () => Number(await page.locator('[data-name="requests/s"] dd').textContent()) > 5);
    const name = await page.evaluate(() => store.backends.find((backend) => store.figure(backend, "rps") > 0).name);
    await page.getByRole("button", { name }).first().click();
    await page.waitForSelector("dialog .scroll");
    assert.equal(await page.locator("dialog .hint").isVisible(), true);
    assert.equal(await page.evaluate(() => document.getElementById("explain").scrollWidth <= document.getElementById("explain").clientWidth), true);
    const last = page.locator("dialog th", { hasText: "Parts of the score" });
    await page.locator("dialog .scroll").focus();
    await page.keyboard.press("End");
    await page.evaluate(() => (document.querySelector("dialog .scroll").scrollLeft = 1e6));
    const box = await last.boundingBox();
    assert.ok(box.x + box.width <= 360, `its last column ends at ${box.x + box.width}`);
    await page.setViewportSize({ width: 1280, height: 800 });
    await until("no hint where all is seen", async () => !(await page.locator("dialog .hint").isVisible()));
  });
});

test("ticks between the parts of a large pool disturb nothing", async () => {
  await onStage({ names: ["A", "B"] }, async ({ page }) => {
    const { hello, backends } = await beginning(page);
    const tick = (at) => event("tick", { at, pool: hello.pool, rows: [[0, 5, 7.5]], events: [[at, at, "switch", `event ${at}`]] });
    const [first, second] = backends.backends;
    // After this many ticks the charts have chosen their backends again.
    const ticks = Array.from({ length: 35 }, (_, at) => tick(hello.at + 1000 * at)).join("");
    const body =
      event("hello", { ...hello, events: [] }) +
      event("backends", { first: 0, backends: [first] }) +
      ticks +
      event("backends", { first: 1, backends: [second] }) +
      event("tick", { at: hello.at + 40000, pool: hello.pool, rows: [[1, 5, 2.5]], events: [[hello.at + 34000, 0, "switch", "known"]] });
    // The stream ends and the page connects again, while it still shows the table of the last
    // stream.
    let streams = 0;
    await page.route("**/events", (route) => {
      streams += 1;
      return route.fulfill({ contentType: "text/event-stream", body });
    });
    await page.reload();
    await until("three streams", () => streams >= 3);
    await until("both figures", async () => (await page.locator('[data-name="requests/s"] dd').textContent()) === "10");
    await until("35 events", async () => (await page.locator(".events li").count()) === 35);
    assert.equal(await page.locator("#rows tr").count(), 2);
  });
});

test("nothing of the table is cut at 360 to 1280 pixels", async () => {
  const names = ["a-backend-with-a-long-name-in-Frankfurt", "B", "C", "D"];
  const settings = { routing: { ...quick, policy: "learned" }, limits: { perBackend: 1000 } };
  await onStage({ names, settings, load: 150, options: { viewport: { width: 1280, height: 880 } } }, async ({ page, backends }) => {
    backends[1].errors = 1;
    backends[2].delayMs = 3000;
    await page.waitForSelector('.state[data-state="ejected"]');
    const over = () => page.evaluate(() => document.getElementById("scroll").scrollWidth - document.getElementById("scroll").clientWidth);
    for (let look = 0; look < 20; look += 1) {
      assert.ok((await over()) <= 0, `${await over()} pixels of the table are cut`);
      await pause(200);
    }
    const cut = await page.evaluate(() => {
      const edge = document.getElementById("scroll").getBoundingClientRect().right;
      return [...document.querySelectorAll(".ages span")].filter((span) => span.getBoundingClientRect().right > edge).length;
    });
    assert.equal(cut, 0);
    for (const width of [1279, 1024, 901, 768, 360]) {
      await page.setViewportSize({ width, height: 880 });
      assert.ok((await over()) <= 0, `${await over()} pixels of the table are cut in a window of ${width}`);
    }
  });
});

test("hostile names, URLs and texts are shown as text", async () => {
  const backend = await new Backend("b").start();
  // The proxy refuses such names. Whatever a future version or another program sends must still be
  // shown as text.
  const hostile = '<img src=x onerror="document.title=1">"\'&</script>';
  const proxy = await new Proxy([backend]).start();
  const errors = [];
  try {
    const context = await browser.newContext();
    const page = await context.newPage();
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    await page.addInitScript((text) => {
      const parse = JSON.parse;
      JSON.parse = (json) => {
        const value = parse(json);
        for (const backend of value.backends ?? []) Object.assign(backend, { name: text + backend.name, url: text });
        if (value.decisions) for (const one of value.decisions) Object.assign(one, { why: text, backend: text + "b" });
        value.events?.push([99999, value.at, "switch", text]);
        if (value.pool) value.pool.policy = text;
        return value;
      };
    }, hostile);
    await page.goto(proxy.admin);
    await page.waitForSelector("#rows tr");
    await pause(2500);
    const text = await page.locator("body").innerText();
    assert.equal(text.split(hostile).length > 4, true, text);
    assert.equal(await page.locator("main img, dialog img").count(), 0);
    assert.equal(await page.title(), "IntelliProxy");
    await context.close();
    // A client's target, Host and Accept with the same bytes.
    const answer = await fetch(`${proxy.stats}?${encodeURI(hostile)}`, { headers: { Accept: `text/html, ${hostile.replace(/[^ -~]/g, "")}` } });
    assert.equal((await answer.text()).includes("onerror"), false);
    assert.deepEqual(errors, []);
  } finally {
    await proxy.end();
    await backend.stop();
  }
});

test("axe finds no serious fault: light, dark, narrow, and with the explanation open", async () => {
  const cases = [{ colorScheme: "light" }, { colorScheme: "dark" }, { viewport: { width: 360, height: 780 } }];
  for (const options of cases) {
    const settings = { routing: { ...quick, policy: "learned" } };
    // The page's policy allows no foreign scripts, so axe is injected in spite of it.
    await onStage({ names: ["A", "B"], settings, load: 40, options: { ...options, bypassCSP: true } }, async ({ page, backends }) => {
      backends[1].errors = 1;
      await page.waitForSelector('.events [data-kind="ejection"]');
      const check = async (what) => {
        await page.evaluate(axeSource);
        const { violations } = await page.evaluate(() => axe.run());
        const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
        const texts = serious.map(({ id, nodes }) => `${what}: ${id}: ${nodes[0].html} ${nodes[0].failureSummary}`);
        assert.deepEqual(texts, []);
        console.log(`# axe, ${what}: ${violations.map(({ id, impact }) => `${id} (${impact})`).join(", ") || "no fault"}`);
      };
      await check(JSON.stringify(options));
      await page.locator(".name button").first().click();
      await page.waitForSelector("dialog .decisions");
      await check("explanation");
    });
  }
});

test("the keyboard reaches the table, the time line and the explanation", async () => {
  await onStage({ names: ["A", "B"], settings: { routing: quick }, load: 20 }, async ({ page, backends }) => {
    // An empty time line is not shown.
    await backends[1].stop();
    await until("an event", () => page.locator(".events li").count());
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "To the table of backends");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "backends");
    const reached = new Set();
    for (let step = 0; step < 30; step += 1) {
      await page.keyboard.press("Tab");
      reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.textContent.trim()));
    }
    for (const wanted of ["Req/s", "A", "B", "events", "holds"]) assert.ok(reached.has(wanted), `${wanted} in ${[...reached]}`);
  });
});

test("five open pages with ten backends: the CPU time of the proxy is printed", async () => {
  const names = Array.from({ length: 10 }, (_, at) => `node-${at}`);
  await onStage({ names }, async ({ proxy }) => {
    const span = 10_000;
    const spent = async () => {
      const before = await proxy.cpuSeconds();
      await pause(span);
      return (100 * 1000 * ((await proxy.cpuSeconds()) - before)) / span;
    };
    const one = await spent();
    const pages = await Promise.all([1, 2, 3, 4].map(() => openPage(browser, proxy.admin, [])));
    const five = await spent();
    console.log(`# CPU of one core without traffic: ${one.toFixed(2)} % with one page, ${five.toFixed(2)} % with five`);
    await Promise.all(pages.map((page) => page.context().close()));
  });
});
