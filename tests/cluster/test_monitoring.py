"""What those who watch a cluster see: /metrics, /health, the registry in Redis, rookeryctl where."""
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from test_cluster import NODES, converse, ring
from test_services import eventually, primary

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
import prometheus  # noqa: E402

LINK = ("link_up", "link_queue_bytes", "link_frames_in_total", "link_frames_out_total", "link_bytes_in_total",
        "link_bytes_out_total", "link_resent_total", "link_duplicates_total", "link_connects_total", "link_rtt_seconds")


def http(cluster, node, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{cluster.port(node, 'http')}{path}", timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def metrics(cluster, node):
    status, text = http(cluster, node, "/metrics")
    assert status == 200
    return {name.removeprefix("rookery_"): value for name, value in prometheus.parse(text).items()}


def health(cluster):
    return [http(cluster, node, "/health") for node in NODES]


def all_well(cluster):
    return eventually(lambda: health(cluster) == [(200, "ok\n")] * len(NODES), 30)


def pairs():
    return [(a, b) for a in NODES for b in NODES if a != b]


def at(name, peer):
    return f'{name}{{peer="node{peer}"}}'


# -- metrics -----------------------------------------------------------------------------------------------------------

def test_metrics_of_the_ring(cluster):
    all_well(cluster)
    seen = [metrics(cluster, node) for node in NODES]
    assert {m["cluster_epoch"] for m in seen} == {ring(cluster, 1)[0]}
    assert {m["cluster_members"] for m in seen} == {len(NODES)} and {m["cluster_lease_ok"] for m in seen} == {1}
    assert sum(m["cluster_slots"] for m in seen) == 4096 and all(m["cluster_slots"] > 1000 for m in seen)


def test_metrics_of_peers(cluster, login):
    """Every node shows the two others; what one has sent the other has received; messages move it."""
    sessions = {node: login(f"user{node}", node) for node in NODES}
    before = {node: metrics(cluster, node) for node in NODES}
    for node, m in before.items():
        for name in LINK:
            shown = {key for key in m if key.startswith(name + "{")}
            assert shown == {at(name, peer) for peer in NODES if peer != node}
    for a, b in pairs():
        converse(sessions[a], sessions[b])

    def agree():
        now = {node: metrics(cluster, node) for node in NODES}
        return all(now[a][at(f"link_{what}_out_total", b)] == now[b][at(f"link_{what}_in_total", a)] and
                   now[a][at("link_queue_bytes", b)] == 0
                   for a, b in pairs() for what in ("frames", "bytes")) and now
    after = eventually(agree)
    for a, b in pairs():
        assert after[a][at("link_up", b)] == 1 and 0 < after[a][at("link_rtt_seconds", b)] < 1
    for node in NODES:
        for name in ("link_frames_out_total", "link_bytes_out_total", "link_frames_in_total", "link_bytes_in_total"):
            assert sum(after[node][at(name, p)] - before[node][at(name, p)] for p in NODES if p != node) > 0, name


def test_metrics_of_storage(cluster, login):
    a, b = login("user1", 1), login("user2", 2)

    def written():
        return sum(metrics(cluster, node)['store_shard_transactions_total{shard="1"}'] for node in NODES)
    before = written()
    converse(a, b)
    assert written() > before
    for node in NODES:
        m = metrics(cluster, node)
        assert m['store_shard_up{shard="1"}'] == 1
        assert m['store_shard_fenced_total{shard="1"}'] >= 0 and m['store_shard_reconnects_total{shard="1"}'] >= 0


# -- health ------------------------------------------------------------------------------------------------------------

def test_health_while_the_database_stands_still(cluster, login):
    """No new clients, please; those who are here stay."""
    all_well(cluster)
    a, b = login("user6", 1), login("user7", 2)
    name, epoch = primary(cluster)["name"], ring(cluster, 1)[0]
    cluster.pause(name)
    try:
        eventually(lambda: health(cluster) == [(503, "database\n")] * len(NODES))
        assert {metrics(cluster, node)["cluster_lease_ok"] for node in NODES} == {0}
        a.ping()
        b.ping()
        a.message(b.jid, "while the database stands still")
    finally:
        cluster.resume(name)
    all_well(cluster)
    b.expect("message", from_=a.jid)
    converse(b, a)
    assert ring(cluster, 1)[0] == epoch, "nobody was evicted"


# -- rookeryctl --------------------------------------------------------------------------------------------------------

def test_every_node_answers_for_every_account(cluster, login, user):
    """Whichever is the account's home."""
    names = [user() for _ in range(4)]
    for name in names:
        for node in NODES:
            raw = login(name, 1, f"asked{node}")
            listed = json.loads(cluster.ctl(node, "--json", "session", "list", raw.bare))
            assert raw.jid in [s["jid"] for s in listed]
            assert json.loads(cluster.ctl(node, "--json", "roster", "show", raw.bare)) == []
            cluster.ctl(node, "session", "kick", raw.jid)
            raw.expect_close()
            with pytest.raises(RuntimeError, match="no such session"):
                cluster.ctl(node, "session", "kick", raw.jid)
    for node in NODES:
        with pytest.raises(RuntimeError, match="no such account"):
            cluster.ctl(node, "user", "del", "nobody@rookery.test")
    homes = {json.loads(cluster.ctl(1, "--json", "where", raw.bare.replace(names[-1], n)))["home"] for n in names}
    assert len(homes) > 1 or len(names) < 4, homes


# -- the registry ------------------------------------------------------------------------------------------------------

def redis(cluster, *command):
    """On the master; None: there is none."""
    master = next((r for r in cluster.status()["redis"] if r["role"] == "master"), None)
    if not master:
        return None
    password = (cluster.top / "certs/redis-password").read_text().strip()
    return subprocess.run(["redis-cli", "-p", str(master["port"]), *command], env={**os.environ, "REDISCLI_AUTH": password},
                          text=True, capture_output=True, check=True, timeout=10).stdout.splitlines()


def registry(cluster, users):
    """{(full JID, session, node)} that Redis has of these users."""
    names = {(m["node"], m["incarnation"]): m["name"] for m in json.loads(cluster.ctl(1, "--json", "cluster"))["members"]}
    found = set()
    for user in users:
        lines = redis(cluster, "HGETALL", f"s:{user}")
        for resource, value in zip(lines[::2] or [], lines[1::2]):
            node, incarnation, session, *_ = value.split("|")
            found.add((f"{user}/{resource}", int(session, 16), names.get((int(node), int(incarnation)))))
    return found


def where(cluster, users):
    return {(s["jid"], int(s["session"], 16), s["node"])
            for user in users for s in json.loads(cluster.ctl(1, "--json", "where", user))["sessions"]}


def agreed(cluster, users, sockets):
    """Redis and storage name these sessions {full JID: node} and no others."""
    sockets = {(jid, f"node{node}") for jid, node in sockets.items()}

    def same():
        try:
            r = registry(cluster, users)
        except (TypeError, subprocess.SubprocessError):  # no Redis yet
            return False
        return r == where(cluster, users) and {(jid, node) for jid, _, node in r} == sockets
    eventually(same, 30)


def everywhere(login, user, count=4):
    """[(session, node)]: users with a session on each node."""
    return [(login(name, node, f"at{node}"), node) for name in [user() for _ in range(count)] for node in NODES]


def test_redis_comes_back_empty(cluster, login, user):
    """The registry is complete again, with what has changed meanwhile; no stream noticed anything."""
    sessions = everywhere(login, user)
    users = {raw.bare for raw, _ in sessions}
    sockets = {raw.jid: node for raw, node in sessions}
    agreed(cluster, users, sockets)
    cluster.kill("redis1", "redis2", "sentinels")
    try:
        (gone, _), (a, _), (b, _) = sessions.pop(0), sessions[0], sessions[-1]
        del sockets[gone.jid]
        gone.close()
        new = login(a.bare.split("@")[0], 3, "new")
        sockets[new.jid] = 3
        a.presence("<show>away</show>")
        converse(a, b)
        time.sleep(3)
    finally:
        cluster.start("redis", "sentinels")
    agreed(cluster, users, sockets)
    resource = a.jid.split("/")[1]
    assert "|away|" in redis(cluster, "HGET", f"s:{a.bare}", resource)[0]
    for raw, _ in sessions:
        raw.ping()


def test_the_registry_after_a_node_died(cluster, login, user):
    """Sessions outlive their home in it, and end with the node of their socket."""
    sessions = everywhere(login, user)
    users = {raw.bare for raw, _ in sessions}
    agreed(cluster, users, {raw.jid: node for raw, node in sessions})
    try:
        cluster.kill("node3")
        eventually(lambda: ring(cluster, 1)[1] == ["node1", "node2"])
        agreed(cluster, users, {raw.jid: node for raw, node in sessions if node != 3})
    finally:
        cluster.start("node3")
    eventually(lambda: all(ring(cluster, n) == ring(cluster, 1) and len(ring(cluster, n)[1]) == 3 for n in NODES))
    agreed(cluster, users, {raw.jid: node for raw, node in sessions if node != 3})
