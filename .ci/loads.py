#!/usr/bin/env python3
"""Two proxies side by side in front of servers that act like vLLM or SGLang, without and with their figures.

Each server has slots and a queue, and serves /metrics with the names of vLLM or SGLang. The second server is
half as fast. Requests arrive as a Poisson process, half of them at each proxy. Prints mean, p50, p99
and the shares of the servers. Usage: .ci/loads.py [BINARY] [SECONDS] [POLICY]
"""
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time

BINARY = sys.argv[1] if len(sys.argv) > 1 else "target/debug/intelliproxy"
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 20
POLICY = sys.argv[3] if len(sys.argv) > 3 else "learned"
SERVERS, SLOTS, SERVICE_S, LOAD = 4, 4, 0.4, 0.8
SPEEDS = [1.0, 0.5, 1.0, 1.0]
# The names of the running and the waiting requests, and of the used part of the cache.
NAMES = {
    "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
    "sglang": ("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage"),
}


class Server:
    """A server with slots and a queue, first come first served."""

    def __init__(self, speed, seed, names):
        self.speed, self.random, self.names = speed, random.Random(seed), names
        self.slots = asyncio.Semaphore(SLOTS)
        self.running = self.waiting = self.served = 0

    async def start(self):
        self.server = await asyncio.start_server(self.connection, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    def metrics(self):
        values = (self.running, self.waiting, self.running / SLOTS)
        lines = (f'# TYPE {name} gauge\n{name}{{model_name="m"}} {value:.4f}\n' for name, value in zip(self.names, values))
        return "".join(lines)

    async def connection(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1]
                text = "{}"
                if path == b"/metrics":
                    text = self.metrics()
                elif path != b"/health":
                    self.waiting += 1
                    async with self.slots:
                        self.waiting -= 1
                        self.running += 1
                        await asyncio.sleep(self.random.expovariate(self.speed / SERVICE_S))
                        self.running -= 1
                    self.served += 1
                writer.write(
                    f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
                )
                await writer.drain()
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def request(port, times):
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    text = await reader.read()
    writer.close()
    assert text.startswith(b"HTTP/1.1 200 "), text
    times.append(time.monotonic() - begun)


async def run(reports, first_port):
    names = NAMES[reports.get("preset", "vllm")]
    servers = [Server(speed, seed, names) for seed, speed in enumerate(SPEEDS)]
    ports = [await server.start() for server in servers]
    proxies = []
    for number in range(2):
        config = {
            "listen": [f"127.0.0.1:{first_port + number}"],
            "backends": [
                {"name": f"s{i}", "url": f"http://127.0.0.1:{port}"} for i, port in enumerate(ports)
            ],
            "routing": {"policy": POLICY},
            "reports": reports,
        }
        file = tempfile.NamedTemporaryFile("w", suffix=".json", delete=False)
        json.dump(config, file)
        file.close()
        proxies.append(subprocess.Popen([BINARY, "--config", file.name], stderr=subprocess.DEVNULL))
    try:
        await asyncio.sleep(2)
        draws, times, tasks = random.Random(7), [], []
        rate = LOAD * SLOTS * sum(SPEEDS) / SERVICE_S
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            await asyncio.sleep(draws.expovariate(rate))
            port = first_port + draws.randrange(2)
            tasks.append(asyncio.create_task(request(port, times)))
        await asyncio.gather(*tasks)
        times = sorted(times[len(times) // 4 :])
        served = sum(server.served for server in servers)
        shares = " ".join(f"{100 * server.served / served:.1f}" for server in servers)
        at = lambda q: 1000 * times[int(q * (len(times) - 1))]
        mean = 1000 * sum(times) / len(times)
        print(
            f"{json.dumps(reports):50} {len(times)} requests: mean {mean:.0f} ms, "
            f"p50 {at(0.5):.0f} ms, p99 {at(0.99):.0f} ms, shares {shares} %",
            flush=True,
        )
    finally:
        for proxy in proxies:
            proxy.terminate()
            proxy.wait()
        for server in servers:
            server.server.close()


async def main():
    # Below the ports of outgoing connections.
    port = random.randrange(20000, 32000)
    await run({"kind": "none"}, port)
    for number, preset in enumerate(NAMES, start=1):
        await run({"preset": preset, "intervalMs": 100}, port + 2 * number)


asyncio.run(main())
