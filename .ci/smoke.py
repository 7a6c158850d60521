#!/usr/bin/env python3
"""The end-to-end smoke: real clients through the release build of the proxy, over real sockets.

    .ci/smoke.py [NAME ...]    runs the checks of these names, or all

Builds nothing: `cargo build --workspace --release --locked` comes before. Ports are free ones of the system.
Waits have deadlines that only a failure reaches; nothing else is judged by the clock.
"""
import hashlib
import http.client
import importlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request

sys.dont_write_bytecode = True  # Nothing of this is left in the clone.
from origin import BLOCK, Origin, digest_of_blocks

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
DEADLINE_S = 60
MIB = 1024 * 1024
QUIET = "P_G_TO_B LOSS_IN_G LOSS_IN_B ERR_RATE SLOW_RATE CPU_LOAD_MS OVERLOAD_DROP_MULTIPLIER".split()


def wait_until(what, holds):
    """Calls `holds` until its result is true, and returns the result."""
    end = time.monotonic() + DEADLINE_S
    while not (result := holds()):
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)
    return result


def say(text):
    print(f"   {text}", flush=True)


class Program:
    """A process whose lines are read. It is killed at the end of its context."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )
        self.lines = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(map(str.rstrip, self.process.stdout)), daemon=True)
        self.reader.start()

    def find(self, pattern):
        return [match for line in list(self.lines) if (match := re.search(pattern, line))]

    def wait_for(self, pattern):
        def look():
            assert self.process.poll() is None or self.find(pattern), f"it has ended: {self.lines}"
            return self.find(pattern)

        return wait_until(f"a line with {pattern}", look)[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.reader.join(DEADLINE_S)


class Proxy(Program):
    def __init__(self, backends, *arguments):
        named = [f"--backend={name}={url}" for name, url in backends.items()]
        super().__init__([TARGET / "intelliproxy", "--listen=127.0.0.1:0", *named, *arguments])
        self.port = int(self.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)

    def stats(self):
        with urllib.request.urlopen(f"{self.url}/stats", timeout=DEADLINE_S) as answer:
            return {backend["name"]: backend for backend in json.load(answer)}

    def switches(self):
        return self.find(r"switch \w+ -> \w+.*")

    def memory(self):
        """Resident memory in bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status")
        if status.exists():
            return int(re.search(r"VmRSS:\s+(\d+) kB", status.read_text())[1]) * 1024
        return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(self.process.pid)])) * 1024


def server(name, port=0, **settings):
    """The simulated server, with only the faults that `settings` define."""
    environment = {**os.environ, **dict.fromkeys(QUIET, "0"), "PORT": str(port), **settings}
    program = Program([TARGET / "sim", name], env=environment)
    program.port = int(program.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1])
    program.url = f"http://127.0.0.1:{program.port}"
    return program


def get(connection, path="/"):
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, f"{answer.status} {body[:100]}"
    return body


def post(connection, body, **options):
    connection.request("POST", "/", body=body, **options)
    return json.loads(connection.getresponse().read())


def blocks(count):
    for _ in range(count):
        yield BLOCK


def curl(*arguments):
    return subprocess.check_output(["curl", "--silent", "--show-error", "--fail", "--max-time", "120", *arguments])


