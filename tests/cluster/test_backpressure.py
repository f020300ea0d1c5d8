"""The link to a node that does not read fills up: clients are read slower, and nothing is dropped."""
import json
import re
import threading
import time
import urllib.request

from raw import text
from test_services import eventually

LIMIT = 1 << 20
BODY = 10000


def slower(cluster):
    """A short queue, and a lease that no pause outlasts."""
    for node in (1, 2):
        cluster.stop(f"node{node}")
        path = cluster.node_dir(node) / "rookery.yml"
        path.write_text(path.read_text().replace("cluster:\n", "cluster:\n  max_queue: 1MiB\n  lease: 120s\n"))
        cluster.start(f"node{node}")
    eventually(lambda: all(len(json.loads(cluster.ctl(n, "--json", "cluster"))["members"]) == 2 for n in (1, 2)))


def queued(cluster):
    """Bytes that node1's link keeps for node2."""
    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.port(1, 'http')}/metrics", timeout=10) as reply:
        return int(re.search(r"^rookery_link_queue_bytes\{[^}]*\} (\d+)", reply.read().decode(), re.M).group(1))


def home(cluster, user):
    return json.loads(cluster.ctl(1, "--json", "where", f"{user}@{cluster.domains[0]}"))["home"]


def send(raw, to, count):
    for n in range(count):
        raw.message(to, f"{raw.name} {n:04} " + "x" * BODY)


def test_a_node_that_does_not_read(new_cluster, login):
    c = new_cluster(nodes=2, users=24)
    slower(c)
    at = {n: [f"user{i}" for i in range(24) if home(c, f"user{i}") == f"node{n}"] for n in (1, 2)}
    recipient = login(at[2][0], 2, of=c)
    senders = [login(user, 1, of=c) for user in at[1][:6]]
    for raw in senders:
        raw.enable_sm(resume=False)
        raw.TIMEOUT = 120  # of sending, too: the server does not read for a while
    c.pause("node2")
    count = 100
    threads = [threading.Thread(target=send, args=(raw, recipient.jid, count), daemon=True) for raw in senders]
    for t in threads:
        t.start()
    eventually(lambda: queued(c) > LIMIT // 4)
    time.sleep(1)
    assert queued(c) < LIMIT  # most is still at the clients
    c.resume("node2")
    got = {}
    while sum(map(len, got.values())) < count * len(senders):
        body = text(recipient.expect("message", timeout=60), "body")
        name, n = re.match(r"(.*) (\d{4}) x", body).groups()
        got.setdefault(name, []).append(int(n))
    assert all(got[raw.name] == list(range(count)) for raw in senders)
    for t in threads:
        t.join(60)
    for raw in senders:
        eventually(lambda: raw.acked() == count)
    assert "frame-dropped" not in c.log("node1") + c.log("node2")
