"""What the tests of /api/v0 share: our daemon behind a password, with keys, beside a Nicotine+ peer."""
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "interop"))

from world import Node, Peer, World, free_port  # noqa: E402

USER, PASSWORD = "owner", "correct horse battery"
KEYS = {role: f"{role}-key-0123456789" for role in ("readonly", "readwrite", "administrator")}
FAR_KEY = "for-another-network-0123"
AUTHENTICATION = {
    "web.authentication.username": USER, "web.authentication.password": PASSWORD,
    **{f"web.authentication.api_keys.{role}.{what}": value for role, key in KEYS.items()
       for what, value in (("key", key), ("role", role))},
    "web.authentication.api_keys.far.key": FAR_KEY, "web.authentication.api_keys.far.role": "administrator",
    "web.authentication.api_keys.far.cidr": "203.0.113.0/24",
}


class Box(Node):
    """Our daemon, with a password and keys: on loopback too, everybody has to say who they are."""

    def __init__(self, world, name="box", **settings):
        super().__init__(world, name, **AUTHENTICATION, **settings)

    def start(self, wait=True):
        self.session.headers["X-API-Key"] = KEYS["readwrite"]
        super().start(wait)


def neighbours(name="them", big_mib=2, peer=(), **settings):
    """A world with a peer of this name and our box; yields it, and clears it away."""
    world = World(big_mib=big_mib)
    try:
        world.them = Peer(world, "nicotine", name, free_port(), *peer)
        world.box = Box(world, **settings)
        yield world
    finally:
        world.close()
    subprocess.run(["rm", "-rf", str(world.tmp)], check=True)


def files_of(listing):
    """All files of a user's transfers."""
    return [f for d in listing["directories"] for f in d["files"]]
