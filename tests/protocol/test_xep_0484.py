"""XEP-0484 (FAST): tokens by HT-SHA-256-*, issued, used, rotated, revoked."""
import base64
import datetime
import hashlib
import hmac
import json
import uuid

import pytest

import rig
from raw import NS, every, get, qname, text
from sasl2 import agent, authenticate, failure, login2, note

pytestmark = pytest.mark.rookery
NONE, EXPORTER, END_POINT = (f"HT-SHA-256-{kind}" for kind in ("NONE", "EXPR", "ENDP"))
BIND = "<bind xmlns='urn:xmpp:bind:0'/>"
BINDINGS = {EXPORTER: "tls-exporter", END_POINT: "tls-server-end-point"}


def request(mechanism=NONE):
    return f"<request-token xmlns='{NS['fast']}' mechanism='{mechanism}'/>"


def mac(token, role, binding):
    return hmac.new(token.encode(), role + binding, hashlib.sha256).digest()


class Client:
    """One installation, with what it keeps: id, token, mechanism."""

    def __init__(self, secure, who, mechanism=NONE):
        self.secure, self.who, self.mechanism, self.id, self.token = secure, who, mechanism, uuid.uuid4(), None

    def keep(self, reply):
        token = get(reply, "fast:token")
        if token is not None:
            self.token, self.expiry = token.get("token"), token.get("expiry")
        return token is not None

    def password(self, inline=None, **k):
        """A login by password that asks for a token; the reply."""
        self.raw = self.secure(**k)
        reply = login2(self.raw, self.who, agent(self.id) + (request(self.mechanism) if inline is None else inline))
        self.keep(reply)
        return reply

    def fast(self, inline="", token=None, mechanism=None, attributes="", keep=True, user=None, id=None, **k):
        """A login by token; the reply."""
        mechanism, token = mechanism or self.mechanism, token or self.token
        self.raw = self.secure(**k)
        binding = self.raw.binding(BINDINGS[mechanism])[1] if mechanism in BINDINGS else b""
        first = (user or self.who.local).encode() + b"\0" + mac(token, b"Initiator", binding)
        reply = self.raw.sasl(authenticate(mechanism, first, agent(id or self.id) + inline +
                                           f"<fast xmlns='{NS['fast']}'{attributes}/>"))
        if reply.tag == qname("sasl2:success"):
            assert base64.b64decode(text(reply, "sasl2:additional-data")) == mac(token, b"Responder", binding)
        note(self.raw, reply)
        if keep:
            self.keep(reply)
        return reply

    def good(self, **k):
        return self.fast(**k).tag == qname("sasl2:success")


@pytest.fixture
def client(secure, account):
    def make(who=None, mechanism=NONE):
        c = Client(secure, who or account(), mechanism)
        assert c.password().tag == qname("sasl2:success") and c.token
        return c
    return make


def seconds_left(expiry):
    return (datetime.datetime.fromisoformat(expiry.replace("Z", "+00:00")) -
            datetime.datetime.now(datetime.timezone.utc)).total_seconds()


def test_feature(secure):
    features = secure().features
    offered = [m.text for m in every(features, "sasl2:authentication/sasl2:inline/fast:fast/fast:mechanism")]
    assert sorted(offered) == sorted([EXPORTER, END_POINT, NONE])
    assert not [m for m in every(features, "sasl:mechanisms/sasl:mechanism") if m.text.startswith("HT-")]
    assert not [m for m in every(features, "sasl2:authentication/sasl2:mechanism") if m.text.startswith("HT-")]


@pytest.mark.parametrize("mechanism", [NONE, EXPORTER, END_POINT])
def test_login(client, mechanism):
    c = client(mechanism=mechanism)
    assert len(c.token) > 64 and abs(seconds_left(c.expiry) - 21 * 86400) < 60
    reply = c.fast(BIND)
    assert c.raw.jid.startswith(c.who.jid + "/") and get(reply, "bind2:bound") is not None
    c.raw.expect("stream:features")
    c.raw.ping()
    assert get(reply, "fast:token") is None, "not due for rotation"
    assert c.good(), "and it stays good"


