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
    """Answers that there is no such name, at the address of this machine's name server, in the tests' own network."""
    found = re.search(r"^nameserver\s+([0-9.]+)$", Path("/etc/resolv.conf").read_text(), re.M)
    address = found[1] if found else "127.0.0.1"
    if not address.startswith("127."):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    cable()

    def answer(server):
        while True:
            question, asker = server.recvfrom(1500)
            if len(question) >= 12:
                # The same question with: an answer, recursion available, no such name; nothing behind the question.
                end = 12
                while end < len(question) and question[end]:
                    end += question[end] + 1
                server.sendto(question[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + question[12 : end + 5], asker)

    for at in (address, HERE_IS):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((at, 53))
        threading.Thread(target=answer, args=[server], daemon=True).start()
