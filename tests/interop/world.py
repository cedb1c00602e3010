"""A Soulseek network on loopback: the test server, Nicotine+, aioslsk and our daemon, each a process of its own.

Everything runs in the network namespace that tests/all made (tests/interop/isolate). Nothing here sleeps to be in
step: it waits for events that the peers log, or asks our API until the answer is there, up to a generous limit.
"""
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import requests

HERE = Path(__file__).resolve().parent
BINARY = Path(os.environ.get("SLSKDN_BINARY", HERE.parents[1] / "target" / "release" / "slskdn"))
LONG = int(os.environ.get("TEST_PATIENCE", "240"))  # seconds; a limit for broken runs, not a measurement


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def until(what, ask, seconds=LONG):
    """Asks until the answer is true, and returns it."""
    end = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"in {seconds} s never: {what}")
        time.sleep(0.1)


def listening(port, address="127.0.0.1"):
    try:
        socket.create_connection((address, port), 1).close()
        return True
    except OSError:
        return False


def music(folder, seed, big_mib=100):
    """Three files with known bytes: a small one, one with a non-ASCII name, a big one. Returns name -> path."""
    album = folder / "Some Artist" / "Álbum"
    album.mkdir(parents=True)
    files = {}
    for name, size in ((f"{seed} - first song.flac", 2_000_003), (f"{seed} - Fjörd 日本.mp3", 700_001),
                       (f"{seed} - long mix.flac", big_mib << 20)):
        path = album / name
        with open(path, "wb") as f:
            left = size
            while left:
                block = os.urandom(min(left, 1 << 20))
                f.write(block)
                left -= len(block)
        files[name] = path
    return files


class Process:
    def __init__(self, name, log, *command, **environment):
        self.name, self.log = name, log
        self.out = open(log, "ab")
        env = {**os.environ, **environment}
        if BINARY in command:
            # These are for the tests; the daemon would take them for misspelt keys.
            env = {k: v for k, v in env.items() if not k.startswith("SLSKDN_")}
        self.process = subprocess.Popen([str(c) for c in command], stdout=self.out, stderr=self.out,
                                        stdin=subprocess.DEVNULL, env=env)

    def alive(self):
        return self.process.poll() is None

    def stop(self, how=signal.SIGTERM):
        if self.alive():
            self.process.send_signal(how)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return "killed"


class Peer:
    """Nicotine+ or aioslsk, driven over its control socket."""

    def __init__(self, world, kind, name, port, *options, files=True):
        self.world, self.kind, self.name, self.port, self.options = world, kind, name, port, options
        # A user's name may have a slash, a file's may not.
        self.label = name.replace("/", " ")
        self.home = world.tmp / self.label
        self.share = world.tmp / f"share-{self.label}"
        self.share.mkdir(exist_ok=True)
        self.files = music(self.share, self.label, world.big_mib) if files else {}
        self.downloads = self.home / "downloads"
        self.start()

    def start(self):
        self.since = len(self.events())
        script = HERE / ("nicotine-peer" if self.kind == "nicotine" else "aioslsk-peer")
        self.process = Process(self.name, self.world.tmp / f"{self.label}.log", script, "--user", self.name, "--home", self.home,
                               "--share", self.share, "--server", f"{self.world.address}:{self.world.port}", "--port", self.port, *self.options)
        self.world.processes.append(self.process)
        self.event("login", success=True)
        self.event("shares-ready")

    def ctl(self, **command):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(120)
            s.connect(str(self.home / "control"))
            s.sendall(json.dumps(command).encode() + b"\n")
            answer = json.loads(s.makefile().readline())
        assert "error" not in answer, answer
        return answer.get("result")

    def events(self):
        path = self.home / "events.jsonl"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def event(self, event, /, seconds=LONG, **match):
        def look():
            for line in self.events()[self.since:]:
                try:
                    e = json.loads(line)
                except json.JSONDecodeError:
                    # Half of it is written.
                    continue
                if e["event"] == event and all(e.get(k) == v for k, v in match.items()):
                    return e
            return None
        return until(f"{self.name} sees {event} {match}", look, seconds)

    def fetch(self, owner, path, size, original, seconds=LONG):
        """Downloads by itself and waits for equal bytes."""
        self.ctl(cmd="download", user=owner, path=path, size=size)
        want = sha256(original)

        def there():
            for found in self.downloads.rglob("*"):
                if found.is_file() and found.stat().st_size == size and sha256(found) == want:
                    return found
            return None
        return until(f"{self.name} has {path}", there, seconds)


