"""Fixtures of the operating tests; see box.py and ../interop/world.py."""

import subprocess

import pytest

from box import Box
from world import World


@pytest.fixture
def box(tmp_path):
    """A daemon, not started yet: `box()`, with a name and settings where they matter."""
    made = []

    def make(name="box", *arguments, **kw):
        made.append(Box(tmp_path, name, *arguments, **kw))
        return made[-1]
    yield make
    for one in made:
        one.stop()


@pytest.fixture
def world(request):
    """A Soulseek network; a test's `world(...)` marker holds its arguments."""
    marker = request.node.get_closest_marker("world")
    world = World(**(marker.kwargs if marker else {"big_mib": 1}))
    yield world
    world.close(keep=request.node.stash.get(FAILED, False))


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(mib)`: a disk of so many MiB, gone with the mount namespace at the latest."""
    mounted = []

    def mount(mib):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "tmpfs", folder], check=True)
        mounted.append(folder)
        return folder
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


FAILED = pytest.StashKey[bool]()


def pytest_configure(config):
    config.addinivalue_line("markers", "world(**arguments): arguments of the test's World")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report
