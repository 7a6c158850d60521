#!/usr/bin/env python3
"""Installs, runs, upgrades, removes and purges the Debian package in a clean Debian with systemd.

    .ci/release/package_test.py [--required] OLD.deb NEW.deb SIM

A root made by debootstrap is booted by systemd-nspawn, with a network of its own. SIM is the program of
the simulated backends, which run outside the root in that network. Needs root rights. On a machine that
cannot boot such a root it says so and ends with success; with --required it fails.
"""
import http.client
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
DEADLINE_S = 120
TOOLS = pathlib.Path(__file__).resolve().parent.parent.parent / "target/tools"
UNIT = "intelliproxy.service"


class NoRoot(Exception):
    """The machine cannot boot a root."""


def wait_until(what, holds, deadline_s=DEADLINE_S):
    end = time.monotonic() + deadline_s
    while not (result := holds()):
        if time.monotonic() > end:
            raise TimeoutError(f"not in time: {what}")
        time.sleep(0.01)
    return result


def say(text):
    print(f"   {text}", flush=True)


def needs(file, package):
    """Installs the package of a program, or of another file by its path."""
    if shutil.which(file) is None and not os.path.isfile(file):
        subprocess.run(["apt-get", "update", "-qq"], check=True, stdout=subprocess.DEVNULL)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Root:
    """A booted Debian."""

    def __init__(self, folder):
        self.folder = folder / "root"
        archive = TOOLS / f"{SUITE}.tar"
        if not archive.exists():
            needs("debootstrap", "debootstrap")
            # Without the keys debootstrap would not check what it fetches.
            needs("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring")
            include = "--include=systemd,systemd-sysv,adduser"
            made = folder / "made"
            command = ["debootstrap", "--variant=minbase", include, SUITE, made, MIRROR]
            with open(folder / "debootstrap.log", "wb") as log:
                if subprocess.run(command, stdout=log, stderr=log).returncode != 0:
                    lines = (folder / "debootstrap.log").read_text().splitlines()
                    raise NoRoot(f"debootstrap failed: {lines[-1] if lines else ''}")
            TOOLS.mkdir(parents=True, exist_ok=True)
            subprocess.run(["tar", "-C", made, "-cf", f"{archive}.new", "."], check=True)
            os.rename(f"{archive}.new", archive)
        self.folder.mkdir()
        subprocess.run(["tar", "-C", self.folder, "-xf", archive], check=True)
        needs("systemd-nspawn", "systemd-container")
        # Needs no service that registers machines, which a container or a CI runner may lack.
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network"]
        command += ["--console=pipe", "--boot", "--directory", self.folder]
        self.log = open(folder / "boot.log", "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            wait_until("the end of the boot", self.is_booted, 60)
        except (TimeoutError, NoRoot) as error:
            self.end()
            lines = (folder / "boot.log").read_text(errors="replace").splitlines()
            raise NoRoot(f"systemd-nspawn does not boot: {error}: {' / '.join(lines[-2:])}") from error

    def is_booted(self):
        if self.process.poll() is not None:
            raise NoRoot(f"it ended with {self.process.returncode}")
        # At first there is another child, which makes the namespaces.
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not children:
            return False
        self.init = int(children[0])
        return self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")

    def run(self, *command, check=True):
        """Runs a command in the root. Returns its output."""
        enter = ["nsenter", "--target", str(self.init), "--all"]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
        done = subprocess.run(
            [*enter, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}"
        return done.stdout

    def code(self, *command):
        return int(self.run("sh", "-c", '"$@" >/dev/null 2>&1; echo $?', "sh", *command))

    def show(self, name):
        return self.run("systemctl", "show", "--property", name, "--value", UNIT).strip()

    def path(self, path):
        return self.folder / path.lstrip("/")

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)  # An orderly shutdown.
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def ask(path="/", port=3001):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def is_served():
    try:
        return ask()[0] == 200
    except OSError:
        return False


class Load(threading.Thread):
    """Requests one after another, in turn on a new and on a kept connection."""

    def __init__(self):
        super().__init__(daemon=True)
        self.is_over = False
        self.done = 0
        self.wrong = []
        self.start()

    def run(self):
        kept = None
        while not self.is_over:
            try:
                assert ask()[0] == 200
                kept = kept or http.client.HTTPConnection("127.0.0.1", 3001, timeout=DEADLINE_S)
                kept.request("GET", "/")
                answer = kept.getresponse()
                answer.read()
                assert answer.status == 200
                if answer.will_close:
                    kept.close()
                    kept = None
                self.done += 2
            except Exception as error:  # Each kind counts as a lost request.
                self.wrong.append(repr(error))

    def finish(self):
        self.is_over = True
        self.join(DEADLINE_S)
        return self.done


def test(root, old, new):
    for deb in (old, new):
        shutil.copy(deb, root.path(f"/root/{pathlib.Path(deb).name}"))
    old, new = (f"/root/{pathlib.Path(deb).name}" for deb in (old, new))

    begin = time.monotonic()
    process = threading.Thread(target=lambda: root.run("dpkg", "--install", old))
    process.start()
    wait_until("the first response", is_served)
    say(f"dpkg --install to the first response: {(time.monotonic() - begin) * 1000:.0f} ms")
    process.join()
    assert root.show("ActiveState") == "active", root.show("ActiveState")
    assert root.run("systemctl", "is-enabled", UNIT).strip() == "enabled"
    pid = root.show("MainPID")
    assert root.run("stat", "--format", "%U:%G", f"/proc/{pid}").strip() == "intelliproxy:intelliproxy"
    assert root.run("intelliproxy", "ctl", "ready") == "ready\n"
    assert root.run("dpkg", "--verify", "intelliproxy") == "", "files are as they were packed"
    for file in (
        "/usr/share/man/man1/intelliproxy.1.gz",
        "/usr/share/bash-completion/completions/intelliproxy",
        "/usr/share/zsh/vendor-completions/_intelliproxy",
        "/usr/share/fish/vendor_completions.d/intelliproxy.fish",
    ):
        # dpkg in a minimal root may be configured to leave documentation out.
        listed = root.run("dpkg", "--listfiles", "intelliproxy").split("\n")
        assert file in listed, file
    say(f"{root.run('intelliproxy', '--version').strip()} serves as user intelliproxy, enabled")

    # A change by the administrator is kept.
    config = root.path("/etc/intelliproxy/proxy.json")
    config.write_text(config.read_text().replace('"listen": ["127', '"limits": { "clients": 777 },\n  "listen": ["127'))
    root.run("systemctl", "reload", UNIT)
    wait_until("the new configuration", lambda: json.loads(ask("/config", 3003)[1])["limits"]["clients"] == 777)

    load = Load()
    wait_until("load", lambda: load.done > 20)
    before, begin = load.done, time.monotonic()
    said = root.run("dpkg", "--install", new)
    took = (time.monotonic() - begin) * 1000
    enough = load.done + 20
    wait_until("load after the upgrade", lambda: load.done > enough)
    during = load.finish() - before
    assert not load.wrong, load.wrong[:5]
    assert root.show("MainPID") not in (pid, "0"), said
    assert root.show("ActiveState") == "active"
    assert root.show("NRestarts") == "0"
    program = root.run("readlink", f"/proc/{root.show('MainPID')}/exe").strip()
    assert program == "/usr/bin/intelliproxy", program
    wait_until("the old process", lambda: root.code("kill", "-0", pid) != 0)
    assert json.loads(ask("/config", 3003)[1])["limits"]["clients"] == 777
    say(f"upgraded in {took:.0f} ms, configuration kept, {during} requests meanwhile, none lost")

    # A program that cannot take over changes nothing.
    good = config.read_text()
    config.write_text(good.replace('"limits"', '"limit"'))
    pid = root.show("MainPID")
    said = root.run("dpkg", "--install", old)
    assert "the new version has not taken over" in said, said
    assert root.show("MainPID") == pid and is_served()
    config.write_text(good)
    say("an upgrade that refuses the configuration leaves the old process serving")

    root.run("systemctl", "restart", UNIT)
    wait_until("a restart", is_served)
    root.run("dpkg", "--remove", "intelliproxy")
    assert not is_served()
    assert root.code("systemctl", "is-active", UNIT) != 0
    assert root.path("/etc/intelliproxy/proxy.json").exists() and root.path("/var/lib/intelliproxy").exists()
    assert not root.path("/usr/bin/intelliproxy").exists()
    root.run("dpkg", "--install", new)
    wait_until("a response after the package is back", is_served)
    assert json.loads(ask("/config", 3003)[1])["limits"]["clients"] == 777
    say("removed: configuration and state stay; installed again: it serves with them")

    root.run("dpkg", "--purge", "intelliproxy")
    assert not is_served()
    for path in ("/etc/intelliproxy", "/var/lib/intelliproxy", "/var/log/intelliproxy", "/run/intelliproxy"):
        assert not root.path(path).exists(), path
    assert root.code("dpkg", "--status", "intelliproxy") != 0
    left = root.run("find", "/etc", "/usr", "/var/lib/systemd", "-name", "*intelliproxy*").split()
    assert not left, left
    say("purged: no file is left")


def main():
    old, new, sim = sys.argv[-3:]
    if os.geteuid() != 0:
        raise NoRoot("it needs root rights")
    with tempfile.TemporaryDirectory(prefix="intelliproxy-package-") as folder:
        begin = time.monotonic()
        root = Root(pathlib.Path(folder))
        servers = []
        try:
            say(f"a clean Debian ({SUITE}) runs after {time.monotonic() - begin:.0f} s")
            # This process and its backends join the network of the root: the ports there are free.
            descriptor = os.open(f"/proc/{root.init}/ns/net", os.O_RDONLY)
            join_network(descriptor)
            quiet = "P_G_TO_B LOSS_IN_G LOSS_IN_B ERR_RATE SLOW_RATE CPU_LOAD_MS OVERLOAD_DROP_MULTIPLIER".split()
            environment = {**os.environ, **dict.fromkeys(quiet, "0")}
            for name in "AB":
                servers.append(subprocess.Popen([sim, name], env=environment, stderr=subprocess.DEVNULL))
            test(root, old, new)
        except AssertionError:
            print(root.run("journalctl", "--unit", UNIT, "--no-pager", "--lines", "40", check=False), file=sys.stderr)
            raise
        finally:
            for server in servers:
                server.kill()
                server.wait()
            root.end()


def join_network(descriptor):
    """setns(2), which Python has from 3.12."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0x40000000) != 0:
        raise NoRoot(f"setns: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    try:
        main()
    except NoRoot as error:
        print(f"skipped: no Debian root can be booted here: {error}", flush=True)
        sys.exit("--required" in sys.argv)
