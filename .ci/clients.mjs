// Sends requests with Node's two HTTP clients through the proxy at the given URL. Prints their
// results as JSON.
import { createHash } from "node:crypto";
import http from "node:http";

const proxy = process.argv[2];
const hex = (data) => createHash("sha256").update(data).digest("hex");

async function byFetch() {
  const get = await (await fetch(`${proxy}/`)).text();
  const chunked = await (await fetch(`${proxy}/chunked`)).text();
  const data = Buffer.alloc(300_000, "f");
  const upload = new ReadableStream({
    start(controller) {
      for (let at = 0; at < data.length; at += 50_000) controller.enqueue(data.subarray(at, at + 50_000));
      controller.close();
    },
  });
  const posted = await fetch(`${proxy}/`, { method: "POST", body: upload, duplex: "half" });
  const { sha256, framing } = await posted.json();
  return { get, chunked: chunked.length, framing, isIntact: sha256 === hex(data) };
}

function request(agent) {
  return new Promise((resolve, reject) => {
    const sent = http.get(`${proxy}/`, { agent }, (answer) => {
      let body = "";
      answer.on("data", (piece) => (body += piece));
      answer.on("end", () => resolve({ body, isReused: sent.reusedSocket }));
    });
    sent.on("error", reject);
  });
}

async function byHttp() {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  let [answered, reused] = [0, 0];
  for (let count = 0; count < 200; count += 1) {
    const { body, isReused } = await request(agent);
    answered += body === "A" || body === "B" ? 1 : 0;
    reused += isReused ? 1 : 0;
  }
  agent.destroy();
  return { answered, reused };
}

console.log(JSON.stringify({ fetch: await byFetch(), http: await byHttp() }));
