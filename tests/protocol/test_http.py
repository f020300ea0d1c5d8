"""The HTTP port: requests as they may come, and as they must not; /health; /metrics in Prometheus' format, and that it moves."""
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from prometheus import parse  # noqa: E402

pytestmark = [pytest.mark.rookery, pytest.mark.single("the HTTP port of one node")]

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


class Http:
    """One connection; reads answers strictly."""

    def __init__(self, server, timeout=10):
        self.socket = socket.create_connection(("127.0.0.1", server.http_port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""

    def send(self, data):
        self.socket.sendall(data)

    def more(self):
        got = self.socket.recv(65536)
        self.data += got
        return got

    def answer(self, head=False):
        """(status, fields, body)"""
        while b"\r\n\r\n" not in self.data:
            assert self.more(), f"the connection ended: {self.data!r}"
        top, self.data = self.data.split(b"\r\n\r\n", 1)
        line, *rest = top.decode("ascii").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        fields = {k.lower(): v for k, v in (f.split(": ", 1) for f in rest)}
        size = 0 if head else int(fields["content-length"])
        while len(self.data) < size:
            assert self.more()
        body, self.data = self.data[:size], self.data[size:]
        return int(status), fields, body

    def ended(self):
        """No byte more, and then the end."""
        return not self.data and not self.more()

    def close(self):
        self.socket.close()


@pytest.fixture
def http(server):
    made = []

    def make(at=None):
        made.append(Http(at or server))
        return made[-1]
    yield make
    for h in made:
        h.close()


def ask(h, path, method="GET", extra=""):
    h.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
    return h.answer(head=method == "HEAD")


# -- requests --------------------------------------------------------------------------------------------------------

@pytest.mark.smoke
def test_health(http):
    status, fields, body = ask(http(), "/health")
    assert (status, body, fields["connection"]) == (200, b"ok\n", "keep-alive")
    assert fields["date"].endswith(" GMT") and fields["content-type"].startswith("text/plain")


def test_keep_alive(http):
    h = http()
    for _ in range(20):
        assert ask(h, "/health")[0] == 200


def test_byte_by_byte(http):
    h = http()
    for _ in range(2):
        for i in range(len(GET)):
            h.send(GET[i:i + 1])
        assert h.answer()[0] == 200


def test_split_anywhere(http):
    h = http()
    for i in range(1, len(GET)):
        h.send(GET[:i])
        time.sleep(0.002)
        h.send(GET[i:])
        assert h.answer()[0] == 200


def test_pipelining_keeps_the_order(http):
    h = http()
    h.send((GET + b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" + b"POST /health HTTP/1.1\r\nHost: x\r\n\r\n") * 50)
    assert [h.answer()[0] for _ in range(150)] == [200, 404, 405] * 50


def test_many_large_answers_wait_for_their_reader(http, server):
    """A client that asks and asks and does not read costs little memory, and gets all of it in the end."""
    h, n = http(), 1000
    before = server.rss()
    h.socket.settimeout(20)
    import threading
    thread = threading.Thread(target=h.send, args=(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * n,))
    thread.start()
    time.sleep(0.5)
    assert server.rss() - before < 16 << 20 or server.sanitized()
    assert all(h.answer()[0] == 200 for _ in range(n))
    thread.join()


def test_head(http):
    h = http()
    status, fields, _ = ask(h, "/metrics", "HEAD")
    assert status == 200 and int(fields["content-length"]) > 1000
    assert ask(h, "/health")[2] == b"ok\n"  # nothing stood between them


def test_unknown_path_and_wrong_method(http):
    h = http()
    assert ask(h, "/")[0] == 404
    assert ask(h, "/nothing", "HEAD")[0] == 404
    for method in ("POST", "DELETE", "OPTIONS", "PUT"):
        status, fields, _ = ask(h, "/health", method)
        assert (status, fields["allow"]) == (405, "GET, HEAD")
    assert ask(h, "*", "OPTIONS")[0] == 404


def test_query_and_absolute_form(http):
    h = http()
    assert ask(h, "/health?verbose=1")[0] == 200
    assert ask(h, "http://localhost:80/health")[0] == 200
    assert ask(h, "http://localhost")[0] == 404


@pytest.mark.parametrize("path, status", [
    ("/%68ealth", 200),       # decoded once
    ("/%2568ealth", 404),     # not twice
    ("/health/", 404), ("//health", 404), ("/./health", 404), ("/x/../health", 404), ("/%2e/health", 404),
    ("/health;a=b", 404), ("/x/%2e%2e/health", 404), ("/..%2fhealth", 404), ("/HEALTH", 404), ("/health%20", 404),
    ("/%u0068ealth", 400), ("/health%", 400), ("/health%6", 400), ("/health%00", 400), ("/health%zz", 400),
])
def test_path_is_compared_after_one_decoding(http, path, status):
    assert ask(http(), path)[0] == status


def test_upgrade_is_ignored(http):
    h = http()
    assert ask(h, "/health", extra="Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n")[0] == 200
    assert ask(h, "/health")[0] == 200


def test_connection_close(http):
    h = http()
    assert ask(h, "/health", extra="Connection: close\r\n")[1]["connection"] == "close"
    assert h.ended()


def test_http_1_0(http):
    h = http()
    h.send(b"GET /health HTTP/1.0\r\n\r\n")
    status, fields, body = h.answer()
    assert (status, fields["connection"], body) == (200, "close", b"ok\n") and h.ended()
    h = http()
    for _ in range(3):
        h.send(b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert h.answer()[1]["connection"] == "keep-alive"


def test_half_closed(http):
    h = http()
    h.send(GET)
    h.socket.shutdown(socket.SHUT_WR)
    assert h.answer()[2] == b"ok\n" and h.ended()


def test_empty_content_length(http):
    h = http()
    assert ask(h, "/health", extra="Content-Length: 0\r\n")[0] == 200
    assert ask(h, "/health")[0] == 200


# -- what is refused -------------------------------------------------------------------------------------------------

REFUSED = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "not http": (b"<?xml version='1.0'?><stream:stream>", 400),
    "http/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "http/0.9": (b"GET /health\r\n\r\n", 505),
    "no method like that": (b"FETCH /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "another version": (b"GET /health HTTP/1.2\r\nHost: x\r\n\r\n", 505),
    "bare LF": (b"GET /health HTTP/1.1\nHost: x\n\n", 400),
    "bare LF in the fields": (b"GET /health HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    "bare LF at the end": (b"GET /health HTTP/1.1\r\nHost: x\r\n\n", 400),
    "bare CR": (b"GET /health HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", 400),
    "bare LF before": (b"\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "NUL": (b"GET /health HTTP/1.1\r\nHost: x\0\r\n\r\n", 400),
    "folded": (b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
    "space before the colon": (b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n", 400),
    "length and chunks": (b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "chunks and length": (b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", 400),
    "chunks": (b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    "another encoding": (b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", (400, 501)),
    "two lengths": (b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 4\r\n\r\n", 400),
    "a negative length": (b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    "a body": (b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 33\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 413),
    "CONNECT": (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", (400, 404)),
    "a long target": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    "a long field": (b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 9000 + b"\r\n\r\n", 431),
    "many fields": (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 2000 + b"\r\n", 431),
    "lines without end": (b"\r\n" * 5000, 431),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("whole", (True, False), ids=("whole", "in pieces"))
def test_refused(http, name, whole):
    data, expected = REFUSED[name]
    h = http()
    try:
        for part in [data] if whole else [data[i:i + 1] for i in range(0, 300)] + [data[300:]]:
            h.send(part)
    except OSError:
        pass  # it did not want to hear the rest
    status, fields, _ = h.answer()
    assert status in (expected if isinstance(expected, tuple) else (expected,))
    if status != 404:
        assert fields["connection"] == "close" and h.ended()


def test_nothing_behind_a_refused_request_is_read(http):
    h = http()
    h.send(b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET)
    assert h.answer()[0] == 400 and h.ended()


def test_head_of_8_kib_is_fine(http):
    h = http()
    before = b"GET /health HTTP/1.1\r\nHost: x\r\nA: "
    for extra, status in ((0, 200), (1, 431)):
        h.send(before + b"a" * (8192 - len(before) - 4 + extra) + b"\r\n\r\n")
        assert h.answer()[0] == status


def test_slow_and_silent_clients_are_closed(http):
    slow, silent, start = http(), http(), time.monotonic()
    slow.socket.settimeout(15)
    silent.socket.settimeout(15)
    slow.send(GET[:20])
    assert silent.ended()
    assert slow.answer()[0] == 408 and slow.ended()
    assert 9 < time.monotonic() - start < 13


def test_connections_are_limited(new_server, http):
    """More than 256 on one worker: further ones are closed, and as soon as some go others are served."""
    server = new_server(node={"workers": 1})
    many = [http(server) for _ in range(300)]
    for h in many:
        h.send(GET)
    served = []
    for h in many:
        try:
            served.append(h.answer()[0])
        except (AssertionError, OSError):
            pass
    assert served == [200] * 256
    for h in many[:10]:
        h.close()
    time.sleep(0.1)
    assert ask(http(server), "/health")[0] == 200


def test_stopping_is_unhealthy(new_server, http, login):
    """The port is open until the end and says why nobody should come."""
    server = new_server(node={"workers": 1})
    h = http(server)
    assert ask(h, "/health")[0] == 200
    # the HTTP request waits in the kernel together with the signal
    server.process.send_signal(signal.SIGSTOP)
    server.process.send_signal(signal.SIGTERM)
    server.process.send_signal(signal.SIGCONT)
    answers = []
    try:
        while True:
            answers.append(ask(h, "/health")[::2])
    except (AssertionError, OSError):
        pass
    assert (503, b"stopping\n") in answers
    server.process.wait(10)


# -- metrics ---------------------------------------------------------------------------------------------------------

def metrics(h):
    status, fields, body = ask(h, "/metrics")
    assert status == 200 and fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(body.decode())


@pytest.mark.smoke
def test_metrics_are_of_the_format(http):
    m = metrics(http())
    assert any(k.startswith('rookery_build_info{version="') for k in m)
    assert m["process_resident_memory_bytes"] > 1 << 20 and m["process_cpu_seconds_total"] > 0
    assert m["rookery_loop_turn_seconds_count"] > 0


def test_counters_move(new_server, http, login, account):
    server = new_server()
    a, b = account(at=server), account(at=server)
    sender, reader = login(a, at=server, presence=True), login(b, at=server, presence=True)
    sender.enable_sm()
    h = http(server)
    before = metrics(h)
    for i in range(5):
        sender.message(b.jid, body=f"number {i}")
        reader.expect("message", timeout=5)
    sender.acked()
    time.sleep(0.3)
    after = metrics(h)
    grown = {k: after[k] - before[k] for k in after if k in before}
    assert grown['rookery_stanzas_in_total{kind="message"}'] == 5
    assert grown['rookery_stanzas_out_total{kind="message"}'] == 5
    assert grown["rookery_messages_committed_total"] == 10  # his copy and hers
    assert grown["rookery_messages_delivered_total"] == 5
    assert grown["rookery_stanzas_acknowledged_total"] == 5
    assert grown["rookery_store_commit_seconds_count"] >= 10 and grown["rookery_store_commit_seconds_sum"] > 0
    assert grown["rookery_store_batch_operations_count"] == grown["rookery_store_batches_total"] > 0
    assert grown["rookery_store_batch_operations_sum"] == grown["rookery_store_operations_total"] >= 10
    assert grown["rookery_store_failed_total"] == 0
    assert grown["rookery_http_requests_total"] == 1
    assert after["rookery_sessions"] == 2 and after["rookery_connections"] == 2
    assert after["rookery_store_queued"] == 0


def test_unacknowledged_bytes(new_server, http, login, account):
    server = new_server()
    a, b = account(at=server), account(at=server)
    sender, reader = login(a, at=server, presence=True), login(b, at=server, presence=True)
    reader.answer_acks = False
    reader.enable_sm()
    h = http(server)
    assert metrics(h)["rookery_unacknowledged_bytes"] == 0
    sender.message(b.jid, body="x" * 1000)
    reader.expect("message", timeout=5)
    assert metrics(h)["rookery_unacknowledged_bytes"] > 1000
    reader.send("<a xmlns='urn:xmpp:sm:3' h='1'/>")
    reader.ping()
    assert metrics(h)["rookery_unacknowledged_bytes"] < 1000
    reader.send("</stream:stream>")
    time.sleep(0.5)
    assert metrics(h)["rookery_unacknowledged_bytes"] == 0
