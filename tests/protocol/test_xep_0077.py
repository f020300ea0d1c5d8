"""XEP-0077: accounts made before login, passwords changed and accounts removed behind it; legacy codes beside the errors."""
import base64
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from conftest import befriend
from raw import NS, StreamClosed, condition, every, get, new_id, text
from test_xep_small import info

NS["reg"] = "jabber:iq:register"
NS["regfeature"] = "http://jabber.org/features/iq-register"
GET = "<query xmlns='jabber:iq:register'/>"
ALL = {"enabled": True, "change_password": True, "remove": True, "rate": 0, "keep_removed_days": 0}
PASSWORD = "correct horse"


def fields(username=None, password=PASSWORD):
    return ("<query xmlns='jabber:iq:register'>" + (f"<username>{username}</username>" if username is not None else "")
            + (f"<password>{password}</password>" if password is not None else "") + "</query>")


def form(username, password=PASSWORD, form_type="jabber:iq:register"):
    values = {"FORM_TYPE": form_type, "username": username, "password": password}
    return ("<query xmlns='jabber:iq:register'><x xmlns='jabber:x:data' type='submit'>"
            + "".join(f"<field var='{k}'><value>{v}</value></field>" for k, v in values.items() if v is not None)
            + "</x></query>")


def refusal(reply):
    """(condition, code, text) of an error."""
    assert reply.get("type") == "error", ET.tostring(reply).decode()
    return condition(reply), get(reply, "error").get("code"), text(reply, "error/e:text")


def refused(raw, payload, to=None):
    return refusal(raw.request("set", payload, to))[:2]


@pytest.fixture(scope="module")
def open_server():
    """One server where everything of this XEP is allowed."""
    import conftest
    import rig
    s = rig.new_server(registration=dict(ALL))
    try:
        yield s.start()
        conftest.stop_cleanly(s)
    finally:
        s.remove()


_number = iter(range(1, 10 ** 6))


@pytest.fixture
def name():
    return lambda: f"new{next(_number)}"


def enter(secure, at, local, password=PASSWORD, domain=None):
    """The failure of a login, or a bound session."""
    raw = secure(at=at, domain=domain)
    if failure := raw.auth(local, password):
        return failure
    raw.open()
    raw.bind()
    return raw


# -- before login ----------------------------------------------------------------------------------------------------

def test_enquiry_and_attempt(secure, open_server, name):
    """What scripts do: ask, try, log in on the same stream."""
    raw, local = secure(at=open_server), name()
    assert get(raw.features, "regfeature:register") is not None
    reply = raw.result("get", GET, to=raw.domain)
    query = get(reply, "reg:query")
    assert {"instructions", "username", "password"} <= {e.tag.split("}")[1] for e in query}
    assert get(query, "reg:registered") is None
    types = {f.get("var"): (f.get("type"), text(f, "x:value")) for f in every(query, "x:x/x:field")}
    assert types["FORM_TYPE"] == ("hidden", "jabber:iq:register")
    assert types["username"][0] == "text-single" and types["password"][0] == "text-private"
    reply = raw.result("set", fields(local), to=raw.domain)
    assert len(reply) == 0
    assert raw.auth(local, PASSWORD) is None
    raw.open()
    raw.bind()
    assert raw.bare == f"{local}@{raw.domain}"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_every_mechanism_knows_the_password(secure, open_server, name, mechanism):
    raw, local = secure(at=open_server), name()
    raw.result("set", fields(local))
    assert raw.auth(local, PASSWORD, mechanism) is None


def test_nothing_but_keys_is_stored(secure, new_server):
    server = new_server(registration={"enabled": True}, node={"workers": 1})
    secret = "a phrase that is nowhere"
    secure(at=server).result("set", fields("somebody", secret))
    server.stop()
    for path in server.dir.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_form(secure, open_server, name):
    raw, local = secure(at=open_server), name()
    raw.result("set", form(local))
    assert raw.auth(local, PASSWORD) is None


