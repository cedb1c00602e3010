"""Counts how often files are opened, whoever does it, as the kernel tells (inotify)."""
import collections
import ctypes
import os
import select
import struct
import threading

IN_OPEN, IN_ISDIR, IN_Q_OVERFLOW = 0x20, 0x40000000, 0x4000


class Opens:
    """Names of files below these folders -> how often they were opened since it began."""

    def __init__(self, folders):
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self.descriptor >= 0, os.strerror(ctypes.get_errno())
        for folder in folders:
            assert libc.inotify_add_watch(self.descriptor, os.fsencode(folder), IN_OPEN) >= 0, os.strerror(ctypes.get_errno())
        self.counts, self.lost, self.over = collections.Counter(), False, threading.Event()
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

    def listen(self):
        while not self.over.is_set():
            if select.select([self.descriptor], [], [], 0.1)[0]:
                self.take()

    def take(self):
        data, at = os.read(self.descriptor, 1 << 20), 0
        while at < len(data):
            _, mask, _, length = struct.unpack_from("iIII", data, at)
            name = os.fsdecode(data[at + 16:at + 16 + length].rstrip(b"\0"))
            at += 16 + length
            self.lost |= bool(mask & IN_Q_OVERFLOW)
            if mask & IN_OPEN and not mask & IN_ISDIR and name:
                self.counts[name] += 1

    def end(self):
        """The counts; nothing is counted any more."""
        self.over.set()
        self.thread.join()
        while select.select([self.descriptor], [], [], 0)[0]:
            self.take()
        os.close(self.descriptor)
        assert not self.lost, "the kernel had more to tell than it kept"
        return self.counts
