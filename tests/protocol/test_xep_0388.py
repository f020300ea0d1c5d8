"""XEP-0388 (SASL2) and what it carries: Bind 2 (XEP-0386), stream management inline (XEP-0198 section 9)."""
import uuid

import pytest

from raw import NS, StreamClosed, every, get, qname, text
from sasl2 import agent, authenticate, b64, failure, login2, response

pytestmark = pytest.mark.rookery
BIND = "<bind xmlns='urn:xmpp:bind:0'>{}</bind>"
SM = "<enable xmlns='urn:xmpp:sm:3' resume='true'/>"
CARBONS = "<enable xmlns='urn:xmpp:carbons:2'/>"


def resume(previd, h):
    return f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='{h}'/>"


@pytest.fixture
def quick(secure, account):
    """A session bound in one round trip behind SCRAM's; .success is what came."""
    def make(who=None, inline=BIND.format(""), **k):
        who = who or account()
        raw = secure(domain=who.domain, **k)
        raw.account = who
        raw.success = login2(raw, who, inline)
        assert raw.success.tag == qname("sasl2:success")
        return raw
    return make


# -- SASL2 -------------------------------------------------------------------------------------------------------------

def test_features(secure):
    features = secure().features
    old = [m.text for m in every(features, "sasl:mechanisms/sasl:mechanism")]
    assert [m.text for m in every(features, "sasl2:authentication/sasl2:mechanism")] == old
    offered = {f.get("var") for f in every(features, "sasl2:authentication/sasl2:inline/bind2:bind/bind2:inline/bind2:feature")}
    assert {NS["carbons"], NS["sm"], "urn:xmpp:csi:0"} <= offered
    assert get(features, "sasl2:authentication/sasl2:inline/sm:sm") is not None


def test_not_in_clear(connect, account):
    raw, who = connect(), account()
    assert get(raw.open(), "sasl2:authentication") is None
    with pytest.raises(StreamClosed):
        raw.sasl(authenticate("PLAIN", f"\0{who.local}\0{who.password}"))


@pytest.mark.parametrize("mechanism,binding", [("SCRAM-SHA-1", None), ("SCRAM-SHA-512", None),
                                               ("SCRAM-SHA-256-PLUS", "tls-exporter")])
def test_without_bind(secure, account, mechanism, binding):
    """No restart: features follow at once, and the old way to bind."""
    raw, who = secure(), account()
    success = login2(raw, who, mechanism=mechanism, binding=binding)
    assert raw.jid == who.jid and get(success, "bind2:bound") is None
    assert get(raw.expect("stream:features"), "bind:bind") is not None
    assert raw.bind("desk") == f"{who.jid}/desk"
    raw.ping()


def test_plain(secure, account):
    raw, who = secure(), account()
    success = raw.sasl(authenticate("PLAIN", f"\0{who.local}\0{who.password}", agent() + BIND.format("")))
    assert text(success, "sasl2:authorization-identifier").startswith(who.jid + "/")
    assert get(success, "sasl2:additional-data") is None


def test_failure_and_another_try(secure, account):
    raw, who = secure(), account()
    assert failure(login2(raw, who, BIND.format(""), password="wrong")) == "not-authorized"
    assert raw.auth(who.local, "wrong") == "not-authorized"
    assert get(login2(raw, who, BIND.format("")), "bind2:bound") is not None


def test_attempts_are_limited(secure, account):
    raw, who = secure(), account()
    for _ in range(3):
        assert failure(login2(raw, who, password="wrong")) == "not-authorized"
    with pytest.raises(StreamClosed):
        login2(raw, who)


@pytest.mark.parametrize("mechanism", ["ANONYMOUS", "scram-sha-1", "", "X"])
def test_mechanism_that_was_not_offered(secure, mechanism):
    assert failure(secure().sasl(authenticate(mechanism, "x"))) == "invalid-mechanism"


def test_malformed(secure):
    raw = secure()
    raw.send(f"<authenticate xmlns='{NS['sasl2']}' mechanism='PLAIN'><initial-response>!</initial-response></authenticate>")
    assert failure(raw.next()) == "incorrect-encoding"
    raw.send(f"<authenticate xmlns='{NS['sasl2']}'/>")
    assert failure(raw.next()) == "invalid-mechanism"


def test_no_initial_response(secure, account):
    raw, who = secure(), account()
    challenge = raw.sasl(authenticate("PLAIN", None))
    assert challenge.tag == qname("sasl2:challenge") and not challenge.text
    assert raw.sasl(response(f"\0{who.local}\0{who.password}")).tag == qname("sasl2:success")


