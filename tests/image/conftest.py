"""A name server for the boxes: QEMU passes their questions to this machine's, which nothing reaches in here. An unreachable
one would be asked again without a pause, and that is all an emulated box would have time for."""
import re
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from machine import HERE_IS, cable


@pytest.fixture(scope="session", autouse=True)
def names():
    """Answers that there is no such name, at the address of this machine's name server, in the tests' own network. A name
    that a test puts into this, with an IPv4 address, is there."""
    known = {}
    found = re.search(r"^nameserver\s+([0-9.]+)$", Path("/etc/resolv.conf").read_text(), re.M)
    address = found[1] if found else "127.0.0.1"
    if not address.startswith("127."):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    cable()

    def answer(server):
        while True:
            question, asker = server.recvfrom(1500)
            if len(question) >= 12:
                end, words = 12, []
                while end < len(question) and question[end]:
                    words.append(question[end + 1 : end + 1 + question[end]])
                    end += question[end] + 1
                asked, found = question[12 : end + 5], known.get(b".".join(words).decode(errors="replace").lower())
                # The same question with: an answer, recursion available, no such name; nothing behind the question. Of a
                # name that is there: the address, to who asks for IPv4 (1), good for a minute.
                is_there = found is not None and asked[-4:-2] == b"\0\1"
                record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(found) if is_there else b""
                code = b"\x81\x83" if found is None else b"\x81\x80"
                server.sendto(question[:2] + code + bytes([0, 1, 0, is_there, 0, 0, 0, 0]) + asked + record, asker)

    for at in (address, HERE_IS):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((at, 53))
        threading.Thread(target=answer, args=[server], daemon=True).start()
    return known