class Node:
    """Our daemon."""

    def __init__(self, world, name="box", **settings):
        self.world, self.name = world, name
        self.home = world.tmp / name
        self.share = world.tmp / f"share-{name}"
        self.files = music(self.share, name, world.big_mib)
        self.downloads = self.home / "downloads"
        self.web, self.port = free_port(), free_port()
        self.settings = {
            "soulseek.address": "127.0.0.1", "soulseek.port": world.port, "soulseek.username": name,
            "soulseek.password": "pw", "soulseek.listen_port": self.port, "soulseek.listen_ip_address": "127.0.0.1",
            "soulseek.description": "a box on loopback", "web.port": self.web, "log.level": "debug", "disk.min_free_mib": 16,
            **{k.replace("__", "."): v for k, v in settings.items()},
        }
        self.url = f"http://127.0.0.1:{self.web}"
        self.session = requests.Session()
        self.start()

    def start(self, wait=True):
        flags = [x for k, v in self.settings.items() for x in ("--set", f"{k}={v}")]
        self.process = Process(self.name, self.world.tmp / f"{self.name}.log", BINARY, "--data", self.home, *flags,
                               "serve", "--music", self.share)
        self.world.processes.append(self.process)
        if wait:
            until(f"{self.name} is logged in", self.logged_in)
            until(f"{self.name} has scanned", lambda: self.get("/application")["shares"]["files"] >= len(self.files))

    def logged_in(self):
        assert self.process.alive(), f"{self.name} ended; see {self.process.log}"
        try:
            return self.get("/server")["isLoggedIn"]
        except requests.ConnectionError:
            return False

    def call(self, method, path, **kw):
        base = "" if path.startswith("/api/") else "/api/v0"
        return self.session.request(method, f"{self.url}{base}{path}", timeout=150, **kw)

    def get(self, path, **kw):
        answer = self.call("GET", path, **kw)
        answer.raise_for_status()
        return answer.json()

    def metrics(self):
        answer = self.session.get(f"{self.url}/metrics", timeout=150)
        answer.raise_for_status()
        return answer.text

    def search(self, text, want):
        """Responses of a search, once `want(responses)` is true. Asked again, as people do, when it ended without that:
        aioslsk now and then answers nothing while it connects both ways."""
        ident = None

        def found():
            nonlocal ident
            over = ident is None or self.get(f"/searches/{ident}")["isComplete"]
            wanted = ident and want(self.get(f"/searches/{ident}/responses"))
            if over and not wanted:
                answer = self.call("POST", "/searches", json={"searchText": text, "searchTimeout": 5000})
                answer.raise_for_status()
                ident = answer.json()["id"]
            return wanted
        return until(f"{self.name} finds {text}", found)

    def enqueue(self, user, files):
        answer = self.call("POST", f"/transfers/downloads/{user}", json=[{"filename": p, "size": s} for p, s in files])
        assert answer.status_code == 201, (answer.status_code, answer.text)

    def transfers(self, direction, user):
        answer = self.call("GET", f"/transfers/{direction}/{user}")
        if answer.status_code == 404:
            return []
        answer.raise_for_status()
        return [f for d in answer.json()["directories"] for f in d["files"]]

    def download_of(self, user, path):
        return next((t for t in self.transfers("downloads", user) if t["filename"] == path), None)

    def finished(self, user, path):
        t = self.download_of(user, path)
        if t and t["state"].startswith("Completed") and "Succeeded" not in t["state"]:
            raise AssertionError(f"{path}: {t['state']}: {t.get('exception')}")
        return t if t and "Succeeded" in t["state"] else None


class World:
    def __init__(self, search="direct", firewalled=(), big_mib=100, server=(), tmp=None, address="127.0.0.1"):
        self.tmp = Path(tmp or tempfile.mkdtemp(prefix="slskdn-"))
        self.processes, self.big_mib, self.search, self.address = [], big_mib, search, address
        self.port = free_port()
        self.server_process = Process(
            "server", self.tmp / "server.log", HERE / "server", "--bind", address, "--port", self.port, "--search", search,
            *[x for u in firewalled for x in ("--firewalled", u)], *server)
        self.processes.append(self.server_process)
        until("the server listens", lambda: listening(self.port, address))

    def close(self, keep=False):
        """Ends every process, the server last so that nobody reconnects; keeps files and logs of a failed run."""
        for process in reversed(self.processes):
            process.stop()
        if keep:
            print(f"files and logs are kept in {self.tmp}")
        else:
            shutil.rmtree(self.tmp, ignore_errors=True)

    def log(self, name):
        return (self.tmp / f"{name}.log").read_text(errors="replace")
