"""Smoke: three nodes that act as one server, and what happens when a part of it dies. The histories of thousands of
messages under faults are elsewhere; here is whether deploy/cluster does what it says."""
import json
import threading
import time
import urllib.request

import pytest

from raw import StreamClosed, Timeout, get, qname, text
from test_services import below, eventually

NODES = (1, 2, 3)


def ring(cluster, node):
    """(epoch, names of the members) as the node sees them; None when it does not answer."""
    answer = cluster.ctl(node, "--json", "cluster", check=False)
    if not answer:
        return None
    r = json.loads(answer)
    return r["epoch"], sorted(m["name"] for m in r["members"])


def expect_body(raw, body, **more):
    return raw.expect("message", where=lambda e: text(e, "body") == body, **more)


def converse(a, b, count=5, timeout=20):
    """Messages from a to b arrive in their order."""
    bodies = [f"{a.name} {n} {time.monotonic()}" for n in range(count)]
    for body in bodies:
        a.message(b.jid, body)
    got = []
    while len(got) < count:
        e = b.expect("message", where=lambda e: (text(e, "body") or "").startswith(a.name), timeout=timeout)
        got.append(text(e, "body"))
    assert got == bodies


def test_status(cluster):
    status = cluster.status()
    assert [n["name"] for n in status["nodes"]] == ["node1", "node2", "node3"]
    assert len({n["cluster"]["epoch"] for n in status["nodes"]}) == 1
    for n in status["nodes"]:
        assert n["state"] == "running" and n["ports"]["tls"] == cluster.port(int(n["name"][-1]))
        members = n["cluster"]["members"]
        assert [m["name"] for m in members] == ["node1", "node2", "node3"]
        assert sum(m["slots"] for m in members) == 4096 and all(m["slots"] > 1000 for m in members)
    assert [(s["role"], s["state"]) for s in status["postgres"]] == [("primary", "running"), ("standby", "running")]
    assert sorted(s["role"] for s in status["redis"]) == ["master", "replica", "sentinel", "sentinel", "sentinel"]


@pytest.mark.parametrize("node", NODES)
def test_every_node_lets_users_in(cluster, login, node):
    login("user0", node).ping()
    login("user9", node).ping()
    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.port(node, 'http')}/health", timeout=5) as reply:
        assert reply.status == 200


def test_a_new_account_is_there_on_every_node(login, user):
    name = user()
    for node in NODES:
        login(name, node, f"r{node}").ping()


def test_chat_between_all_nodes(login):
    """Every pair of nodes both ways, and within one."""
    sessions = [login(f"user{node}", node) for node in NODES] + [login("user4", 1)]
    for a in sessions:
        for b in sessions:
            if a is not b:
                converse(a, b)


def test_sessions_of_one_account_on_two_nodes(login, user):
    """They see each other's presence, and what one of them sends or gets."""
    me, other = user(), login(user(), 3)
    one = login(me, 1, "one")
    two = login(me, 2, "two")
    one.expect("presence", from_=two.jid)
    two.expect("presence", from_=one.jid)
    two.result("set", "<enable xmlns='urn:xmpp:carbons:2'/>")
    other.message(one.jid, "to one")
    expect_body(one, "to one")
    two.expect("message", where=lambda e: get(e, "carbons:received") is not None)
    one.message(other.jid, "from one")
    expect_body(other, "from one")
    two.expect("message", where=lambda e: get(e, "carbons:sent") is not None)


def test_a_message_waits_for_who_is_away(login, user):
    away, a = user(), login(user(), 1)
    a.message(f"{away}@{a.domain}", "are you there?")
    a.ping()
    expect_body(login(away, 3), "are you there?")


