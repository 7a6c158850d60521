#!/usr/bin/env python3
"""Backends are killed, stopped, slowed and restarted at random under load; no idempotent request may be lost.

    .ci/chaos.py [--seconds 20] [--seed 1] [--policy NAME] [--rate 300]

Four simulated servers without faults of their own are the backends of the release build of the proxy. Each of them in
turn is left alone for ten seconds. Each other one is disturbed at random in one of these ways:

  killed       SIGKILL, then started again on the same port
  paused       SIGSTOP for up to five seconds
  slowed       SIGSTOP for 40 ms of every 50 ms, for up to five seconds
  restarted    SIGTERM, then started again on the same port

Clients send GET requests over kept connections at a fixed total rate. A request is lost if its response is not 200, is
incomplete, or does not arrive. The proxy's access log shows why: failed exchanges are printed by their ends. The resident
memory and the open descriptors of the proxy are read twice a second and must not grow: the median of the last third of
the run is compared with that of the second third. The exit code is 1 if a request was lost or if either has grown.
Builds nothing: `cargo build --workspace --release --locked` comes before.
"""
import argparse
import collections
import http.client
import json
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
BACKENDS, CLIENTS = 4, 32
TURN_S = 10
# Growth beyond these bounds is a failure. Memory always varies by some hundred KiB.
MEMORY_MAX, MEMORY_SLACK, DESCRIPTORS_SLACK = 1.10, 2 * 1024 * 1024, 40
QUIET = "P_G_TO_B LOSS_IN_G LOSS_IN_B ERR_RATE SLOW_RATE CPU_LOAD_MS OVERLOAD_DROP_MULTIPLIER".split()


