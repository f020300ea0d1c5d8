"""XEP-0175: SASL ANONYMOUS, per virtual host."""
import re

import pytest

from raw import NS, StreamClosed, every, get, qname, text
from sasl2 import authenticate, failure

pytestmark = [pytest.mark.rookery]
BIND = "<bind xmlns='urn:xmpp:bind:0'/>"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def guests():
    """A server whose second host lets anybody in."""
    import rig
    from conftest import stop_cleanly
    s = rig.new_server()
    if rig.clustered():
        pytest.skip("hosts of a cluster's nodes are the rig's")
    config = s.config()
    config["hosts"][1]["anonymous"] = True
    s.settings = {"hosts": config["hosts"]}
    s.write_config()
    try:
        yield s.start()
        stop_cleanly(s)
    finally:
        s.remove()


@pytest.fixture
def guest(connect, guests):
    def make(domain="second.test", inline=BIND, message="trace@elsewhere"):
        raw = connect(tls=True, domain=domain, at=guests)
        raw.features = raw.open()
        raw.reply = raw.sasl(authenticate("ANONYMOUS", message, inline))
        raw.jid = text(raw.reply, "sasl2:authorization-identifier")
        return raw
    return make


@pytest.fixture
def user(login, account, guests):
    return lambda: login(account(at=guests), presence=True, at=guests)


def offered(raw):
    return "ANONYMOUS" in [m.text for m in every(raw.features, "sasl2:authentication/sasl2:mechanism")]


def test_off_by_default(secure):
    raw = secure()
    assert not offered(raw) and failure(raw.sasl(authenticate("ANONYMOUS", ""))) == "invalid-mechanism"


def test_only_on_that_host(guest):
    raw = guest(domain="rookery.test")
    assert not offered(raw) and failure(raw.reply) == "invalid-mechanism"


def test_login(guest):
    a, b = guest(), guest()
    assert offered(a) and re.fullmatch(UUID + "@second.test/.+", a.jid) and "trace" not in a.jid
    assert a.bare != b.bare
    a.presence()
    a.ping()
    a.message(b.jid, "hello")
    assert text(b.expect("message"), "body") == "hello"


def test_sasl1(connect, guests):
    raw = connect(tls=True, domain="second.test", at=guests)
    raw.open()
    assert raw.sasl(f"<auth xmlns='{NS['sasl']}' mechanism='ANONYMOUS'>=</auth>").tag == qname("sasl:success")
    raw.open()
    assert re.fullmatch(UUID + "@second.test/desk", raw.bind("desk"))
    raw.ping()


def test_disco(guest, user):
    raw = guest()
    info = raw.result("get", f"<query xmlns='{NS['info']}'/>", to=raw.bare)
    assert get(info, "info:query/info:identity").get("type") == "anonymous"


def test_with_users(guest, user):
    raw, other = guest(), user()
    raw.presence()
    raw.message(other.jid, "question")
    assert other.expect("message", from_=raw.jid) is not None
    other.message(raw.jid, "answer")
    assert text(raw.expect("message"), "body") == "answer"
    raw.close()
    id = other.message(raw.bare, "gone")
    assert other.expect("message", id=id, type="error") is not None
    assert get(other.refused and other.request("get", f"<query xmlns='{NS['info']}'/>", to=raw.bare), "error") is not None


def test_nothing_is_kept(guest, guests):
    raw = guest()
    raw.presence()
    raw.message(raw.jid, "do not keep this")
    raw.expect("message")
    reply = raw.request("set", "<query xmlns='urn:xmpp:mam:2'/>")
    assert not [e for e in raw.queue if e.tag == qname("message")], reply
    assert raw.refused("set", "<vCard xmlns='vcard-temp'><FN>x</FN></vCard>")
    raw.ping()
    raw.close()
    assert raw.bare not in guests.ctl("user", "list")


def test_no_relationships(guest, user):
    """They would outlive the session in the other's roster."""
    raw, other = guest(), user()
    assert raw.refused("set", f"<query xmlns='jabber:iq:roster'><item jid='{other.bare}'/></query>") == "forbidden"
    raw.presence(to=other.bare, type="subscribe")
    assert get(raw.expect("presence", type="error"), "error/e:forbidden") is not None
    assert not [e for e in other.before() if e.tag == qname("presence")]


def test_not_to_other_servers(guest):
    raw = guest()
    id = raw.message("somebody@elsewhere.test")
    error = raw.expect("message", id=id, type="error")
    assert get(error, "error/e:forbidden") is not None
    raw.ping()


def test_name_is_no_account(guest, connect, guests):
    """It cannot be logged in to, and does not outlive its session."""
    raw = guest()
    other = connect(tls=True, domain="second.test", at=guests)
    other.open()
    assert other.auth(raw.bare.split("@")[0], "") is not None
    raw.ping()


def test_resumption_is_not_theirs(guest):
    """Another anonymous login is another account."""
    raw = guest(inline="<bind xmlns='urn:xmpp:bind:0'><enable xmlns='urn:xmpp:sm:3' resume='true'/></bind>")
    previd = get(raw.reply, "bind2:bound/sm:enabled").get("id")
    other = guest(inline=f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='0'/>" + BIND)
    assert get(other.reply, "sm:failed/e:item-not-found") is not None and other.bare != raw.bare
    raw.ping()
