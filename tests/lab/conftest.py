"""Fixtures of the lab's tests."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "ops"))

from box import BINARY, run  # noqa: E402


def clean(temp):
    """The environment of a lab whose folders lie in `temp`."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("SLSKDN_")}
    return {**own, "TMPDIR": str(temp), "SLSKDN_LOG": "debug"}


class Lab:
    """Runs scenarios; whatever happens, nothing of them may be left behind."""

    def __init__(self, tmp):
        self.tmp, self.temp = tmp, tmp / "t"
        self.temp.mkdir()

    def scenario(self, text):
        path = self.tmp / "scenario.yml"
        path.write_text(text)
        return path

    def run(self, *arguments, code=0):
        return run("lab", *arguments, code=code, environment={"TMPDIR": str(self.temp)})

    def play(self, text, code=0):
        """The report; nothing else may be on standard output."""
        import json
        done = self.run("--scenario", self.scenario(text), "--json", code=code)
        lines = done.stdout.splitlines()
        assert len(lines) == 1, done.stdout
        return json.loads(lines[0])

    def begin(self, text, *arguments):
        """A lab that goes on while the test does something else."""
        return subprocess.Popen([BINARY, "lab", "--scenario", self.scenario(text), *arguments], env=clean(self.temp),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def folders(self):
        return list(self.temp.iterdir())

    def nodes(self):
        """Processes whose command line names our folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.temp).encode() in words:
                    found.append(int(entry.name))
        return found


@pytest.fixture
def lab():
    # Short: control sockets lie below it, and their paths may have 107 bytes.
    import tempfile
    with tempfile.TemporaryDirectory(prefix="lab") as tmp:
        yield Lab(Path(tmp))
