"""Our program without a Soulseek network around it: commands that end, and a daemon that waits for credentials."""
import os
import subprocess
import sys
from pathlib import Path

import requests

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "interop"))

from world import BINARY, LONG, Process, free_port, until  # noqa: E402


def run(*arguments, code=0, before=(), environment=None, text=True, program=BINARY, **kw):
    """Runs a command that ends by itself, checks its exit code, and returns what it printed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLSKDN_") and k != "STATE_DIRECTORY"}
    done = subprocess.run([*map(str, before), str(program), *map(str, arguments)], capture_output=True, text=text,
                          timeout=LONG, stdin=subprocess.DEVNULL, env={**clean, **(environment or {})}, **kw)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def lines(done):
    """What it told the person at the shell."""
    return done.stderr.splitlines()


def refuses(*arguments, code=2, **kw):
    """Runs a command that must refuse, and returns its one sentence."""
    told = lines(run(*arguments, code=code, **kw))
    sentences = [line for line in told if line.startswith("slskdn: ")]
    assert len(sentences) == 1, told
    return sentences[0]


class Box:
    """A daemon of its own: own data folder, own ports."""

    def __init__(self, tmp, name="box", *arguments, before=(), **settings):
        self.tmp, self.name, self.arguments, self.before = Path(tmp), name, arguments, before
        self.home = self.tmp / name
        self.web, self.port = free_port(), free_port()
        self.settings = {"web.port": self.web, "soulseek.listen_port": self.port, "soulseek.listen_ip_address": "127.0.0.1",
                         "disk.min_free_mib": 1, **{k.replace("__", "."): v for k, v in settings.items()}}
        self.url = f"http://127.0.0.1:{self.web}"
        self.process = None

    def flags(self):
        return ["--data", self.home, *[x for k, v in self.settings.items() for x in ("--set", f"{k}={v}")]]

    def start(self, *command, **environment):
        command = command or ("serve", *self.arguments)
        self.process = Process(self.name, self.tmp / f"{self.name}.log", *self.before, BINARY, *self.flags(), *command,
                               **environment)
        until(f"{self.name} answers", self.answers)
        return self

    def answers(self):
        assert self.process.alive(), self.log()
        try:
            return requests.get(f"{self.url}/health", timeout=30).ok
        except requests.ConnectionError:
            return False

    def call(self, method, path, **kw):
        return requests.request(method, f"{self.url}{path}", timeout=60, **kw)

    def get(self, path):
        answer = self.call("GET", path)
        answer.raise_for_status()
        return answer.json()

    def post(self, path, body):
        answer = self.call("POST", path, json=body)
        answer.raise_for_status()
        return answer

    def log(self):
        return self.process.log.read_text(errors="replace")

    def stop(self):
        """An orderly stop; the exit code."""
        return self.process.stop() if self.process else None
