// socket.io over long polling, its default transport, through the proxy to three servers. Only one
// server knows a session, so every request of the session must reach that server.
//
// The program is target/release/intelliproxy, or the one that INTELLIPROXY names.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client";

const here = dirname(fileURLToPath(import.meta.url));
const program = process.env.INTELLIPROXY ?? join(here, "../../target/release/intelliproxy");
const folder = mkdtempSync(join(tmpdir(), "socketio-"));
const CLIENTS = 20;
const DEADLINE_MS = 60_000;
const children = new Set();

after(() => {
  children.forEach((child) => child.kill("SIGKILL"));
  rmSync(folder, { recursive: true });
});

/** Starts a process; resolves with it and the port in the first line that matches. */
function start(command, options, pattern) {
  const child = spawn(command, options, { stdio: ["ignore", "pipe", "pipe"] });
  children.add(child);
  child.once("exit", () => children.delete(child));
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => {
        const found = pattern.exec(line);
        if (found) resolve({ child, port: Number(found[1]) });
      });
    }
    child.once("exit", (code) => reject(new Error(`${command} ended with ${code}`)));
  });
}

function stop({ child }) {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  return ended;
}

function server(name, port = 0) {
  return start(process.execPath, [join(here, "server.mjs"), name, String(port)], /listening on (\d+)/);
}

function proxy(servers, routing) {
  const file = join(folder, "proxy.json");
  const backends = servers.map(({ port }, index) => ({ name: "abc"[index], url: `http://127.0.0.1:${port}` }));
  writeFileSync(file, JSON.stringify({ listen: ["127.0.0.1:0"], backends, routing }));
  return start(program, ["--config", file], /listening on http:\/\/127\.0\.0\.1:(\d+)/);
}

/** A client that keeps cookies, as browsers do, and sends all of its requests by long polling. */
function client(port) {
  return io(`http://127.0.0.1:${port}`, {
    transports: ["polling"],
    withCredentials: true,
    forceNew: true,
    reconnectionDelay: 100,
    reconnectionDelayMax: 500,
  });
}

/** Whether a new client gets three replies without losing its session. */
function works(port) {
  const socket = client(port);
  return new Promise((resolve) => {
    const end = (result) => {
      // Before it closes, which is a disconnect of its own.
      resolve(result);
      socket.close();
    };
    socket.once("connect_error", () => end(false));
    socket.once("disconnect", () => end(false));
    socket.once("connect", async () => {
      const names = [];
      for (let count = 0; count < 3; count += 1) {
        names.push(await socket.timeout(10_000).emitWithAck("who").catch(() => null));
      }
      end(names[0] !== null && names.every((name) => name === names[0]));
    });
  });
}

async function until(what, holds) {
  const end = Date.now() + DEADLINE_MS;
  while (!holds()) {
    assert.ok(Date.now() < end, `not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const sum = (results) => results.filter(Boolean).length;
const clients = (port) => Promise.all(Array.from({ length: CLIENTS }, () => works(port)));

test("without affinity sessions are lost, with a cookie none", async () => {
  const servers = await Promise.all(["a", "b", "c"].map((name) => server(name)));
  for (const policy of ["round_robin", "p2c", "least_request", "learned", "score"]) {
    const bare = await proxy(servers, { policy });
    const lost = CLIENTS - sum(await clients(bare.port));
    await stop(bare);
    const sticky = await proxy(servers, { policy, affinity: { by: "cookie" } });
    const good = sum(await clients(sticky.port));
    await stop(sticky);
    console.log(`${policy}: ${CLIENTS - lost} of ${CLIENTS} clients work, with a cookie ${good}`);
    assert.equal(good, CLIENTS, policy);
    if (policy === "round_robin") assert.ok(lost > CLIENTS / 2, `${lost} sessions were lost`);
  }
  await Promise.all(servers.map(stop));
});

test("a restarted server loses its own sessions and no others", async () => {
  const servers = await Promise.all(["a", "b", "c"].map((name) => server(name)));
  const { port, child } = await proxy(servers, { policy: "round_robin", affinity: { by: "cookie" } });
  const sockets = Array.from({ length: CLIENTS }, () => client(port));
  const losses = new Array(CLIENTS).fill(0);
  sockets.forEach((socket, index) => socket.on("disconnect", () => (losses[index] += 1)));
  await until("all clients are connected", () => sockets.every((socket) => socket.connected));
  const ask = () => Promise.all(sockets.map((socket) => socket.timeout(DEADLINE_MS).emitWithAck("who")));
  const homes = await ask();
  const own = (name) => homes.filter((home) => home === name).length;
  assert.ok(["a", "b", "c"].every((name) => own(name) >= 5), `${homes}`);
  await stop(servers[1]);
  const wasLost = (home, index) => home !== "b" || losses[index] > 0;
  await until("its clients notice", () => homes.every(wasLost));
  await until("they are connected again", () => sockets.every((socket) => socket.connected));
  servers[1] = await server("b", servers[1].port);
  // Pings find that the server is back within seconds. Its clients have moved to another one, and
  // stay there.
  await new Promise((resolve) => setTimeout(resolve, 8000));
  const then = await ask();
  homes.forEach((home, index) => {
    assert.equal(losses[index], home === "b" ? 1 : 0, `client ${index} of ${home}`);
    if (home !== "b") assert.equal(then[index], home, `client ${index} stays at ${home}`);
    else assert.notEqual(then[index], "b", `client ${index} has moved`);
  });
  const more = sum(await clients(port));
  assert.equal(more, CLIENTS, "new clients work");
  sockets.forEach((socket) => socket.close());
  await stop({ child });
  await Promise.all(servers.map(stop));
});