def test_abort(secure, account):
    raw, who = secure(), account()
    assert raw.sasl(authenticate("SCRAM-SHA-1", f"n,,n={who.local},r=abcdefghijkl")).tag == qname("sasl2:challenge")
    raw.send(f"<abort xmlns='{NS['sasl2']}'/>")
    assert failure(raw.next()) == "aborted"
    assert login2(raw, who).tag == qname("sasl2:success")


@pytest.mark.parametrize("claimed,good", [("{jid}", True), ("other@{domain}", False), ("not@a@jid", True)])
def test_from_of_the_stream(connect, account, claimed, good):
    who, raw = account(), connect(tls=True)
    raw.open(extra=f" from='{claimed.format(jid=who.jid, domain=who.domain)}'")
    reply = login2(raw, who)
    assert reply.tag == qname("sasl2:success") if good else failure(reply) == "invalid-authzid"


@pytest.mark.parametrize("other", ["<iq type='get' id='x'><ping xmlns='urn:xmpp:ping'/></iq>",
                                   "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>eA==</response>",
                                   "<enable xmlns='urn:xmpp:sm:3'/>"])
def test_nothing_else_during_login(secure, account, other):
    raw, who = secure(), account()
    raw.sasl(authenticate("SCRAM-SHA-1", f"n,,n={who.local},r=abcdefghijkl"))
    raw.send(other)
    raw.expect_close("policy-violation")


def test_stanza_behind_authenticate(secure, account):
    """While the home is asked: it is neither run before the login nor after it."""
    raw, who = secure(), account()
    raw.send(authenticate("PLAIN", f"\0{who.local}\0{who.password}", BIND.format("")) +
             f"<message to='{who.jid}' type='chat'><body>too early</body></message>")
    raw.expect_close("policy-violation")


def test_authenticate_twice(quick):
    raw = quick()
    raw.send(authenticate("PLAIN", "\0a\0b"))
    raw.expect_close("not-authorized")


def test_size_before_authentication(secure):
    raw = secure()
    raw.send(authenticate("PLAIN", "x", f"<user-agent>{'x' * 20000}</user-agent>"))
    raw.expect_close("policy-violation")


def test_size_after_authentication(quick):
    """The limit is the one of a client that is known, though there was no restart."""
    raw = quick()
    raw.message(raw.jid, "x" * 50000)
    assert len(text(raw.expect("message"), "body")) == 50000


# -- Bind 2 ------------------------------------------------------------------------------------------------------------

def test_bind(quick):
    raw = quick(inline=agent() + BIND.format("<tag>Gulls &amp; co</tag>"))
    assert raw.jid.startswith(f"{raw.account.jid}/Gulls & co/")
    assert get(raw.success, "bind2:bound") is not None
    features = raw.expect("stream:features")
    assert get(features, "bind:bind") is None and get(features, "sm:sm") is not None
    raw.presence()
    raw.ping()


@pytest.mark.parametrize("tag", ["", "x" * 2000, "&#x378;"], ids=["empty", "long", "unassigned"])
def test_tag_that_is_no_resource(quick, tag):
    raw = quick(inline=BIND.format(f"<tag>{tag}</tag>"))
    assert len(raw.jid.split("/", 1)[1]) < 40 and "/" not in raw.jid.split("/", 1)[1]


def test_resource_is_stable_per_client(quick, account):
    who, id = account(), uuid.uuid4()
    bind = BIND.format("<tag>a</tag>")
    first, other = quick(who, agent(id) + bind), quick(who, agent() + bind)
    again = quick(who, agent(id) + bind)
    assert first.jid == again.jid != other.jid and str(id) not in first.jid
    first.expect_close("conflict")
    other.ping()
    assert quick(account(), agent(id) + bind).jid.split("/", 1)[1] != first.jid.split("/", 1)[1]


def test_earlier_session_of_the_client_ends(quick, account):
    who, id = account(), uuid.uuid4()
    old = quick(who, agent(id) + BIND.format("<tag>old</tag>" + SM))
    quick(who, agent(id) + BIND.format("<tag>new</tag>"))
    old.expect_close("conflict")


def test_no_client_id_no_relation(quick, account):
    who = account()
    a, b = quick(who), quick(who)
    assert a.jid != b.jid
    a.ping()


def test_carbons_inline(quick, login, account):
    who = account()
    quiet, raw = login(who, "quiet", presence=True), quick(who, BIND.format(CARBONS))
    stranger = login(presence=True)
    stranger.message(quiet.jid, "for both")
    quiet.expect("message")
    carbon = raw.expect("message")
    assert text(carbon, "carbons:received/fwd:forwarded/c:message/c:body") == "for both"


