#!/usr/bin/env python3
"""The addresses behind a name change, and its resolver hangs and ends, under load; no request may fail.

    .ci/names.py [BINARY]

The script starts a dnsmasq that resolves the name of the backends. It runs in separate namespaces, where it may use port 53
and /etc/resolv.conf names it. The name has two addresses, then three, then one, then two. After each change the shares of
the addresses must become equal within 20 s; the time that it took is printed. With the resolver stopped (SIGSTOP), and then
killed, the shares must stay equal. The exit code is 1 if a request failed or if shares are wrong. If the system permits no
namespaces, the script reports that and its exit code is 0. Builds nothing: `cargo build --workspace --release --locked`
comes before.
"""
import collections
import http.client
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
BINARY = sys.argv[1] if len(sys.argv) > 1 else str(TARGET / "intelliproxy")
INSIDE = "INTELLIPROXY_NAMES_INSIDE"
ADDRESSES = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
BACKEND_PORT, PROXY_PORT, CLIENTS = 8000, 8080, 4
# The number of latest responses that determine the shares, and the permitted deviation of a share.
WINDOW, SLACK = 200, 0.1
EQUAL_WITHIN_S, OUTAGE_S = 20, 8


def enter():
    """Runs this script again in namespaces of its own, as root there."""
    why = "no unshare"
    for flags in (["--net", "--mount"], ["--map-root-user", "--net", "--mount"]):
        command = ["unshare", *flags]
        try:
            test = subprocess.run(
                [*command, "sh", "-c", "ip link set lo up && mount --bind /dev/null /etc/resolv.conf"], capture_output=True, text=True
            )
        except FileNotFoundError:
            break
        if test.returncode == 0:
            environment = {**os.environ, INSIDE: "1"}
            sys.exit(subprocess.run([*command, sys.executable, *sys.argv], env=environment).returncode)
        why = test.stderr.strip() or f"code {test.returncode}"
    print(f"names: skipped, no network and mount namespaces are permitted here: {why}")
    sys.exit(0)


class Backend(http.server.BaseHTTPRequestHandler):
    """Responds with its address."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.server.server_address[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Clients:
    """Sends requests over kept connections, and keeps the addresses of the last responses."""

    def __init__(self):
        self.last = collections.deque(maxlen=WINDOW)
        self.good, self.failed, self.is_over = 0, [], False
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def work(self):
        connection = http.client.HTTPConnection("127.0.0.1", PROXY_PORT, timeout=30)
        while not self.is_over:
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                body = response.read().decode()
                if response.status != 200:
                    raise ValueError(f"{response.status} {body}")
                self.good += 1
                self.last.append(body)
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                connection.close()
            time.sleep(0.01)

    def shares(self):
        """The part of each address in the last responses."""
        last = list(self.last)
        return {address: last.count(address) / len(last) for address in sorted(set(last))}

    def are_equal(self, addresses):
        shares = self.shares()
        is_near = all(abs(share - 1 / len(addresses)) <= SLACK for share in shares.values())
        return sorted(shares) == sorted(addresses) and is_near

    def await_equal(self, addresses, what):
        begun = time.monotonic()
        self.last.clear()
        while len(self.last) < WINDOW or not self.are_equal(addresses):
            if time.monotonic() - begun > EQUAL_WITHIN_S:
                raise SystemExit(f"names: {what}: shares are {self.shares()} after {EQUAL_WITHIN_S} s")
            time.sleep(0.05)
        print(f"{what}: equal shares of {len(addresses)} after {time.monotonic() - begun:.1f} s", flush=True)

    def stay_equal(self, addresses, what):
        end = time.monotonic() + OUTAGE_S
        while time.monotonic() < end:
            time.sleep(0.1)
            if not self.are_equal(addresses):
                raise SystemExit(f"names: {what}: shares are {self.shares()}")
        print(f"{what}: shares are unchanged for {OUTAGE_S} s", flush=True)


def await_port(port):
    end = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise SystemExit(f"names: nothing listens on port {port}")
            time.sleep(0.05)


def main():
    if INSIDE not in os.environ:
        enter()
    with tempfile.TemporaryDirectory(prefix="intelliproxy-names-") as folder:
        run(pathlib.Path(folder))


def run(folder):
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
    (folder / "nsswitch.conf").write_text("hosts: files dns\n")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for file in ("resolv.conf", "nsswitch.conf"):
        if os.path.exists(f"/etc/{file}"):
            subprocess.run(["mount", "--bind", folder / file, f"/etc/{file}"], check=True)

    hosts = folder / "hosts"

    def name(addresses):
        hosts.write_text("".join(f"{address} svc.test\n" for address in addresses))

    name(ADDRESSES[:2])
    for address in ADDRESSES:
        server = http.server.ThreadingHTTPServer((address, BACKEND_PORT), Backend)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    resolver = subprocess.Popen(
        # With --no-daemon it keeps its user, because a user namespace may not change groups.
        "dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts --local-ttl=0 "
        f"--listen-address=127.0.0.1 --bind-interfaces --addn-hosts={hosts}".split(),
        stderr=subprocess.DEVNULL,
    )
    await_port(53)
    config = {
        "listen": [f"127.0.0.1:{PROXY_PORT}"],
        "routing": {"policy": "round_robin"},
        "health": {"kind": "tcp"},
        "reports": {"kind": "none"},
        "discovery": {"resolveMs": 1000},
        "backends": [{"name": "svc", "url": f"http://svc.test:{BACKEND_PORT}", "expand": True}],
    }
    (folder / "proxy.json").write_text(json.dumps(config))
    with open(folder / "log", "w") as log:
        proxy = subprocess.Popen([BINARY, "--config", folder / "proxy.json"], stdout=log, stderr=log)
    try:
        await_port(PROXY_PORT)
        clients = Clients()
        clients.await_equal(ADDRESSES[:2], "two addresses")
        for addresses, what in [(ADDRESSES, "three"), (ADDRESSES[:1], "one"), (ADDRESSES[1:], "two others")]:
            name(addresses)
            resolver.send_signal(signal.SIGHUP)
            clients.await_equal(addresses, what)
        resolver.send_signal(signal.SIGSTOP)
        clients.stay_equal(ADDRESSES[1:], "resolver stopped")
        resolver.kill()
        resolver.wait()
        clients.stay_equal(ADDRESSES[1:], "resolver killed")
        clients.is_over = True
        for thread in clients.threads:
            thread.join()
        print(f"{clients.good} requests were good, {len(clients.failed)} failed")
        if clients.failed or proxy.poll() is not None:
            raise SystemExit(f"names: failed: {clients.failed[:5]}, proxy's code {proxy.poll()}")
    except SystemExit:
        print((folder / "log").read_text()[-4000:])
        raise
    finally:
        for process in (proxy, resolver):
            if process.poll() is None:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
