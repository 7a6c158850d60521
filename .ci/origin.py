"""A backend for the end-to-end smoke: it hashes what it gets, sends what it is asked for, and can be slowed down."""
import hashlib
import http.server
import json
import sys
import threading
import time

BLOCK = bytes(range(256)) * 4096  # 1 MiB


def digest_of_blocks(count):
    """The SHA-256 of `count` blocks, as /blocks/COUNT sends them."""
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(BLOCK)
    return digest.hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path == "/health":
            self.server.pings += 1
            time.sleep(self.server.delay)
            self.answer(b"OK")
        elif self.path == "/metrics":
            self.answer(json.dumps({"queueLen": 0, "running": 1, "kvCache": 0.25, "cpuBusyMs": 0, "memRss": 50_000_000}).encode())
        elif self.path.startswith("/blocks/"):
            count = int(self.path.removeprefix("/blocks/"))
            self.send_response(200)
            self.send_header("Content-Length", str(count * len(BLOCK)))
            self.end_headers()
            for _ in range(count):
                self.wfile.write(BLOCK)
        elif self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (b"a", b"b" * 70_000, b"c"):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.server.requests += 1
            time.sleep(self.server.delay)
            self.answer(self.server.answer)

    do_HEAD = do_GET

    def do_POST(self):
        digest, size = hashlib.sha256(), 0
        for piece in self.body():
            digest.update(piece)
            size += len(piece)
        framing = "chunked" if "Transfer-Encoding" in self.headers else "length"
        self.answer(json.dumps({"sha256": digest.hexdigest(), "bytes": size, "framing": framing}).encode())

    do_PUT = do_POST

    def body(self):
        if "Transfer-Encoding" in self.headers:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline() != b"\r\n":
                pass
            return
        left = int(self.headers.get("Content-Length", 0))
        while left > 0:
            piece = self.rfile.read(min(left, len(BLOCK)))
            left -= len(piece)
            yield piece

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Origin(http.server.ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1 until the end of its context."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, name):
        super().__init__(("127.0.0.1", 0), Handler)
        self.name, self.answer = name, name.encode()
        self.delay, self.pings, self.requests = 0.0, 0, 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        # A client that has left is not an error; the proxy closes its connections when it ends.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
