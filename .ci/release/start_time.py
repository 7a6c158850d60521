#!/usr/bin/env python3
"""The time from the start of the program to its first response, over a new process each time.

    .ci/release/start_time.py BINARY [RUNS]

Prints the median and the extremes of 20 runs. It judges nothing: the time depends on the machine.
"""
import http.server
import os
import socket
import statistics
import subprocess
import sys
import threading
import time


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass  # The proxy was killed during its ping.


class Backend(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


def main():
    binary, runs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20
    server = Server(("127.0.0.1", 0), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    backend = f"--backend=A=http://127.0.0.1:{server.server_port}"
    request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    times = []
    for _ in range(runs):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = free.getsockname()
        begin = time.perf_counter()
        command = [binary, f"--listen=127.0.0.1:{address[1]}", backend, "--log-level=error"]
        # Needs neither a shell nor a fork of this large process.
        pid = os.posix_spawn(binary, command, os.environ)
        while True:
            try:
                with socket.create_connection(address, 10) as client:
                    client.sendall(request)
                    answer = client.recv(65536)
                    break
            except ConnectionRefusedError:
                assert time.perf_counter() < begin + 60, "it does not listen"
        times.append((time.perf_counter() - begin) * 1000)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
    print(
        f"{binary}: start to the first response in {statistics.median(times):.1f} ms "
        f"(median of {runs}; {min(times):.1f} to {max(times):.1f})"
    )


if __name__ == "__main__":
    main()