class Backend:
    """A simulated server that keeps its port when it is started again."""

    def __init__(self, name):
        self.name, self.port = name, 0
        self.start()

    def start(self):
        environment = {**os.environ, **dict.fromkeys(QUIET, "0"), "PORT": str(self.port)}
        self.process = subprocess.Popen(
            [TARGET / "sim", "A"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        for line in self.process.stdout:
            if match := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(match[1])
                break
        else:
            raise AssertionError(f"{self.name} did not start on port {self.port}")
        threading.Thread(target=lambda out=self.process.stdout: [None for _ in out], daemon=True).start()

    def killed(self, pause, _):
        self.process.kill()
        self.process.wait()
        pause()
        self.start()

    def restarted(self, pause, _):
        self.process.terminate()
        self.process.wait()
        pause()
        self.start()

    def paused(self, pause, _):
        self.process.send_signal(signal.SIGSTOP)
        pause()
        self.process.send_signal(signal.SIGCONT)

    def slowed(self, _, end):
        while time.monotonic() < end:
            self.process.send_signal(signal.SIGSTOP)
            time.sleep(0.04)
            self.process.send_signal(signal.SIGCONT)
            time.sleep(0.01)


class Tally:
    """Responses and losses of all clients."""

    def __init__(self):
        self.lock, self.good, self.lost, self.times = threading.Lock(), 0, [], []

    def add(self, took, loss):
        with self.lock:
            if loss is None:
                self.good += 1
                self.times.append(took)
            else:
                self.lost.append(loss)


def client(port, rate, end, tally):
    connection, due = None, time.monotonic() + random.random() / rate
    while (now := time.monotonic()) < end:
        if now < due:
            time.sleep(due - now)
        # A client that had to wait sends no burst afterwards.
        due = max(due + 1 / rate, time.monotonic() - 1 / rate)
        began, loss = time.monotonic(), None
        try:
            connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=100)
            connection.request("GET", "/")
            response = connection.getresponse()
            body = response.read()
            if response.status != 200 or not body.startswith(b"Hello from backend on port"):
                loss = f"{response.status} {body[:60]!r}"
        except Exception as error:
            loss, connection = repr(error), None
        tally.add(time.monotonic() - began, None if loss is None else f"after {time.monotonic() - began:.3f} s: {loss}")


def disturb(backend, number, dice, start, end, done):
    """Disturbs one backend, except in the turns in which it is the one left alone."""

    def turn(at):
        return int((at - start) / TURN_S) % BACKENDS

    while (now := time.monotonic()) < end:
        # A disturbance ends before the turn in which this backend is left alone.
        upto = min(now + dice.uniform(0.5, 5), end)
        if turn(now) == number or turn(upto + 1) == number:
            time.sleep(0.1)
            continue
        what = dice.choice(["killed", "paused", "slowed", "restarted"])
        getattr(backend, what)(lambda until=upto: time.sleep(max(0, until - time.monotonic())), upto)
        done[what] = done.get(what, 0) + 1
        time.sleep(dice.uniform(0.2, 3))


def watch(pid, end, seen):
    while time.monotonic() < end:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        memory = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024
        seen.append((memory, len(os.listdir(f"/proc/{pid}/fd"))))
        time.sleep(0.5)


def bad_ends(log):
    """Failed exchanges in the access log: for each reaction of the proxy, their number and the time of the first."""
    ends = collections.defaultdict(list)
    with open(log) as lines:
        for line in lines:
            if '"status":200,' not in line or '"end":"complete"' not in line:
                record = json.loads(line)
                fields = ("status", "end", "error", "why", "tries")
                ends[", ".join(f"{field} {record[field]}" for field in fields)].append(record["time"])
    return [(len(times), f"{what}; first at {times[0]}") for what, times in ends.items()]


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=20)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--policy", default="score")
    options.add_argument("--rate", type=float, default=300)
    options = options.parse_args()
    random.seed(options.seed)
    backends = [Backend(f"b{number}") for number in range(BACKENDS)]
    named = [f"--backend={backend.name}=http://127.0.0.1:{backend.port}" for backend in backends]
    folder = tempfile.TemporaryDirectory()
    log = pathlib.Path(folder.name) / "access.log"
    proxy = subprocess.Popen(
        [TARGET / "intelliproxy", "--listen=127.0.0.1:0", f"--policy={options.policy}", f"--access-log={log}", *named], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    lines = []
    try:
        for line in proxy.stderr:
            lines.append(line)
            if match := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                port = int(match[1])
                break
        else:
            raise AssertionError("".join(lines))
        threading.Thread(target=lambda: lines.extend(proxy.stderr), daemon=True).start()
        time.sleep(1)  # The first pings.
        start = time.monotonic()
        end, tally, seen, done = start + options.seconds, Tally(), [], {}
        threads = [threading.Thread(target=client, args=(port, options.rate / CLIENTS, end, tally)) for _ in range(CLIENTS)]
        for number, backend in enumerate(backends):
            dice = random.Random(f"{options.seed} {number}")
            threads.append(threading.Thread(target=disturb, args=(backend, number, dice, start, end, done)))
        threads.append(threading.Thread(target=watch, args=(proxy.pid, end, seen)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert proxy.poll() is None, "the proxy has ended:\n" + "".join(lines[-20:])
    finally:
        time.sleep(0.5)  # The access log is written every 100 ms.
        proxy.kill()
        proxy.wait()
        for backend in backends:
            backend.process.kill()
            backend.process.wait()
    times = sorted(tally.times)
    print(f"{options.policy}, seed {options.seed}, {options.seconds:.0f} s: {tally.good} whole responses, {len(tally.lost)} lost; "
          f"p50 {1000 * times[len(times) // 2]:.1f} ms, p99 {1000 * times[len(times) * 99 // 100]:.1f} ms, longest {times[-1]:.1f} s")
    print("disturbances: " + ", ".join(f"{count} {what}" for what, count in sorted(done.items())))
    for loss in tally.lost[:10]:
        print(f"  lost {loss}")
    for count, what in bad_ends(log):
        print(f"  {count} in the access log: {what}")
    third = len(seen) // 3
    (memory, descriptors), (memory_after, descriptors_after) = (
        tuple(statistics.median(column) for column in zip(*part)) for part in (seen[third : 2 * third], seen[2 * third :])
    )
    print(f"memory {memory / 2**20:.1f} -> {memory_after / 2**20:.1f} MiB, descriptors {descriptors:.0f} -> {descriptors_after:.0f}")
    has_grown = memory_after > max(memory * MEMORY_MAX, memory + MEMORY_SLACK) or descriptors_after > descriptors + DESCRIPTORS_SLACK
    return 1 if tally.lost or has_grown else 0


sys.exit(main())