@pytest.mark.parametrize("payload,want", [
    (form("x", form_type="urn:other"), ("bad-request", "400")),
    (form("x", password=None), ("not-acceptable", "406")),
    (fields(), ("not-acceptable", "406")),
    (fields(""), ("not-acceptable", "406")),
    (fields("x", None), ("not-acceptable", "406")),
    (fields("x", ""), ("not-acceptable", "406")),
    (fields("x", "&#x7;".replace("&#x7;", "\u0378")), ("not-acceptable", "406")),
    (fields("a b"), ("jid-malformed", "400")),
    (fields("romeo@elsewhere.test"), ("jid-malformed", "400")),
    (fields("x" * 1024), ("jid-malformed", "400")),
    ("<query xmlns='jabber:iq:register'><remove/></query>", ("unexpected-request", "400")),
], ids=range(11))
def test_refused_attempts(secure, open_server, payload, want):
    raw = secure(at=open_server)
    assert refused(raw, payload) == want
    raw.result("get", GET)  # and the stream goes on


def test_taken_name(secure, open_server, name):
    local = name()
    secure(at=open_server).result("set", fields(local))
    raw = secure(at=open_server)
    assert refused(raw, fields(local.upper(), "another password")) == ("conflict", "409")
    assert raw.auth(local, "another password") == "not-authorized"
    assert raw.auth(local, PASSWORD) is None


def test_name_is_prepared(secure, open_server, name):
    raw, local = secure(at=open_server), name()
    raw.result("set", fields(local.upper()))
    assert raw.auth(local, PASSWORD) is None


def test_hosts_are_apart(secure, open_server, name):
    local = name()
    secure(at=open_server).result("set", fields(local))
    other = secure(at=open_server, domain="second.test")
    other.result("set", fields(local, "of the second"))
    assert other.auth(local, "of the second") is None
    assert enter(secure, open_server, local).bare == f"{local}@rookery.test"


def test_more_accounts_of_a_stream(secure, open_server, name):
    """Smack's integration tests make all of theirs on one."""
    raw, locals_ = secure(at=open_server), [name() for _ in range(12)]
    for local in locals_:
        raw.result("get", GET)
        raw.result("set", fields(local))
    assert refused(raw, fields(locals_[0])) == ("conflict", "409")
    assert raw.auth(locals_[3], PASSWORD) is None


def test_requests_of_a_stream_are_limited(secure, open_server):
    raw = secure(at=open_server)
    with pytest.raises(StreamClosed) as end:
        for _ in range(30):
            raw.result("get", GET)
    assert end.value.error == "policy-violation"


def test_not_before_tls(connect, open_server):
    """THREATS 10."""
    raw = connect(at=open_server)
    assert get(raw.open(), "regfeature:register") is None
    raw.send(f"<iq type='get' id='x'>{GET}</iq>")
    raw.expect_close("not-authorized")


def test_without_tls_where_it_is_allowed(connect, new_server):
    server = new_server(registration=dict(ALL), c2s={"require_tls": False})
    raw = connect(at=server)
    assert get(raw.open(), "regfeature:register") is not None
    raw.result("set", fields("clear"))
    assert raw.auth("clear", PASSWORD) is None
    raw.open()
    raw.bind()
    assert refused(raw, fields("clear", "another password")) == ("not-authorized", "401")


@pytest.mark.parametrize("to", ["elsewhere.test", "second.test", "romeo@rookery.test"])
def test_only_for_the_host(secure, open_server, to):
    raw = secure(at=open_server)
    raw.send(f"<iq type='get' id='x' to='{to}'>{GET}</iq>")
    raw.expect_close("not-authorized")


