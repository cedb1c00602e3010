"""Fixtures of the mesh tests; see node.py."""
import shutil

import pytest

from node import Node, noise


@pytest.fixture
def node(tmp_path):
    """`node(name, share, setting=value)`: a daemon with the mesh on, not started yet."""
    made = []

    def make(name, share=None, **settings):
        made.append(Node(tmp_path, name, share, **settings))
        return made[-1]
    yield make
    for one in made:
        one.stop()


@pytest.fixture(scope="session")
def song(tmp_path_factory):
    """A file of about 20 MiB and its content hash."""
    path = tmp_path_factory.mktemp("song") / "noise.wav"
    return path, noise(path)


@pytest.fixture
def holders(tmp_path, song, node):
    """`holders(count, setting=value)`: started nodes that share the song and have measured it."""
    def make(count, **settings):
        nodes = []
        for n in range(count):
            share = tmp_path / f"music{n}"
            share.mkdir()
            shutil.copy(song[0], share / f"copy {n}.wav")
            nodes.append(node(f"holder{n}", share, **settings).start().measure())
        return nodes
    return make
