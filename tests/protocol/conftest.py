"""Fixtures: one server per test process, new accounts per test, and the streams' logs when a test fails."""
import itertools
import os
import secrets
from dataclasses import dataclass

import pytest

import rig
from raw import Raw, get

_numbers = itertools.count(1)


def pytest_configure(config):
    config.addinivalue_line("markers", "rookery: speaks of our own configuration or rules; skipped for other servers")
    config.addinivalue_line("markers", "smoke: a short choice of tests, for slow builds")
    config.addinivalue_line("markers", "single(why): about one process; skipped with ROOKERY_TEST_CLUSTER=1")
    config.addinivalue_line("markers", "deviates(server, why): another server is known to differ here")


def pytest_collection_modifyitems(items):
    for item in items if rig.clustered() else []:
        if mark := item.get_closest_marker("single"):
            item.add_marker(pytest.mark.skip(reason=f"single node only: {mark.args[0]}"))
    other = os.environ.get("ROOKERY_TEST_SERVER", "rookery")
    if other == "rookery":
        return
    for item in items:
        if item.get_closest_marker("rookery"):
            item.add_marker(pytest.mark.skip(reason="about Rookery only"))
        for mark in item.iter_markers("deviates"):
            if mark.args[0] == other:
                item.add_marker(pytest.mark.xfail(reason=mark.args[1], strict=False))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed and call.when == "call":
        for raw in Raw.created:
            report.sections.append((f"stream of {raw.name}", raw.transcript()))


@dataclass
class Account:
    local: str
    domain: str
    password: str

    @property
    def jid(self):
        return f"{self.local}@{self.domain}"


def stop_cleanly(server):
    """SIGTERM, and nothing that a sanitizer complained about since the start."""
    code, log = server.stop(), server.log()
    for word in ("Sanitizer", "runtime error:"):
        at = log.find(word)
        assert at < 0, log[max(0, at - 500):][:8000]
    assert server.kind != "rookery" or code in (0, -9), f"exit code {code} at SIGTERM:\n{log[-4000:]}"


@pytest.fixture(scope="session")
def server():
    s = rig.new_server()
    try:
        yield s.start()
        stop_cleanly(s)
    finally:
        s.remove()


@pytest.fixture
def new_server():
    """Starts a server of the test's own: new_server(c2s={'sasl_timeout_ms': 300}); start=False: only makes it."""
    servers = []

    def make(start=True, **settings):
        servers.append(rig.new_server(**settings))
        return servers[-1].start() if start else servers[-1]
    yield make
    try:
        for s in servers:
            if s.process:
                stop_cleanly(s)
    finally:
        for s in servers:
            s.remove()


@pytest.fixture
def account(server):
    """Makes a new account: account(), account(name='tybalt', domain='second.test', at=another server)."""
    def make(name="user", domain=None, password=None, at=None):
        a = Account(f"{name}-{os.getpid()}-{next(_numbers)}", domain or server.domain, password or secrets.token_hex(8))
        (at or server).add_user(a.local, a.domain, a.password)
        return a
    return make


@pytest.fixture
def connect(server):
    """A Raw connection: connect() in clear, connect(tls=True) direct TLS with a stream not yet opened."""
    Raw.created.clear()

    def make(tls=False, domain=None, at=None, **more):
        s = at or server
        raw = Raw(s.tls_port if tls else s.port, domain or s.domain, **more)
        return raw.start_tls(alpn=["xmpp-client"]) if tls else raw
    yield make
    for raw in Raw.created:
        raw.close()


@pytest.fixture
def secure(connect):
    """A connection with its stream open under TLS, not authenticated; .features are its features."""
    def make(**more):
        raw = connect(tls=True, **more)
        raw.features = raw.open()
        return raw
    return make


@pytest.fixture
def login(secure, account):
    """A bound session: login(), login(account), login(account, 'resource', presence=True, roster=True)."""
    def make(who=None, resource=None, presence=False, roster=False, bind=True, **more):
        who = who or account(at=more.get("at"))
        raw = secure(domain=who.domain, **more)
        raw.account, raw.name = who, f"{who.local}/{resource or ''}"
        failure = raw.auth(who.local, who.password)
        assert failure is None, failure
        raw.features = raw.open()
        if bind:
            raw.bind(resource)
        if roster:
            raw.roster = raw.result("get", "<query xmlns='jabber:iq:roster'/>")
        if presence:
            raw.presence()
        return raw
    return make


@pytest.fixture
def friends(login):
    """Two sessions, available, whose accounts are subscribed to each other, with nothing left in their queues."""
    def make(one=None, two=None, **more):
        a = login(one, "orchard", presence=True, roster=True, **more)
        b = login(two, "balcony", presence=True, roster=True, **more)
        befriend(a, b)
        return a, b
    return make


def befriend(a, b):
    """Mutual subscription of two available sessions that asked for their rosters."""
    for x, y in ((a, b), (b, a)):
        x.presence(to=y.bare, type="subscribe")
        y.expect("presence", type="subscribe", from_=x.bare)
        y.presence(to=x.bare, type="subscribed")
        x.expect("presence", type="subscribed", from_=y.bare)
        x.expect("presence", type=None, from_=y.jid)
    for x, y in ((a, b), (b, a)):
        x.expect("iq", type="set", where=lambda e: (i := get(e, "roster:query/roster:item")) is not None
                 and i.get("jid") == y.bare and i.get("subscription") == "both")
        x.queue.clear()