def test_off(secure, login):
    raw = secure()
    assert get(raw.features, "regfeature:register") is None
    assert refusal(raw.request("get", GET))[:2] == ("feature-not-implemented", "501")
    assert refused(raw, fields("x")) == ("feature-not-implemented", "501")
    raw = login()
    assert "jabber:iq:register" not in info(raw, raw.domain)[1]
    assert refusal(raw.request("get", GET, raw.domain))[:2] == ("feature-not-implemented", "501")
    assert refused(raw, "<query xmlns='jabber:iq:register'><remove/></query>") == ("feature-not-implemented", "501")


def test_each_part_is_switched_alone(new_server, secure):
    raw = enter_new(secure, new_server(registration={"enabled": True}))
    assert refused(raw, "<query xmlns='jabber:iq:register'><remove/></query>") == ("not-allowed", "405")
    assert refused(raw, fields("somebody", "other words")) == ("not-allowed", "405")


def enter_new(secure, server, local="somebody"):
    raw = secure(at=server)
    raw.result("set", fields(local))
    assert raw.auth(local, PASSWORD) is None
    raw.open()
    raw.bind()
    return raw


@pytest.mark.single("the clock of one process")
def test_time_for_the_form(secure, new_server):
    """Who asks for the form gets the time to fill it in, once."""
    server = new_server(registration={"enabled": True, "timeout": "2s"},
                        c2s={"unauthenticated_timeout": "1s", "sasl_timeout": "1s"})
    idle, asks = secure(at=server), secure(at=server)
    asks.result("get", GET)
    assert idle.expect_close("connection-timeout") < 3
    asks.result("get", GET)  # it lives longer
    assert asks.expect_close("connection-timeout") < 4


# -- behind the login ------------------------------------------------------------------------------------------------

@pytest.fixture
def member(secure, open_server, name):
    def make(presence=False, local=None):
        raw = enter_new(secure, open_server, local or name())
        raw.local = raw.jid.split("@")[0]
        if presence:
            raw.roster = raw.result("get", "<query xmlns='jabber:iq:roster'/>")
            raw.presence()
        return raw
    return make


def test_registered(member):
    raw = member()
    assert "jabber:iq:register" in info(raw, raw.domain)[1]
    for to in (None, raw.domain):
        query = get(raw.result("get", GET, to), "reg:query")
        assert get(query, "reg:registered") is not None
        assert text(query, "reg:username") == raw.local
        assert not text(query, "reg:password")


@pytest.mark.parametrize("whole", [False, True])
def test_password_change(member, secure, open_server, whole):
    raw = member()
    raw.result("set", fields(raw.bare if whole else raw.local, "other words"), raw.domain)
    assert enter(secure, open_server, raw.local) == "not-authorized"
    assert enter(secure, open_server, raw.local, "other words").bare == raw.bare
    raw.ping()  # this session goes on


def test_password_change_by_form(member, secure, open_server):
    raw = member()
    raw.result("set", form(raw.local, "other words", "jabber:iq:register:changepassword"), raw.domain)
    assert enter(secure, open_server, raw.local, "other words").bare == raw.bare


def test_password_change_ends_other_sessions(member, secure, open_server):
    raw = member()
    other = enter(secure, open_server, raw.local)
    raw.result("set", fields(raw.local, "other words"), raw.domain)
    other.expect_close("not-authorized")
    raw.ping()


@pytest.mark.parametrize("payload,want", [
    (fields("{own}", None), ("bad-request", "400")),
    (fields(None, "other words"), ("bad-request", "400")),
    (fields("{own}", "\u0378"), ("not-acceptable", "406")),
    (fields("somebody-else", "other words"), ("not-allowed", "405")),
    ("<query xmlns='jabber:iq:register'><remove/><username>x</username></query>", ("bad-request", "400")),
], ids=range(5))
def test_refused_changes(member, secure, open_server, payload, want):
    raw = member()
    assert refused(raw, payload.format(own=raw.local), raw.domain) == want
    assert enter(secure, open_server, raw.local).bare == raw.bare


