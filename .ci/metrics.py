#!/usr/bin/env python3
"""The metrics of the release build, read by the parser of the PyPI package prometheus-client, its access log, and the queries
of the dashboard.

    .ci/metrics.py    builds nothing: `cargo build --workspace --release --locked` comes before

The package comes from .ci/metrics.txt, by its hash, unless it is installed. Ports are free ones of the system.
"""
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
import urllib.error
import urllib.parse
import urllib.request

sys.dont_write_bytecode = True  # Nothing of this is left in the clone.
from origin import Origin

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
DASHBOARD = ROOT / "server" / "docs" / "grafana.json"
DEADLINE_S = 60
CLIENTS, REQUESTS = 8, 250
MANY = 1000
# Requests that are refused or unusual; each is one line of the access log.
HOSTILE = [
    b"GET /\xff\xfe\"\\\x01 HTTP/1.1\r\n\r\n",
    b"GET /no-host HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: \"\\\xc3(\x80\t\xe2\x80\xae\r\nReferer: \xf0\x9f\x98\x80\r\nConnection: close\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
]
TEXT = r'"(?:[ !#-\[\]-~]|\\x[0-9A-F]{2})*"'
COMBINED = re.compile(rf'[0-9a-f.:]+ - - \[\d\d/[A-Z][a-z]{{2}}/\d{{4}}:\d\d:\d\d:\d\d \+0000\] {TEXT} \d{{3}} \d+ {TEXT} {TEXT}')


def parser():
    """The package's parser; fetches the package into a directory of its own unless it is there."""
    try:
        return importlib.import_module("prometheus_client.parser")
    except ImportError:
        pass
    folder = str(ROOT / "target" / "tools-metrics")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
    subprocess.run([*pip, "--no-deps", "--require-hashes", "--target", folder, "--upgrade", "--requirement", ROOT / ".ci" / "metrics.txt"], check=True)
    sys.path.insert(0, folder)
    return importlib.import_module("prometheus_client.parser")


