"""The proxy that cuts one direction of a link (tests/soak/link_proxy.py)."""
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "soak"))
from link_proxy import LinkProxy, advertise  # noqa: E402
from rig import free_port  # noqa: E402


@pytest.fixture
def link():
    """Two links to b: ours, who are a, and that of another process, c; what b reads and may write."""
    real, port = free_port(), free_port()
    server = socket.create_server(("127.0.0.1", real))
    server.settimeout(5)
    proxy = LinkProxy({"b": (port, real)}, lambda: {os.getpid(): "a", other.pid: "c"})  # asked when somebody connects
    other = subprocess.Popen([sys.executable, "-c", "import socket, sys\ns = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
                              "while line := sys.stdin.readline(): s.sendall(line.encode())", str(port)], stdin=subprocess.PIPE, text=True)
    c_at_b, _ = server.accept()
    a = socket.create_connection(("127.0.0.1", port))
    a_at_b, _ = server.accept()
    for s in (a, a_at_b, c_at_b):
        s.settimeout(5)
    yield proxy, a, a_at_b, c_at_b, other, (port, server)
    other.stdin.close()
    other.wait(5)
    for s in (a, a_at_b, c_at_b, server):
        s.close()


def silent(s, seconds=0.3):
    s.settimeout(seconds)
    try:
        return not s.recv(100)
    except TimeoutError:
        return True
    finally:
        s.settimeout(5)


def test_one_direction_of_one_link_is_cut(link):
    proxy, a, a_at_b, c_at_b, c, _ = link
    a.sendall(b"one")
    assert a_at_b.recv(100) == b"one"
    assert proxy.cut("a", "b") == 1
    a.sendall(b"two")
    assert silent(a_at_b)
    a_at_b.sendall(b"back")
    assert a.recv(100) == b"back"
    c.stdin.write("other\n")
    c.stdin.flush()
    assert c_at_b.recv(100) == b"other\n"
    proxy.heal("a", "b")
    assert a_at_b.recv(100) == b"two"


def test_connections_made_meanwhile_are_cut_too(link):
    proxy, *_, (port, server) = link
    proxy.cut("a", "b")
    with socket.create_connection(("127.0.0.1", port)) as a:
        a.sendall(b"late")
        at_b, _ = server.accept()
        with at_b:
            assert silent(at_b)
            proxy.heal("a", "b")
            at_b.settimeout(5)
            assert at_b.recv(100) == b"late"


def test_back_pressure_and_the_end(link):
    proxy, a, a_at_b, *_ = link
    a.settimeout(1)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            sent += a.send(b"x" * 65536)
    assert sent < 64 << 20
    received = 0
    while received < sent:
        received += len(a_at_b.recv(1 << 20))
    a.close()
    time.sleep(0.05)
    assert a_at_b.recv(100) == b""


def test_advertise(tmp_path):
    config = tmp_path / "rookery.yml"
    config.write_text("hosts:\n  - x\ncluster:\n  node: node1\n  port: 1\nhttp:\n")
    assert advertise(config, 77) and not advertise(config, 78)
    assert config.read_text() == "hosts:\n  - x\ncluster:\n  advertise: 127.0.0.1:77\n  node: node1\n  port: 1\nhttp:\n"