def test_nobody_changes_anothers_account(member, secure, open_server):
    a, b = member(), member()
    for payload in (fields(b.local, "stolen"), "<query xmlns='jabber:iq:register'><remove/></query>"):
        assert a.refused("set", payload, b.bare) == "service-unavailable"
        assert a.refused("set", payload, "second.test") == "service-unavailable"
    assert enter(secure, open_server, b.local).bare == b.bare
    assert enter(secure, open_server, a.local).bare == a.bare


def test_removal(member, secure, open_server):
    raw = member()
    other = enter(secure, open_server, raw.local)
    raw.result("set", "<query xmlns='jabber:iq:register'><remove/></query>")
    raw.expect_close("not-authorized")
    other.expect_close("not-authorized")
    assert enter(secure, open_server, raw.local) == "not-authorized"


@pytest.mark.parametrize("by", ["iq", "rookeryctl"])
def test_removal_cancels_subscriptions(member, open_server, by):
    a, b = member(presence=True), member(presence=True)
    befriend(a, b)
    if by == "iq":
        a.result("set", "<query xmlns='jabber:iq:register'><remove/></query>")
    else:
        open_server.ctl("user", "del", a.bare)
    b.expect("presence", type="unsubscribe", from_=a.bare)
    b.expect("presence", type="unavailable", from_=a.jid)
    b.expect("presence", type="unsubscribed", from_=a.bare)
    item = b.expect("iq", type="set", where=lambda e: (i := get(e, "roster:query/roster:item")) is not None
                    and i.get("subscription") == "none")
    assert get(item, "roster:query/roster:item").get("jid") == a.bare
    assert not [e for e in b.before() if e.get("type") == "unavailable"], "only once"


def test_a_name_given_again_knows_nothing(member, secure, open_server):
    """All data went with the account: contacts, messages, those that wait too."""
    a, b = member(presence=True), member(presence=True)
    befriend(a, b)
    b.message(a.bare, "for the first owner")
    a.expect("message", type="chat")
    a.presence(type="unavailable")
    b.expect("presence", type="unavailable", from_=a.jid)
    b.message(a.bare, "waits for the first owner")
    b.ping()
    a.result("set", "<query xmlns='jabber:iq:register'><remove/></query>")
    a.expect_close("not-authorized")
    again = member(presence=True, local=a.local)
    assert not every(again.roster, "roster:query/roster:item")
    assert not [e for e in again.before() if e.tag.endswith("message")]
    again.send("<iq type='set' id='mam'><query xmlns='urn:xmpp:mam:2' queryid='q'/></iq>")
    assert get(again.expect("iq", id="mam", type="result"), "mam:fin/rsm:set/rsm:first") is None
    b.presence()
    assert not [e for e in again.before() if e.tag.endswith("presence") and e.get("from") == b.jid]


def test_removal_ends_resumption(member, secure, open_server):
    raw = member()
    other = enter(secure, open_server, raw.local)
    token = other.enable_sm().get("id")
    other.cut()
    raw.result("set", "<query xmlns='jabber:iq:register'><remove/></query>")
    raw.expect_close("not-authorized")
    again = secure(at=open_server)
    again.result("set", fields(raw.local))
    assert again.auth(raw.local, PASSWORD) is None
    again.open()
    again.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{token}' h='0'/>")
    assert again.expect_any("sm:resumed", "sm:failed").tag.endswith("failed")


# -- rules -----------------------------------------------------------------------------------------------------------

RULES = {
    "registration": dict(ALL, reserved="root Mercutio", min_password_entropy=40, instructions="Read the <rules> first.",
                         welcome_subject="Hello & welcome", welcome_body="Be kind."),
    "registration_names": [{"action": "deny", "pattern": "(test|bot)[0-9]*"}, {"action": "allow", "pattern": "[a-z0-9-]{3,}"},
                           {"action": "allow", "pattern": ".*[^a-z0-9-].*"}, {"action": "deny", "pattern": ".*"}],
    "registration_watchers": [{"jid": "watcher@rookery.test"}, {"jid": "second@second.test"}],
    "registration_access": [{"action": "deny", "what": "register", "host": "second.test"}],
}


