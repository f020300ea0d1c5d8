"""Fixtures: one cluster for all tests of a process that leave it as it was, and clusters of a test's own."""
import itertools
import os
import secrets
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "protocol"))  # raw.py; `rig` is ours
import rig  # noqa: E402
from raw import Raw  # noqa: E402

_numbers = itertools.count(1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed and call.when == "call":
        for raw in Raw.created:
            report.sections.append((f"stream of {raw.name}", raw.transcript()))


@pytest.fixture
def new_cluster():
    """Makes and starts a cluster: new_cluster(nodes=2, users=10)."""
    Raw.created.clear()
    clusters = []

    def make(**settings):
        clusters.append(rig.Cluster(**settings))
        return clusters[-1].up()
    yield make
    yield from leave(clusters)


@pytest.fixture(scope="session")
def cluster():
    """Three nodes; who kills one starts it again."""
    c = rig.Cluster(users=10)
    yield from leave([c], lambda: c.up())


def leave(clusters, begin=None):
    """The clusters end without a complaint of the sanitizers, and nothing stays behind."""
    try:
        if begin:
            yield begin()
        found = [complaint for c in clusters for complaint in c.down()]
        assert not found, "\n".join(found)
    finally:
        for c in clusters:
            c.remove()


@pytest.fixture
def login(cluster):
    """A bound session on a node: login('user0', 2), login('user0', 2, 'phone', presence=False). bind=False:
    authenticated only."""
    Raw.created.clear()

    def make(user, node, resource=None, presence=True, of=None, password="secret", bind=True):
        c = of or cluster
        raw = Raw(c.port(node), c.domains[0]).start_tls(alpn=["xmpp-client"])
        raw.name = f"{user} at node{node}"
        raw.features = raw.open()
        failure = raw.auth(user, password)
        assert failure is None, failure
        raw.features = raw.open()
        if bind:
            raw.bind(resource)
        if bind and presence:
            raw.presence()
        return raw
    yield make
    for raw in Raw.created:
        raw.close()


@pytest.fixture
def user(cluster):
    """Makes a new account; its name."""
    def make():
        name = f"u-{os.getpid()}-{next(_numbers)}"
        cluster.ctl(1, "user", "add", f"{name}@{cluster.domains[0]}", "-", input="secret\n")
        return name
    return make