class Proxy:
    """The proxy with its admin pages; it is killed at the end of its context."""

    def __init__(self, config, folder, stdout=subprocess.DEVNULL):
        path = pathlib.Path(folder) / "proxy.json"
        path.write_text(json.dumps({"listen": ["127.0.0.1:0"], "admin": {"listen": "127.0.0.1:0"}, **config}))
        command = [TARGET / "intelliproxy", "--config", path, "--log-level", "info"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True)
        self.port = self.port_in(r"listening on http://127\.0\.0\.1:(\d+)")
        self.admin = self.port_in(r"admin pages on http://127\.0\.0\.1:(\d+)")
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()

    def port_in(self, pattern):
        for line in self.process.stderr:
            if match := re.search(pattern, line):
                return int(match[1])
        raise AssertionError(f"the log ended without {pattern}")

    def scrape(self, read):
        """The families of /metrics by name."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=DEADLINE_S)
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        text = response.read().decode()
        assert response.status == 200, text
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4"), response.headers
        families = list(read(text))
        names = {family.name: family for family in families}
        assert len(names) == len(families), "a family is there twice"
        samples = [(sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples]
        assert len(samples) == len(set(samples)), "a sample is there twice"
        for family in families:
            assert family.type in ("counter", "gauge", "histogram"), f"{family.name} is {family.type}"
            assert family.documentation, f"{family.name} has no help"
        return names

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE_S) == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def total(families, name, **labels):
    """The sum of a family's samples with these labels, buckets and sums left out."""
    samples = [sample for sample in families[name].samples if not sample.name.endswith(("_bucket", "_sum", "_created"))]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def load(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    for _ in range(REQUESTS):
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status


def check_counts(read, folder):
    with Origin("A") as a, Origin("B") as b, Origin("C") as c:
        origins = [a, b, c]
        backends = [{"name": origin.name, "url": origin.url} for origin in origins]
        with Proxy({"backends": backends, "routing": {"policy": "round_robin"}}, folder) as proxy:
            clients = [threading.Thread(target=load, args=(proxy.port,)) for _ in range(CLIENTS)]
            for client in clients:
                client.start()
            before, scrapes = 0, 0
            while any(client.is_alive() for client in clients):
                now = total(proxy.scrape(read), "intelliproxy_backend_requests")
                assert now >= before, f"{now} after {before}"
                before, scrapes = now, scrapes + 1
            families = proxy.scrape(read)
    check_dashboard(families)
    sent = CLIENTS * REQUESTS
    assert sum(origin.requests for origin in origins) == sent, "a load generator failed"
    for name in ["backend_requests", "backend_request_duration_seconds", "backend_first_byte_seconds", "requests", "responses"]:
        assert total(families, f"intelliproxy_{name}") == sent, name
    for origin in origins:
        counted = total(families, "intelliproxy_backend_requests", backend=origin.name, code="2xx")
        assert counted == origin.requests, f"{origin.name}: {counted} of {origin.requests}"
    print(f"{sent} requests: the same sum in {len(families)} families; {scrapes} scrapes meanwhile", flush=True)


def check_dashboard(families):
    """The dashboard queries every metric and no others; those of the guard of `learned` are in no family here."""
    samples = {re.sub("_total$", "", name) for name in families}
    asked = {re.sub("_(total|bucket)$", "", name) for name in re.findall(r"(?:intelliproxy|process)_[a-z_]+", DASHBOARD.read_text())}
    unknown = {name for name in asked - samples if not name.startswith("intelliproxy_learned_")}
    assert not unknown, f"the dashboard asks for {unknown}"
    missing = samples - asked
    assert not missing, f"the dashboard has no panel with {missing}"
    print(f"{len(asked)} metrics of the dashboard are known", flush=True)


def queries():
    """The queries of the dashboard with the titles of their panels, for all jobs and backends."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], re.sub(r"\$(job|instance|pool|backend)\b", ".*", target["expr"]).replace("$__rate_interval", "10s")


def check_queries(folder):
    """A real Prometheus, where there is one, has data for every panel."""
    if not shutil.which("prometheus"):
        return print("no prometheus here: the dashboard's queries are not tried", flush=True)
    with Origin("A") as a, Origin("B") as b, socket.create_server(("127.0.0.1", 0)) as free:
        backends = [{"name": origin.name, "url": origin.url, "limit": 1} for origin in (a, b)]
        # Every figure that has a metric.
        fields = {"queue": "queueLen", "running": "running", "pressure": "kvCache", "cpuBusyMs": "cpuBusyMs", "memoryBytes": "memRss"}
        access_log = {"file": str(pathlib.Path(folder) / "dashboard.log")}
        rest = {"backends": backends, "accessLog": access_log, "reports": {"fields": fields}}
        folders = [pathlib.Path(folder) / policy for policy in ("score", "learned")]
        for path in folders:
            path.mkdir()
        with Proxy({**rest, "routing": {"policy": "score"}}, folders[0]) as one, Proxy({**rest, "routing": {"policy": "learned"}}, folders[1]) as two:
            rules = pathlib.Path(folder) / "prometheus.yml"
            targets = ", ".join(f"'127.0.0.1:{proxy.admin}'" for proxy in (one, two))
            rules.write_text(f"global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: i\n  static_configs: [{{targets: [{targets}]}}]\n")
            port = free.getsockname()[1]
            free.close()
            command = ["prometheus", f"--config.file={rules}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
            prometheus = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                left, end = list(queries()), time.monotonic() + DEADLINE_S
                count = len(left)
                while left and time.monotonic() < end:
                    for proxy in (one, two):
                        clients = [threading.Thread(target=load, args=(proxy.port,)) for _ in range(4)]
                        for client in clients:
                            client.start()
                        for client in clients:
                            client.join()
                    left = [(title, query) for title, query in left if not has_data(port, query)]
                assert not left, f"no data for {left}"
            finally:
                prometheus.kill()
                prometheus.wait()
    print(f"{count} queries of the dashboard have data in Prometheus", flush=True)


def has_data(port, query):
    """Whether a query returns a sample; not yet while Prometheus starts."""
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as response:
            return bool(json.load(response)["data"]["result"])
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{query}: {error.read()}") from error
    except OSError:
        return False


def check_many(read, folder):
    backends = [{"name": f"b{number}", "url": "http://127.0.0.1:1"} for number in range(MANY)]
    probes = {"pingIntervalMs": 3_600_000, "reportIntervalMs": 3_600_000}
    with Proxy({"backends": backends, "routing": {"probes": probes}}, folder) as proxy:
        families = proxy.scrape(read)
        for name, family in families.items():
            if name.startswith("intelliproxy_backend_requests"):
                assert {sample.labels["backend"] for sample in family.samples} == {backend["name"] for backend in backends}, name
        spent = total(families, "process_cpu_seconds")
        connection = http.client.HTTPConnection("127.0.0.1", proxy.admin, timeout=DEADLINE_S)
        size, scrapes = 0, 0
        while scrapes < 5:
            connection.request("GET", "/metrics")
            size, scrapes = len(connection.getresponse().read()), scrapes + 1
        spent = total(proxy.scrape(read), "process_cpu_seconds") - spent
    print(f"{MANY} backends: {size} bytes; {1000 * spent / (scrapes + 1):.1f} ms of CPU a scrape, spread over turns", flush=True)


def check_access_log(read, folder):
    """Each exchange is a line that Python's json or a strict expression reads; the sums agree."""
    for form in ("json", "combined"):
        path = pathlib.Path(folder) / f"access.{form}"
        # One form goes to a file, the other one to stdout.
        file = "stdout" if form == "combined" else str(path)
        with Origin("A") as origin, open(path, "ab") as stdout:
            config = {"backends": [{"name": "A", "url": origin.url}], "accessLog": {"file": file, "format": form}}
            with Proxy(config, folder, stdout=stdout) as proxy:
                clients = [threading.Thread(target=load, args=(proxy.port,)) for _ in range(CLIENTS)]
                for client in clients:
                    client.start()
                for client in clients:
                    client.join()
                for request in HOSTILE:
                    with socket.create_connection(("127.0.0.1", proxy.port), timeout=DEADLINE_S) as client:
                        client.sendall(request)
                        while client.recv(65536):
                            pass
                families = proxy.scrape(read)
                proxy.stop()
        lines = path.read_bytes().split(b"\n")
        assert lines.pop() == b"", "the last line has no end"
        sent = CLIENTS * REQUESTS + len(HOSTILE)
        assert len(lines) == sent, f"{len(lines)} lines for {sent} requests"
        assert total(families, "intelliproxy_access_log_lines") == sent
        assert total(families, "intelliproxy_access_log_lines_dropped") == 0
        assert total(families, "intelliproxy_requests") + total(families, "intelliproxy_client_errors") == sent
        for line in lines:
            if form == "combined":
                assert COMBINED.fullmatch(line.decode("ascii")), line
                continue
            record = json.loads(line.decode("utf-8"))
            assert record["end"] in ("complete", "client_error"), line
            assert record["totalMs"] >= record["firstByteMs"] >= record["headMs"] >= 0, line
        print(f"access log, {form}: {sent} lines for {sent} requests", flush=True)


def main():
    read = parser().text_string_to_metric_families
    with tempfile.TemporaryDirectory() as folder:
        check_access_log(read, folder)
        check_counts(read, folder)
        check_many(read, folder)
        check_queries(folder)


main()