@pytest.fixture(scope="module")
def strict_server():
    import conftest
    import rig
    s = rig.new_server(**RULES)
    try:
        s.start().add_user("watcher", "rookery.test", "x")
        s.add_user("second", "second.test", "x")
        yield s
        conftest.stop_cleanly(s)
    finally:
        s.remove()


@pytest.mark.parametrize("local,password,why", [
    ("root", PASSWORD, "reserved"), ("ROOT", PASSWORD, "reserved"), ("mercutio", PASSWORD, "reserved"),
    ("test", PASSWORD, "such names"), ("bot42", PASSWORD, "such names"), ("ab", PASSWORD, "such names"),
    ("r\u043emeo", PASSWORD, "scripts"), ("tybalt", "short", "guess"), ("tybalt", "a" * 60, "guess"),
    ("tybalt-of-verona", "Tybalt-Of-Verona", "user name"),
])
def test_rules(secure, strict_server, local, password, why):
    raw = secure(at=strict_server)
    got = refusal(raw.request("set", fields(local, password)))
    assert got[:2] == ("not-acceptable", "406") and why in got[2], got


@pytest.mark.parametrize("local", ["rootless", "tests-of-time", "\u0440\u043e\u043c\u0435\u043e", "\u6f22\u5b57kana"])
def test_rules_allow(secure, strict_server, local):
    raw = secure(at=strict_server)
    raw.result("set", fields(local))
    assert raw.auth(local, PASSWORD) is None


def test_password_rule_holds_for_changes(secure, strict_server, name):
    raw = enter_new(secure, strict_server, name())
    assert refused(raw, fields(raw.jid.split("@")[0], "short")) == ("not-acceptable", "406")


def test_instructions(secure, strict_server):
    raw = secure(at=strict_server)
    assert text(raw.result("get", GET), "reg:query/reg:instructions") == "Read the <rules> first."


def test_denied_by_host(secure, strict_server):
    raw = secure(at=strict_server, domain="second.test")
    assert get(raw.features, "regfeature:register") is None
    assert refusal(raw.request("get", GET))[:2] == ("not-allowed", "405")
    assert refused(raw, fields("romeo")) == ("not-allowed", "405")


def test_watchers_and_welcome(secure, strict_server, login, name):
    from conftest import Account
    local = name()
    raw = enter_new(secure, strict_server, local)
    raw.presence()
    hello = raw.expect("message")
    assert (hello.get("from"), text(hello, "subject"), text(hello, "body")) == (raw.domain, "Hello & welcome", "Be kind.")
    for who in ("watcher@rookery.test", "second@second.test"):
        watcher = login(Account(*who.split("@"), "x"), at=strict_server, presence=True)
        said = watcher.expect("message", where=lambda e: raw.bare in (text(e, "body") or ""))
        assert "127.0.0.1" in text(said, "body") and said.get("from") == "rookery.test"


NOWHERE = [{"action": "allow", "network": "192.0.2.0/24"}, {"action": "deny"}]


def test_denied_by_network(secure, new_server, login):
    from conftest import Account
    server = new_server(registration=ALL, registration_access=NOWHERE)
    raw = secure(at=server)
    assert get(raw.features, "regfeature:register") is None
    assert refused(raw, fields("romeo")) == ("not-allowed", "405")
    server.add_user("romeo", "rookery.test", "x")
    raw = login(Account("romeo", "rookery.test", "x"), at=server)
    assert refused(raw, "<query xmlns='jabber:iq:register'><remove/></query>") == ("forbidden", "403")
    raw.result("set", fields("romeo", "other words"))


