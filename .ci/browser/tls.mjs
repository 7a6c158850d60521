// Chromium through a TLS listener of the real proxy, with each version that the proxy speaks.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { after, before } from "node:test";
import { Backend, Proxy, openBrowser, openPage, until } from "./stage.mjs";

const folder = mkdtempSync(join(tmpdir(), "intelliproxy-tls-"));
const [chain, key] = ["chain.pem", "key.pem"].map((name) => join(folder, name));
before(() => {
  const fields = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
  const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2"];
  execFileSync("openssl", ["req", "-x509", ...kind, ...fields, "-keyout", key, "-out", chain], { stdio: "ignore" });
});
after(() => rmSync(folder, { recursive: true, force: true }));

for (const [version, options] of [["TLS 1.3", []], ["TLS 1.2", ["--ssl-version-max=tls1.2"]]]) {
  test(`${version}: the page is live, and requests and a large body pass`, async () => {
    const backends = await Promise.all(["A", "B"].map((name) => new Backend(name).start()));
    const proxy = await new Proxy(backends, { tls: { certificates: [{ chain, key }] } }).start();
    const browser = await openBrowser(options);
    const errors = [];
    try {
      const address = `https://localhost:${proxy.port}/stats`;
      // The certificate is made by this test, so no authority has signed it.
      const page = await openPage(browser, address, errors, { ignoreHTTPSErrors: true });
      const security = await (await page.reload()).securityDetails();
      assert.equal(security.protocol, version);
      assert.equal(security.subjectName, "localhost");
      const bodies = await page.evaluate(() => {
        const get = (number) => fetch(`/item/${number}`).then((response) => response.text());
        return Promise.all(Array.from({ length: 40 }, (_, number) => get(number)));
      });
      assert.equal(bodies.length, 40);
      for (const body of bodies) assert.match(body, /^from [AB]\n$/);
      const sent = await page.evaluate(async () => {
        const response = await fetch("/upload", { method: "POST", body: "x".repeat(3_000_000) });
        return [response.status, await response.text()];
      });
      assert.equal(sent[0], 200);
      assert.match(sent[1], /^from [AB]\n$/);
      // The events of the live page arrive over the same listener.
      await until("a rate of requests in the table", async () => {
        await page.evaluate(() => Promise.all([1, 2, 3].map(() => fetch("/again").then((response) => response.text()))));
        const rates = await page.locator('#rows td[data-label="Req/s"]').allTextContents();
        return rates.some((rate) => Number(rate) > 0);
      });
    } finally {
      await browser.close();
      await proxy.end();
      await Promise.all(backends.map((backend) => backend.stop()));
    }
    assert.deepEqual(errors, []);
  });
}
