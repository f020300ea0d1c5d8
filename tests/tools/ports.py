"""Ports for servers of tests: below those that the kernel gives to clients (a server that is down for a moment finds its own port
free again), in hundreds that lock files keep from all other tests of this machine until they are given back or this process ends."""
import fcntl
import itertools
import random
import socket

_locks, _ports = {}, []


def free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def give_back_files(files):
    for f in files:
        f.close()


def give_back(base):
    """What free_hundreds gave, when nothing listens there any more."""
    give_back_files(_locks.pop(base, []))


def free_hundreds(count=1):
    """The first port of so many free hundreds in a row."""
    span = 100 * count
    bases = list(range(10000, 32000 - span, span))
    random.SystemRandom().shuffle(bases)
    for base in bases:
        # A span may overlap one of another size: each hundred has its own lock.
        files = [open(f"/tmp/rookery-ports-{base // 100 + i}.lock", "w") for i in range(count)]
        try:
            for f in files:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            give_back_files(files)
            continue
        if all(map(free, range(base, base + span))):
            _locks[base] = files
            return base
        give_back_files(files)
    raise RuntimeError("no free ports")


def free_port():
    """One port, from a hundred of this process's own; they come round again."""
    if not _ports:
        base = free_hundreds()
        _ports.append(itertools.cycle(range(base, base + 100)))
    return next(p for p in itertools.islice(_ports[0], 100) if free(p))