def test_allowed_by_network(secure, new_server):
    server = new_server(registration=ALL, registration_access=[
        {"action": "allow", "what": "register", "network": "127.0.0.0/8"}, {"action": "deny"}])
    raw = enter_new(secure, server)
    assert refused(raw, "<query xmlns='jabber:iq:register'><remove/></query>") == ("forbidden", "403")


@pytest.mark.single("the rate is each node's own")
def test_rate(secure, new_server):
    server = new_server(registration={"enabled": True, "rate": 2, "rate_period": "1h"})
    assert refused(secure(at=server), fields("abbot", "x")) == ("not-acceptable", "406")  # costs nothing
    secure(at=server).result("set", fields("romeo"))
    assert refused(secure(at=server), fields("romeo")) == ("conflict", "409")
    raw = secure(at=server)
    assert refused(raw, fields("juliet")) == ("resource-constraint", "500")
    assert raw.auth("romeo", PASSWORD) is None


@pytest.mark.single("the rate is each node's own")
def test_rate_comes_back(secure, new_server):
    server = new_server(registration={"enabled": True, "rate": 1, "rate_period": "1s"})
    secure(at=server).result("set", fields("romeo"))
    deadline = time.monotonic() + 10
    while (reply := secure(at=server).request("set", fields("juliet"))).get("type") == "error":
        assert condition(reply) == "resource-constraint" and time.monotonic() < deadline


def test_redirect(secure, new_server):
    url = "https://rookery.test/register?a=1&b=2"
    raw = secure(at=new_server(registration={"enabled": True, "redirect": url}))
    assert get(raw.features, "regfeature:register") is not None
    query = get(raw.result("get", GET), "reg:query")
    assert [e.tag for e in query] == ["{jabber:iq:register}instructions", "{jabber:x:oob}x"]
    assert query[1][0].text == url and url in query[0].text
    condition_, code, why = refusal(raw.request("set", fields("romeo")))
    assert (condition_, code) == ("not-allowed", "405") and url in why


@pytest.mark.single("rookeryd --check")
@pytest.mark.parametrize("settings,why", [
    ({"registration_names": [{"action": "deny", "pattern": "(a"}]}, "registration_names.pattern: \"(a\" is not a regular"),
    ({"registration_names": [{"action": "deny"}]}, "registration_names.pattern: missing"),
    ({"registration_access": [{"action": "deny", "network": "127.0.0.1/33"}]}, "registration_access.network"),
    ({"registration_access": [{"action": "deny", "host": "else.test"}]}, "else.test is not one of the hosts"),
    ({"registration_watchers": [{"jid": "rookery.test"}]}, "registration_watchers.jid"),
    ({"registration": {"redirect": "rookery.test/register"}}, "is not a URL"),
    ({"registration": {"reserved": "root a@b"}}, "registration.reserved"),
    ({"registration": {"rate_ipv4_prefix": 33}}, "8 to 32"),
])
def test_check(new_server, settings, why):
    import rig
    server = new_server(start=False, **settings)
    done = subprocess.run([rig.build_dir() / "rookeryd", "--check", server.dir / "rookery.yml"], text=True, capture_output=True)
    assert done.returncode == 1 and why in done.stderr, done.stderr


# -- real clients ----------------------------------------------------------------------------------------------------

def library(name, server, local, new="other words"):
    """What the client program says, as lists of fields."""
    program = Path(__file__).parent / "clients" / f"register_{name}.py"
    done = subprocess.run([sys.executable, program, f"{local}@{server.domain}", PASSWORD, new, "127.0.0.1", str(server.port)],
                          text=True, capture_output=True, timeout=60)
    return [line.split("\t") for line in done.stdout.splitlines()], done.stderr


@pytest.mark.parametrize("client", ["slix", "aio"])
def test_library(open_server, name, secure, client):
    local = name()
    said, errors = library(client, open_server, local)
    assert said == [["fields", "password,username"], ["registered"], ["online", f"{local}@{open_server.domain}"],
                    ["known", "True", local], ["changed"], ["removed"]], errors
    assert enter(secure, open_server, local, "other words") == "not-authorized"