@pytest.mark.parametrize("state,held", [("active", False), ("inactive", True)])
def test_csi_inline(quick, login, state, held):
    raw, other = quick(inline=BIND.format(f"<{state} xmlns='urn:xmpp:csi:0'/>")), login(presence=True)
    other.presence(to=raw.jid)
    other.message(raw.jid, "flushes")
    names = [raw.expect_any("presence", "message").tag for _ in range(2)]
    assert names == [qname("presence"), qname("message")]
    other.presence(to=raw.jid, payload="<show>away</show>")
    other.send(f"<message to='{raw.jid}' type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>")
    other.presence(to=raw.jid, payload="<show>dnd</show>")
    other.message(raw.jid, "flushes")
    shows = []
    while (e := raw.expect_any("presence", "message")).tag == qname("presence") or text(e, "body") is None:
        shows += [text(e, "show")] if e.tag == qname("presence") else []
    assert shows == (["dnd"] if held else ["away", "dnd"])


def test_archive_metadata(quick, login, account):
    who, sender = account(), login()
    empty = quick(who)
    data = get(empty.success, "bind2:bound/mam:metadata")
    assert data is not None and not len(data)
    sender.message(who.jid, "one")
    first = get(empty.presence() or empty.expect("message"), "sid:stanza-id").get("id")
    sender.message(who.jid, "two")
    last = get(empty.expect("message"), "sid:stanza-id").get("id")
    raw = quick(who)
    assert get(raw.success, "bind2:bound/mam:metadata/mam:start").get("id") == first
    assert get(raw.success, "bind2:bound/mam:metadata/mam:end").get("id") == last


def test_offline_messages_are_the_archives(quick, login, account):
    """What MAM has is not sent again; what it has not is."""
    who, sender = account(), login()
    sender.message(who.jid, "archived")
    sender.message(who.jid, "hidden", extra="<no-permanent-store xmlns='urn:xmpp:hints'/>")
    sender.ping()
    raw = quick(who)
    raw.presence()
    sender.message(who.jid, "live")
    got = [text(raw.expect("message"), "body") for _ in range(2)]
    assert got == ["hidden", "live"]
    raw.close()
    later = login(who, presence=True)
    assert not [e for e in later.before() if e.tag == qname("message") and get(e, "body") is not None]


# -- stream management inline -------------------------------------------------------------------------------------------

def test_enable_inline(quick):
    raw = quick(inline=BIND.format(SM))
    enabled = get(raw.success, "bind2:bound/sm:enabled")
    assert enabled.get("id") and enabled.get("resume") == "true"
    assert get(raw.expect("stream:features"), "sm:sm") is None
    assert raw.acked() == 0
    raw.ping()
    assert raw.acked() == 1


def test_resume_inline(quick, secure, login, account):
    who, other = account(), login(presence=True)
    raw = quick(who, BIND.format(SM))
    raw.answer_acks = False
    raw.presence()
    raw.cut()
    other.message(raw.jid, "meanwhile")
    other.ping()
    again = secure()
    reply = login2(again, who, resume(get(raw.success, "bind2:bound/sm:enabled").get("id"), raw.handled) +
                   BIND.format("<tag>not this</tag>"))
    assert again.jid == raw.jid and get(reply, "bind2:bound") is None
    assert get(reply, "sm:resumed").get("h") == "1"
    assert text(again.next(), "body") == "meanwhile", "and no features"
    again.ping()
    assert not [e for e in again.queue if e.tag == qname("stream:features")]


def test_failed_resumption_binds(quick, secure, account):
    who = account()
    raw = secure()
    reply = login2(raw, who, resume("nothing", 0) + BIND.format(SM))
    assert get(reply, "sm:failed/e:item-not-found") is not None
    assert get(reply, "bind2:bound/sm:enabled") is not None and raw.jid.startswith(who.jid + "/")
    raw.expect("stream:features")
    raw.ping()


@pytest.mark.parametrize("element", ["<resume xmlns='urn:xmpp:sm:3' h='1'/>", "<resume xmlns='urn:xmpp:sm:3' previd='x' h='-1'/>"])
def test_malformed_resumption(secure, account, element):
    raw, who = secure(), account()
    reply = login2(raw, who, element)
    assert get(reply, "sm:failed/e:bad-request") is not None and raw.jid == who.jid
    raw.expect("stream:features")
    raw.bind()
    raw.ping()


def test_another_accounts_session(quick, secure, account):
    """THREATS 17."""
    raw, thief = quick(inline=BIND.format(SM)), account()
    reply = login2(secure(), thief, resume(get(raw.success, "bind2:bound/sm:enabled").get("id"), 0))
    assert get(reply, "sm:failed/e:item-not-found") is not None
    raw.ping()


def test_resume_with_wrong_password(quick, secure, account):
    raw = quick(inline=BIND.format(SM))
    assert failure(login2(secure(), raw.account, resume(get(raw.success, "bind2:bound/sm:enabled").get("id"), 0),
                          password="wrong")) == "not-authorized"
    raw.ping()