def test_a_killed_node_is_left_out_and_comes_back(cluster, login):
    epoch = ring(cluster, 1)[0]
    lost, a, b = login("user5", 3), login("user6", 1), login("user7", 2)
    try:
        cluster.kill("node3")
        assert {n["name"]: n["state"] for n in cluster.status()["nodes"]}["node3"] == "dead"
        with pytest.raises((StreamClosed, OSError, Timeout)):
            lost.ping()
        eventually(lambda: all((r := ring(cluster, n)) and r[0] > epoch and r[1] == ["node1", "node2"] for n in (1, 2)))
        converse(a, b)
        converse(b, a)
    finally:
        cluster.start("node3")
    eventually(lambda: (r := ring(cluster, 1))[1] == ["node1", "node2", "node3"] and all(ring(cluster, n) == r for n in NODES))
    c = login("user5", 3)
    converse(c, a)
    converse(b, c)


def test_a_stopped_node_leaves_the_ring(cluster, login):
    a, b = login("user6", 1), login("user7", 3)
    try:
        cluster.stop("node2")
        eventually(lambda: all(ring(cluster, n)[1] == ["node1", "node3"] for n in (1, 3)))
        converse(a, b)
    finally:
        cluster.start("node2")


def test_the_database_fails_over(cluster, login):
    """Streams stay open; what was sent meanwhile arrives."""
    a, b = login("user6", 1), login("user7", 2)
    converse(a, b)
    cluster.kill("pg")
    a.message(b.jid, "while nobody takes writes")
    time.sleep(1)
    cluster.promote()
    expect_body(b, "while nobody takes writes", timeout=30)
    converse(b, a)
    cluster.start("pg")
    converse(a, b)


def home(cluster, user):
    return json.loads(cluster.ctl(1, "--json", "where", f"{user}@{cluster.domains[0]}"))["home"]


def test_a_node_that_starts_waits_for_a_primary(cluster, login):
    cluster.stop("node3")
    cluster.kill("pg")
    start = threading.Thread(target=cluster.start, args=("node3",))
    start.start()
    eventually(lambda: "event=waiting" in cluster.log("node3"))
    cluster.promote()
    start.join(60)
    assert not start.is_alive()
    cluster.start("pg")
    login("user3", 3).ping()


def test_nothing_comes_before_resumed(cluster, login):
    """<resumed/> waits until what was sent before is committed, here at a home that hangs; the rest waits behind it, <r/> too."""
    homes = {f"user{i}": home(cluster, f"user{i}") for i in range(10)}
    away = next(name for name, h in homes.items() if h == "node3")
    here = [name for name, h in homes.items() if h != "node3"]
    a, c = login(here[0], 1), login(here[1], 1)
    previd = a.enable_sm().get("id")
    new = login(here[0], 1, bind=False)
    new.answer_acks = False  # an <r/> is not answered but kept
    cluster.pause("node3")
    try:
        a.message(f"{away}@{cluster.domains[0]}", "not yet committed")
        time.sleep(0.2)  # its node has it before the other connection speaks
        new.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='{a.handled}'/>")
        c.send(f"<iq type='get' id='while' to='{a.jid}'><ping xmlns='urn:xmpp:ping'/></iq>")
        time.sleep(1)
    finally:
        cluster.resume("node3")
    assert new.expect_any("sm:resumed", "sm:r", "iq").tag == qname("sm:resumed")
    new.expect("iq", where=lambda e: e.get("id") == "while")


def test_redis_is_not_needed(cluster, login):
    a, b = login("user6", 1), login("user7", 2)
    cluster.kill("redis1", "redis2", "sentinels")
    try:
        converse(a, b)
        converse(login("user8", 3), a)
    finally:
        cluster.start("redis", "sentinels")


def test_a_supervisor_starts_what_dies_and_down_ends_all(new_cluster):
    c = new_cluster(nodes=2, supervise=True)
    before = c.pids()
    c.kill("node2")
    eventually(lambda: c.pids().get("node2") not in (None, before["node2"]))
    eventually(lambda: (r := ring(c, 1)) and r[1] == ["node1", "node2"] and ring(c, 2) == r)
    c.stop("node2")
    time.sleep(1)
    assert "node2" not in c.pids(), "stopped is stopped"
    assert below(c.dir)
    c.tool("down")
    assert below(c.dir) == []