def test_library_hears_conflict(open_server, name, secure):
    local = name()
    secure(at=open_server).result("set", fields(local))
    said, errors = library("slix", open_server, local)
    assert said[-1] == ["error", "conflict", "409"], errors


def script(server, *arguments):
    program = Path(__file__).parent / "clients/register_script.py"
    return subprocess.run([sys.executable, program, "127.0.0.1", str(server.port), server.domain, *arguments],
                          text=True, capture_output=True, timeout=60, check=True).stdout.strip()


def test_script(open_server, server, name):
    local = name()
    assert script(open_server) == "fields: username password"
    assert script(open_server, local, PASSWORD) == "registered"
    assert script(open_server, local, PASSWORD) == "409 this name is taken"
    assert script(open_server, local) == "406 the password is missing"
    for arguments in ((), (local, PASSWORD)):
        assert script(server, *arguments) == "501 accounts are not made in band here"


def test_removed_names_are_kept(secure, new_server):
    """Nobody is taken for the owner before, and what he has open still does not get into another's account."""
    server = new_server(registration={"enabled": True, "remove": True})
    raw = enter_new(secure, server)
    half = secure(at=server)
    assert half.auth("somebody", PASSWORD) is None
    half.open()
    raw.result("set", "<query xmlns='jabber:iq:register'><remove/></query>")
    raw.expect_close("not-authorized")
    assert refused(secure(at=server), fields("somebody")) == ("conflict", "409")
    with pytest.raises(AssertionError):
        half.bind()
    secure(at=server).result("set", fields("somebody-else"))
    server.restart()
    assert refused(secure(at=server), fields("somebody")) == ("conflict", "409")


def test_kept_name_by_invitation(secure, new_server):
    server = new_server(registration={"enabled": True, "remove": True, "invitations": True})
    raw = enter_new(secure, server)
    raw.result("set", "<query xmlns='jabber:iq:register'><remove/></query>")
    raw = secure(at=server)
    assert refused(raw, fields("somebody")) == ("conflict", "409")
    assert server.ctl("invite", "list").strip() == ""
    token = server.ctl("invite", "--name", "somebody").split("preauth=")[1].split()[0]
    raw.result("set", f"<preauth xmlns='urn:xmpp:pars:0' token='{token}'/>")
    raw.result("set", fields("somebody"))
    assert raw.auth("somebody", PASSWORD) is None


# -- THREATS ---------------------------------------------------------------------------------------------------------

def sets(*accounts):
    return "".join(f"<iq type='set' id='r{i}'>{fields(*a)}</iq>" for i, a in enumerate(accounts))


def test_requests_sent_ahead(secure, open_server, name):
    """One after another: the second finds that the name is taken."""
    one, two = name(), name()
    raw = secure(at=open_server)
    raw.send(sets((one,), (one, "of the other"), (two,)))
    assert [raw.expect("iq", id=f"r{i}").get("type") for i in range(3)] == ["result", "error", "result"]
    assert enter(secure, open_server, one).bare == f"{one}@rookery.test"


def test_one_of_many_gets_the_name(secure, open_server, name):
    local = name()
    streams = [secure(at=open_server) for _ in range(6)]
    for i, raw in enumerate(streams):
        raw.send(sets((local, f"password of {i}")))
    won = [i for i, raw in enumerate(streams) if raw.expect("iq", id="r0").get("type") == "result"]
    assert len(won) == 1
    assert enter(secure, open_server, local, f"password of {won[0]}").jid
    assert enter(secure, open_server, local, f"password of {(won[0] + 1) % 6}") == "not-authorized"


def test_gone_while_it_registers(secure, open_server, name):
    for i in range(10):
        raw = secure(at=open_server)
        raw.send(sets((name(),)) + ("</stream:stream>" if i % 2 else ""))
        if not i % 2:
            raw.cut()
    secure(at=open_server).result("set", fields(name()))  # it lives