def check_clients():
    """curl, http.client, urllib, Node's fetch and http: each with all its methods and framings."""
    with Origin("A") as origin, Proxy({"A": origin.url}) as proxy:
        assert curl(proxy.url) == b"A"
        assert b"HTTP/1.1 200" in curl("--head", proxy.url)
        assert curl("--http1.0", proxy.url) == b"A"
        assert len(curl(f"{proxy.url}/chunked")) == 70_002
        assert json.loads(curl("--data", "x" * 5000, proxy.url))["bytes"] == 5000
        body = b"y" * 3_000_000
        upload = subprocess.run(
            ["curl", "--silent", "--fail", "--upload-file", "-", proxy.url], input=body, stdout=subprocess.PIPE, check=True, timeout=120
        )
        answer = json.loads(upload.stdout)
        assert answer == {"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body), "framing": "chunked"}, answer
        say("curl: GET, HEAD, HTTP/1.0, POST, chunked download and upload")

        connection = proxy.connection()
        assert get(connection) == b"A"
        local = connection.sock.getsockname()
        assert len(get(connection, "/chunked")) == 70_002
        assert post(connection, b"z" * 100_000)["framing"] == "length"
        answer = post(connection, blocks(3), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        assert answer == {"sha256": digest_of_blocks(3), "bytes": 3 * MIB, "framing": "chunked"}, answer
        assert connection.sock.getsockname() == local
        say("http.client: GET, POST, chunked both ways, all on one connection")

        request = urllib.request.Request(proxy.url, data=b"w" * 1000, method="PUT")
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            assert json.load(answer)["bytes"] == 1000
        say("urllib.request: PUT")

        script = pathlib.Path(__file__).with_name("clients.mjs")
        seen = json.loads(subprocess.check_output(["node", script, proxy.url], timeout=120))
        assert seen["fetch"] == {"get": "A", "chunked": 70_002, "framing": "chunked", "isIntact": True}, seen
        assert seen["http"] == {"answered": 200, "reused": 199}, seen
        say(f"Node: fetch {seen['fetch']}, http {seen['http']}")


def check_websocket():
    """The PyPI package websockets, client and server, with the proxy's tunnel between them."""
    websockets = with_websockets()
    from websockets.sync.client import connect
    from websockets.sync.server import serve

    def echo(socket):
        for message in socket:
            socket.send(message)

    def health(connection, request):
        return connection.respond(200, "OK\n") if request.path in ("/health", "/metrics") else None

    with serve(echo, "127.0.0.1", 0, process_request=health, max_size=None) as backend:
        threading.Thread(target=backend.serve_forever, daemon=True).start()
        port = backend.socket.getsockname()[1]
        with Proxy({"A": f"http://127.0.0.1:{port}"}) as proxy:
            with connect(f"ws://127.0.0.1:{proxy.port}/chat", max_size=None, proxy=None) as client:
                sent = 0
                for message in ["hello", "", "ü" * 1000, BLOCK * 4, *[f"message {count}" for count in range(1000)]]:
                    client.send(message)
                    assert client.recv(timeout=DEADLINE_S) == message
                    sent += 1
            say(f"websockets {websockets.__version__}: {sent} messages of up to 4 MiB there and back")


def check_upload():
    """100 MB posted with a length, and in chunks; the other end hashes them."""
    with Origin("A") as origin, Proxy({"A": origin.url}) as proxy:
        count = 100
        before, expected = proxy.memory(), digest_of_blocks(count)
        for framing, headers in [("length", {"Content-Length": str(count * MIB)}), ("chunked", {"Transfer-Encoding": "chunked"})]:
            answer = post(proxy.connection(), blocks(count), headers=headers, encode_chunked=framing == "chunked")
            assert answer == {"sha256": expected, "bytes": count * MIB, "framing": framing}, answer
            say(f"POST of {count} MiB, {framing}: hash agrees; proxy {before // 1024} KiB before, {proxy.memory() // 1024} KiB after")


def check_download():
    """1 GiB downloaded by a client that stops for a while: the bytes are right and the proxy's memory stays flat."""
    count = 1024
    with Origin("A") as origin, Proxy({"A": origin.url}) as proxy:
        connection = proxy.connection()
        get(connection)
        before = most = proxy.memory()
        connection.request("GET", f"/blocks/{count}")
        answer, digest, size = connection.getresponse(), hashlib.sha256(), 0
        while piece := answer.read(MIB):
            digest.update(piece)
            size += len(piece)
            if size % (64 * MIB) == 0:
                if size == 512 * MIB:
                    time.sleep(1)  # The reader pauses. The proxy must not buffer all that arrives meanwhile.
                most = max(most, proxy.memory())
        assert size == count * MIB and digest.hexdigest() == digest_of_blocks(count)
        growth = most - before
        say(f"GET of {count} MiB: hash agrees; proxy {before // 1024} KiB before, {most // 1024} KiB at most")
        assert growth < 8 * MIB, f"grew by {growth} bytes"


def check_keep_alive():
    """10 000 requests on one connection."""
    with server("A") as backend, Proxy({"A": backend.url}) as proxy:
        connection, count = proxy.connection(), 10_000
        expected = f"Hello from backend on port {backend.port}".encode()
        connection.connect()
        local, began, before = connection.sock.getsockname(), time.monotonic(), proxy.memory()
        for _ in range(count):
            assert get(connection) == expected
        assert connection.sock.getsockname() == local
        took = time.monotonic() - began
        say(f"{count} requests on one connection: all answered, {count / took:.0f} a second by http.client; "
            f"proxy {before // 1024} KiB before, {proxy.memory() // 1024} KiB after")


def check_failover():
    """The process that serves is killed during 2 000 requests: no client notices. It returns, and the other one may go."""
    slow = {"SLOW_RATE": "1", "SLOW_MS": "2"}  # Ensures that requests are always in flight.
    servers = {name: server(name, **slow) for name in "AB"}
    ports = {name: servers[name].port for name in servers}
    try:
        with Proxy({name: servers[name].url for name in servers}) as proxy:
            wait_until("both are up", lambda: all(backend["alive"] for backend in proxy.stats().values()))
            get(proxy.connection())
            for _ in range(2):
                stats = proxy.stats()
                victim = next(name for name in stats if stats[name]["current"])
                failures, answers = requests_while(proxy, 2000, lambda: servers[victim].process.kill())
                servers[victim].process.wait()
                assert not failures, failures[:5]
                other = next(name for name in servers if name != victim)
                assert answers[ports[victim]] and answers[ports[other]], answers
                say(f"{victim} killed during 2000 requests: none failed, answers by port {answers}; {proxy.switches()[-1][0]}")
                wait_until("it is seen to be down", lambda: proxy.stats()[victim]["alive"] is False)
                servers[victim] = server(victim, port=ports[victim], **slow)
                wait_until("it is up again", lambda: proxy.stats()[victim]["alive"])
                say(f"{victim} started again: up")
    finally:
        for program in servers.values():
            program.__exit__()


def requests_while(proxy, count, act, threads=8):
    """Sends `count` requests from some threads, and acts after a quarter of them. Returns the failures, and the responses by port."""
    failures, answers, done, lock = [], {}, 0, threading.Lock()

    def client():
        nonlocal done
        connection = proxy.connection()
        for _ in range(count // threads):
            try:
                port = int(get(connection).rsplit(b" ", 1)[1])
            except Exception as error:  # The test looks for any fault that a client can see.
                with lock:
                    failures.append(repr(error))
                connection = proxy.connection()
                continue
            with lock:
                answers[port] = answers.get(port, 0) + 1
                done += 1
                is_time = done == count // 4
            if is_time:
                act()

    clients = [threading.Thread(target=client) for _ in range(threads)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return failures, answers


def check_slow_backend():
    """The backend that serves becomes slow: traffic moves with its next ping, once, and the log says why."""
    with Origin("A") as a, Origin("B") as b, Proxy({"A": a.url, "B": b.url}) as proxy:
        connection, slow, fast = chosen_first(proxy, a, b)
        slow.delay, pings = 0.6, slow.pings
        requests = 1
        while get(connection) == slow.answer:
            requests += 1
            assert requests < 1000, "it stays with the slow one"
        rounds = slow.pings - pings
        say(f"{slow.name} slow by 600 ms: {fast.name} after {rounds} slow ping(s) and {requests} request(s); {proxy.wait_for('switch .*')[0]}")
        # One ping may have been in progress when it became slow.
        assert 1 <= rounds <= 2, rounds
        assert len(proxy.find(rf"switch {slow.name} -> {fast.name}: better by [\d.]+ points")) == 1, proxy.lines
        later, moved = slow.pings + 2, fast.requests
        while slow.pings < later:
            assert get(connection) == fast.answer
            time.sleep(0.05)
        assert len(proxy.switches()) == 1, proxy.lines
        say(f"two ping rounds and {fast.requests - moved} requests later: still {fast.name}, one switch in all")


def check_small_difference():
    """The backend that serves is a little slower for twenty pings: it stays, and the log says what is missing."""
    # A threshold far above what a busy machine adds to a ping, and a difference of half of it.
    arguments = ["--threshold=400", "--ping-interval-ms=100"]
    with Origin("A") as a, Origin("B") as b, Proxy({"A": a.url, "B": b.url}, *arguments) as proxy:
        connection, slow, fast = chosen_first(proxy, a, b)
        slow.delay, end = 0.2, slow.pings + 20
        while slow.pings < end:
            assert get(connection) == slow.answer
        held = proxy.wait_for(f"hold {slow.name}: {fast.name} is better, [0-9.]+ points below the threshold")
        scores = {name: round(backend["score"]) for name, backend in proxy.stats().items()}
        say(f"scores {scores}: {held[0]}; {len(proxy.switches())} switches")
        assert not proxy.switches(), proxy.lines


def chosen_first(proxy, a, b):
    """A connection, and the two origins: first the one that serves."""
    wait_until("both are up", lambda: all(backend["alive"] for backend in proxy.stats().values()))
    connection = proxy.connection()
    serving = get(connection)
    assert not proxy.switches()
    return connection, *((a, b) if serving == a.answer else (b, a))


def check_stop():
    """SIGTERM during a response: the response is completed, then the proxy exits with 0."""
    with Origin("A") as origin, Proxy({"A": origin.url}) as proxy:
        connection = proxy.connection()
        connection.request("GET", "/blocks/64")
        answer = connection.getresponse()
        size = len(answer.read(MIB))
        proxy.process.send_signal(signal.SIGTERM)
        proxy.wait_for("stopping: 1 clients are connected")
        size += len(answer.read())
        assert size == 64 * MIB, size
        assert proxy.process.wait(DEADLINE_S) == 0
        say("SIGTERM inside a download of 64 MiB: it came whole, exit code 0")


def check_reload():
    """SIGHUP under load: backends come, go and move, a bad file changes nothing, and no client sees any of it."""
    file = pathlib.Path(SCRATCH, "reload.json")

    def write(**backends):
        listed = [{"name": name, "url": server.url} for name, server in backends.items()]
        file.write_text(json.dumps({"backends": listed, "routing": {"policy": "round_robin"}}))

    with server("A") as a, server("B") as b, server("A") as c:
        write(A=a, B=b)
        with Proxy({}, "--config", file) as proxy:

            def act():
                def hang_up(pattern):
                    proxy.process.send_signal(signal.SIGHUP)
                    proxy.wait_for(pattern)

                write(A=a, C=c)
                hang_up("configuration: added C; removed B$")
                file.write_text('{"backends": 7}')
                hang_up("configuration not applied, .*reload.json:1:14: backends: must be a list")
                write(A=b, C=c)
                hang_up("configuration: moved A$")
                write(C=c)
                hang_up("configuration: removed A$")

            failures, answers = requests_while(proxy, 8000, act)
            assert not failures, failures[:5]
            assert set(answers) == {a.port, b.port, c.port}, answers
            assert list(proxy.stats()) == ["C"]
            say(f"8000 requests while four files were read: none failed; answers by port {answers}")


def check_cargo_all():
    """The README's first command: it starts, serves, and leaves nothing behind on Ctrl-C."""
    command = re.search(r"^cargo all$", (ROOT / "README.md").read_text(), re.MULTILINE)[0].split()
    environment = {**os.environ, "A_PORT": "0", "B_PORT": "0", "ADMIN_PORT": "0"}
    with Program([*command, "--listen=127.0.0.1:0"], cwd=ROOT, env=environment, start_new_session=True) as program:
        # In a fresh clone, this is the first build.
        for _ in range(20):
            try:
                program.wait_for("Ctrl-C ends all three")
                break
            except AssertionError:
                assert program.process.poll() is None, program.lines
        urls = {match[1]: match[2] for match in program.find(r"\[all\]\s+(proxy|server A|server B)\s+(http://\S+)")}
        assert len(urls) == 3, program.lines
        text = in_some_attempts(lambda: curl(urls["proxy"]).decode())
        assert text.startswith("Hello from backend on port"), text
        family = descendants(program.process.pid)
        os.killpg(program.process.pid, signal.SIGINT)
        code = program.process.wait(DEADLINE_S)
        wait_until("all processes are gone", lambda: not any(is_running(pid) for pid in family))
        for name, url in urls.items():
            host, port = url.removeprefix("http://").rsplit(":", 1)
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", int(port))) != 0, f"{name} still listens at {host}:{port}"
        say(f"{' '.join(command)}: {len(family)} processes below it, answered {text!r}; after Ctrl-C exit code {code}, none left")


def in_some_attempts(act):
    """Returns the result of `act` once it succeeds: the simulated servers have faults by design."""
    for _ in range(20):
        try:
            return act()
        except subprocess.CalledProcessError as error:
            last = error
    raise last


def descendants(root):
    if pathlib.Path("/proc/self/stat").exists():
        parents = {}
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                pass  # It ended between being listed and being read.
    else:
        rows = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid="], text=True).splitlines()
        parents = {int(pid): int(parent) for pid, parent in map(str.split, rows)}
    found = [root]
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found[1:]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def with_websockets():
    """Fetches the package into a directory of its own unless it is there."""
    try:
        return importlib.import_module("websockets")
    except ImportError:
        pass
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        install("python3-pip")
    subprocess.run([*pip, "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore", "--target", SCRATCH, "websockets>=13"], check=True)
    sys.path.insert(0, SCRATCH)
    return importlib.import_module("websockets")


def install(package):
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*sudo, "apt-get", "update", "-qq"], check=True)
    subprocess.run([*sudo, "apt-get", "install", "-y", "-qq", package], check=True)


def main():
    checks = {name.removeprefix("check_"): act for name, act in globals().items() if name.startswith("check_")}
    chosen = sys.argv[1:] or list(checks)
    if shutil.which("curl") is None:
        install("curl")
    failed = []
    for name in chosen:
        began = time.monotonic()
        print(f"-- {name}: {checks[name].__doc__}", flush=True)
        try:
            checks[name]()
        except Exception:
            traceback.print_exc(file=sys.stdout)
            failed.append(name)
        say(f"{'FAILED' if name in failed else 'ok'} in {time.monotonic() - began:.1f} s")
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed{''.join(f', {name}' for name in failed)}", flush=True)
    return 1 if failed else 0


with tempfile.TemporaryDirectory() as SCRATCH:
    sys.exit(main())