def test_pipelined(connect, client):
    """A client that knows what it will be offered: header and login in one packet."""
    c = client()
    raw = connect(tls=True)
    raw.restart_parser()
    first = c.who.local.encode() + b"\0" + mac(c.token, b"Initiator", b"")
    raw.send(raw.header_text(extra=f" from='{c.who.jid}'") + authenticate(
        NONE, first, agent(c.id) + f"<fast xmlns='{NS['fast']}'/>" + BIND))
    raw.expect("stream:features")
    assert get(raw.expect("sasl2:success"), "bind2:bound") is not None


def test_resumption(client):
    """All in one round trip: token, <resume/>."""
    c = client()
    reply = c.fast("<bind xmlns='urn:xmpp:bind:0'><enable xmlns='urn:xmpp:sm:3' resume='true'/></bind>")
    previd, jid = get(reply, "bind2:bound/sm:enabled").get("id"), c.raw.jid
    c.raw.cut()
    reply = c.fast(f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='0'/>")
    assert get(reply, "sm:resumed") is not None and c.raw.jid == jid
    c.raw.ping()


@pytest.mark.parametrize("wrong", [dict(token="x" * 72), dict(id=uuid.uuid4()), dict(mechanism=EXPORTER),
                                   dict(user="nobody")], ids=["token", "client", "mechanism", "user"])
def test_wrong(client, wrong):
    c = client()
    assert failure(c.fast(**wrong)) == "not-authorized"
    assert c.good()


def test_token_of_a_bound_mechanism_needs_its_binding(client):
    c = client(mechanism=EXPORTER)
    assert failure(c.fast(mechanism=NONE)) == failure(c.fast(mechanism=END_POINT)) == "not-authorized"
    binding = (EXPORTER, b"x" * 32)
    proof = c.who.local.encode() + b"\0" + mac(c.token, b"Initiator", binding[1])
    raw = c.secure()
    assert failure(raw.sasl(authenticate(EXPORTER, proof, agent(c.id) + f"<fast xmlns='{NS['fast']}'/>"))) == "not-authorized"


def test_another_accounts_token(client, account):
    a, b = client(), client()
    a.token = b.token
    assert failure(a.fast(id=b.id)) == "not-authorized"


@pytest.mark.parametrize("what", ["no fast", "no client", "short", "no name"])
def test_malformed(client, what):
    c = client()
    proof = mac(c.token, b"Initiator", b"")
    first = (b"" if what == "no name" else c.who.local.encode()) + b"\0" + proof[what == "short":]
    inline = ("" if what == "no client" else agent(c.id)) + ("" if what == "no fast" else f"<fast xmlns='{NS['fast']}'/>")
    assert failure(c.secure().sasl(authenticate(NONE, first, inline))) in ("malformed-request", "not-authorized")


def test_not_by_sasl1(client):
    c = client()
    data = base64.b64encode(c.who.local.encode() + b"\0" + mac(c.token, b"Initiator", b"")).decode()
    reply = c.secure().sasl(f"<auth xmlns='{NS['sasl']}' mechanism='{NONE}'>{data}</auth>")
    assert get(reply, "sasl:invalid-mechanism") is not None


@pytest.mark.parametrize("inline", [request("SCRAM-SHA-1"), request("HT-SHA-512-NONE"), f"<request-token xmlns='{NS['fast']}'/>"])
def test_token_of_no_known_mechanism(secure, account, inline):
    c = Client(secure, account())
    assert c.password(inline).tag == qname("sasl2:success") and c.token is None


def test_no_token_without_client_id(secure, account):
    raw, who = secure(), account()
    assert get(login2(raw, who, request()), "fast:token") is None


def test_no_token_on_failure(secure, account):
    raw, who = secure(), account()
    reply = login2(raw, who, agent() + request(), password="wrong")
    assert failure(reply) and get(reply, "fast:token") is None


def test_requested_rotation(client):
    """The old one is good until the new one has been used."""
    c = client()
    old = c.token
    assert c.good(inline=request()) and c.token != old
    new = c.token
    assert c.good(token=old) and c.good(token=new)
    assert failure(c.fast(token=old)) == "not-authorized"
    assert c.good(token=new)


def test_unused_token_gives_way(client):
    """A token that was given and never used is void when another one is given."""
    c = client()
    first = c.token
    assert c.good(inline=request())
    unused = c.token
    assert c.good(token=first, inline=request())
    assert failure(c.fast(token=unused)) == "not-authorized" and c.good()


def test_invalidation(client):
    c = client()
    assert get(c.fast(attributes=" invalidate='true'"), "fast:token") is None
    assert failure(c.fast()) == "not-authorized"


def test_invalidation_with_a_new_token(client):
    c = client()
    old = c.token
    assert c.good(attributes=" invalidate='1'", inline=request()) and c.token != old
    assert c.good() and failure(c.fast(token=old)) == "not-authorized"


def test_password_change_revokes(client, server):
    c = client()
    server.ctl("user", "passwd", c.who.jid, "another")
    assert failure(c.fast()) == "not-authorized"
    c.who.password = "another"
    assert c.password().tag == qname("sasl2:success") and c.good()


def test_new_account_of_the_same_name(client, server):
    c = client()
    server.ctl("user", "del", c.who.jid)
    server.add_user(c.who.local, c.who.domain, c.who.password)
    assert failure(c.fast()) == "not-authorized"


def test_operator_revokes(client, server):
    c = client()
    other = client(c.who)
    c.fast(BIND)
    tokens = json.loads(server.ctl("--json", "token", "list", c.who.jid))
    assert len(tokens) == 2 and all(t["software"] == "test" and t["device"] == "desk" for t in tokens)
    digest = hashlib.sha256(str(c.id).encode()).digest()
    mine = f"{int.from_bytes(digest[:8], 'little'):016x}"
    server.ctl("token", "revoke", c.who.jid, mine)
    c.raw.expect_close("not-authorized")
    assert failure(c.fast()) == "not-authorized" and other.good()
    server.ctl("token", "revoke", c.who.jid)
    assert failure(other.fast()) == "not-authorized"
    with pytest.raises(RuntimeError):
        server.ctl("token", "revoke", c.who.jid)


def test_clients_are_limited(secure, account):
    who = account()
    clients = [Client(secure, who) for _ in range(52)]
    for c in clients:
        c.password()
    assert sum(c.good() for c in clients[-3:]) == 3 and sum(c.good() for c in clients) == 50


@pytest.mark.single("a server of its own, as fast as it gets")
def test_survives_a_restart(new_server, account, connect):
    server = new_server()
    who = account(at=server)

    def secure():
        raw = connect(tls=True, at=server)
        raw.open()
        return raw
    c = Client(secure, who)
    c.password()
    server.kill()
    server.start()
    assert c.good()
    database = b"".join(p.read_bytes() for p in server.dir.glob("rookery.sqlite*"))
    assert c.token.encode() not in database and hashlib.sha256(c.token.encode()).digest() in database


@pytest.mark.single("a server of its own")
def test_expiry_and_rotation(new_server, account, connect):
    server = new_server(sasl={"token_lifetime": "3s", "token_rotation": "0"})
    who = account(at=server)

    def secure():
        raw = connect(tls=True, at=server)
        raw.open()
        return raw
    c = Client(secure, who)
    c.password()
    old = c.token
    assert c.good() and c.token != old, "replaced at every use"
    import time
    time.sleep(max(0, seconds_left(c.expiry)) + 1)
    assert failure(c.fast()) == "credentials-expired"
    assert c.password().tag == qname("sasl2:success") and c.good()


@pytest.mark.single("a server of its own")
def test_switched_off(new_server, account, connect):
    server = new_server(sasl={"fast": False})
    raw = connect(tls=True, at=server)
    assert get(raw.open(), "sasl2:authentication/sasl2:inline/fast:fast") is None
    assert get(login2(raw, account(at=server), agent() + request()), "fast:token") is None