def test_end_of_stream_waits_for_the_answer(secure, open_server, name):
    raw, local = secure(at=open_server), name()
    raw.send(sets((local,)) + "</stream:stream>")
    assert raw.expect("iq", id="r0").get("type") == "result"
    raw.expect_close()


def test_login_ahead_of_the_answer(secure, open_server, name):
    """A login that is sent along is held, and finds the account."""
    raw, local = secure(at=open_server), name()
    raw.send(sets((local,)) + f"<auth xmlns='{NS['sasl']}' mechanism='PLAIN'>"
             + base64.b64encode(f"\0{local}\0{PASSWORD}".encode()).decode() + "</auth>")
    assert raw.expect("iq", id="r0").get("type") == "result"
    raw.expect("sasl:success")


def test_in_the_middle_of_a_login(secure, open_server, name):
    """A registration ends the SASL exchange that had begun."""
    raw, local = secure(at=open_server), name()
    first = base64.b64encode(f"n,,n={local},r=abcdefgh".encode()).decode()
    assert raw.sasl(f"<auth xmlns='{NS['sasl']}' mechanism='SCRAM-SHA-1'>{first}</auth>").tag.endswith("challenge")
    raw.result("set", fields(local))
    assert raw.sasl(f"<response xmlns='{NS['sasl']}'>{first}</response>").tag.endswith("failure")
    assert raw.auth(local, PASSWORD) is None


@pytest.mark.parametrize("size", [1024, 9000])
def test_long_password(secure, open_server, name, size):
    assert refused(secure(at=open_server), fields(name(), "aB3$" * (size // 4))) == ("not-acceptable", "406")


@pytest.mark.parametrize("stanza", [
    "<iq type='result' id='x'><query xmlns='jabber:iq:register'/></iq>",
    "<iq type='error' id='x'><query xmlns='jabber:iq:register'/></iq>",
    "<iq type='get'><query xmlns='jabber:iq:register'/></iq>",
    "<iq type='get' id='x'><ping xmlns='urn:xmpp:ping'/><query xmlns='jabber:iq:register'/></iq>",
    "<message><query xmlns='jabber:iq:register'/></message>",
    "<iq type='get' id='x'><preauth xmlns='urn:xmpp:pars:0' token='x'/></iq>",
], ids=range(6))
def test_other_stanzas_end_the_stream(secure, open_server, stanza):
    raw = secure(at=open_server)
    raw.send(stanza)
    raw.expect_close("not-authorized")


def test_name_like_anothers(secure, open_server):
    """THREATS 28: letters of two scripts."""
    assert refused(secure(at=open_server), fields("\u0430dmiral")) == ("not-acceptable", "406")
    assert refused(secure(at=open_server), fields("\uff52\uff4f\uff4f\uff54")) == ("not-acceptable", "406"), "fullwidth root"


def test_removal_under_way(member, secure, open_server):
    """What is sent along with it, and to the account meanwhile, is answered or refused, and nothing breaks."""
    a, b = member(presence=True), member(presence=True)
    befriend(a, b)
    a.send("".join(f"<message to='{b.bare}' type='chat' id='m{i}'><body>{i}</body></message>" for i in range(20))
           + "<iq type='set' id='gone'><query xmlns='jabber:iq:register'><remove/></query></iq>"
           + "".join(f"<message to='{b.bare}' type='chat' id='n{i}'><body>{i}</body></message>" for i in range(20)))
    for i in range(40):
        b.message(a.bare, f"to {i}")
    a.expect_close("not-authorized")
    for i in range(20):
        b.expect("message", id=f"m{i}")
    b.ping()
    assert enter(secure, open_server, a.local) == "not-authorized"
    b.message(a.bare, "too late", id="late")
    assert condition(b.expect("message", id="late", type="error")) in ("service-unavailable", "item-not-found")
