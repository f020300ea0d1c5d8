"""XEP-0445 and the operator's side of 0401: `rookeryctl invite`, and registration by its token."""
import json
import re
import sqlite3

import pytest

import conftest
import rig
from raw import NS, condition, get, text
from test_xep_0077 import GET, PASSWORD, fields, name, refusal, refused  # noqa: F401 (a fixture)

NS["token"] = "urn:xmpp:ibr-token:0"
CLOSED = {"registration": {"invitations": True, "remove": True, "reserved": "mercutio"},
          "registration_names": [{"action": "deny", "pattern": "bot.*"}],
          "registration_access": [{"action": "deny", "what": "register"}]}


@pytest.fixture(scope="module")
def closed():
    """Nobody registers here but who is invited."""
    s = rig.new_server(**CLOSED)
    try:
        yield s.start()
        conftest.stop_cleanly(s)
    finally:
        s.remove()


@pytest.fixture(scope="module")
def open_too():
    """Anybody may register, and there are invitations."""
    s = rig.new_server(registration={"enabled": True, "invitations": True, "rate": 0})
    try:
        yield s.start()
        conftest.stop_cleanly(s)
    finally:
        s.remove()


def ctl(server, *arguments):
    return json.loads(server.ctl("--json", *arguments))


def invite(server, *arguments):
    """(token, id)"""
    made = ctl(server, "invite", server.domain, *arguments)
    token = re.fullmatch(r"xmpp:(?:[^@]*@)?rookery\.test\?register;preauth=([\w-]{20,})", made["uri"])
    return token[1], made["id"]


def preauth(token):
    return f"<preauth xmlns='urn:xmpp:pars:0' token='{token}'/>"


def invited(secure, server, token):
    raw = secure(at=server)
    raw.result("set", preauth(token), to=raw.domain)
    return raw


def test_closed_to_others(secure, closed):
    raw = secure(at=closed)
    assert get(raw.features, "token:register") is not None
    assert get(raw.features, "regfeature:register") is not None
    assert refusal(raw.request("get", GET)) == ("not-allowed", "405", "by invitation only")
    assert refused(raw, fields("romeo")) == ("not-allowed", "405")


def test_invited(secure, closed, name):  # noqa: F811
    token, _ = invite(closed)
    raw, local = invited(secure, closed, token), name()
    assert get(raw.result("get", GET), "reg:query/reg:username") is not None
    raw.result("set", fields(local))
    assert raw.auth(local, PASSWORD) is None
    late = secure(at=closed)
    assert refusal(late.request("set", preauth(token)))[:2] == ("item-not-found", "404")
    assert refused(late, fields(name())) == ("not-allowed", "405")


@pytest.mark.parametrize("token", ["x", "x" * 24, "' or 1=1", "&lt;"])
def test_unknown_token(secure, closed, token):
    raw = secure(at=closed)
    reply = raw.request("set", preauth(token.replace("'", "&apos;")))
    assert condition(reply) == "item-not-found" and text(reply, "error/e:text")
    assert refused(raw, preauth("")) == ("bad-request", "400")
    assert refused(raw, fields("romeo")) == ("not-allowed", "405")


def test_token_is_of_its_host(secure, closed):
    token, _ = invite(closed)
    raw = secure(at=closed, domain="second.test")
    assert condition(raw.request("set", preauth(token))) == "item-not-found"


def test_name(secure, closed, name):  # noqa: F811
    local = name()
    token, _ = invite(closed, "--name", local.upper())
    raw = invited(secure, closed, token)
    assert refusal(raw.request("set", fields(name())))[1:] == ("406", "the invitation is for another name")
    raw.result("set", fields(local))
    assert raw.auth(local, PASSWORD) is None


def test_operator_may_give_any_name(secure, closed):
    """Rules are for names that users choose."""
    token, _ = invite(closed)
    raw = invited(secure, closed, token)
    for local in ("mercutio", "bot1"):
        assert refused(raw, fields(local)) == ("not-acceptable", "406")
    token, _ = invite(closed, "--name", "mercutio")
    invited(secure, closed, token).result("set", fields("mercutio"))


def test_uri_with_name(closed):
    made = ctl(closed, "invite", "second.test", "--name", "röm&o".replace("&", "+"))
    assert made["uri"].startswith("xmpp:r%C3%B6m+o@second.test?register;preauth=")


def test_uses(secure, closed, name):  # noqa: F811
    token, _ = invite(closed, "--uses", "3")
    streams = [invited(secure, closed, token) for _ in range(4)]
    for raw in streams[:3]:
        raw.result("set", fields(name()))
    assert refused(streams[3], fields(name())) == ("item-not-found", "404")


def test_a_failure_takes_no_use(secure, closed, name):  # noqa: F811
    taken = name()
    invited(secure, closed, invite(closed)[0]).result("set", fields(taken))
    token, id = invite(closed)
    raw = invited(secure, closed, token)
    assert refused(raw, fields(taken)) == ("conflict", "409")
    assert refused(raw, fields(name(), "\u0378" * 10)) == ("not-acceptable", "406")
    again = invited(secure, closed, token)
    again.result("set", fields(name()))


def test_reserved_while_it_is_open(secure, open_too, name):  # noqa: F811
    local = name()
    token, id = invite(open_too, "--name", local)
    assert refused(secure(at=open_too), fields(local)) == ("conflict", "409")
    other, _ = invite(open_too)
    assert refused(invited(secure, open_too, other), fields(local)) == ("conflict", "409")
    with pytest.raises(RuntimeError, match="there is an invitation for this name"):
        invite(open_too, "--name", local)
    ctl(open_too, "invite", "del", open_too.domain, id)
    secure(at=open_too).result("set", fields(local))


def test_without_token_where_it_is_open(secure, open_too, name):  # noqa: F811
    secure(at=open_too, domain="second.test").result("set", fields(name()))  # nobody was ever invited there
    secure(at=open_too).result("set", fields(name()))


def test_list_and_del(secure, closed, name):  # noqa: F811
    local = name()
    _, one = invite(closed, "--name", local, "--days", "30")
    token, two = invite(closed, "--uses", "5")
    invited(secure, closed, token).result("set", fields(name()))
    known = {i["id"]: i for i in ctl(closed, "invite", "list")}
    assert (known[one]["name"], known[one]["uses"], known[one]["used"]) == (local, 1, 0)
    assert (known[two]["name"], known[two]["uses"], known[two]["used"]) == (None, 5, 1)
    assert known[one]["expires"] > known[two]["expires"]
    ctl(closed, "invite", "del", closed.domain, two)
    assert two not in {i["id"] for i in ctl(closed, "invite", "list")}
    assert condition(secure(at=closed).request("set", preauth(token))) == "item-not-found"
    with pytest.raises(RuntimeError, match="no such invitation"):
        ctl(closed, "invite", "del", closed.domain, two)


@pytest.mark.parametrize("arguments,why", [
    (["invite", "else.test"], "no such host"), (["invite", "--uses", "0"], "uses"), (["invite", "--uses", "1001"], "uses"),
    (["invite", "--name", "x", "--uses", "2"], "one only with a name"), (["invite", "--name", "a b"], "not a possible name"),
    (["invite", "--days", "0"], "days"), (["invite", "del", "rookery.test", "x"], "not an invitation's id"),
])
def test_wrong_arguments(closed, arguments, why):
    with pytest.raises(RuntimeError, match=why):
        ctl(closed, *arguments)


def test_off(secure, server):
    with pytest.raises(RuntimeError, match="registration.invitations is off"):
        ctl(server, "invite")
    raw = secure()
    assert get(raw.features, "token:register") is None
    assert refused(raw, preauth("x")) == ("feature-not-implemented", "501")


def test_the_host_is_no_user(closed):
    invite(closed)
    assert all("@" in u for u in ctl(closed, "user", "list")["users"])


@pytest.mark.single("a file of one process")
def test_stored_as_hash_and_kept(secure, new_server):
    server = new_server(**CLOSED)
    token, _ = invite(server, "--uses", "2")
    invited(secure, server, token).result("set", fields("romeo"))
    server.restart()
    for path in server.dir.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path
    raw = invited(secure, server, token)
    raw.result("set", fields("juliet"))
    assert condition(secure(at=server).request("set", preauth(token))) == "item-not-found"


@pytest.mark.single("a file of one process")
def test_expired(secure, new_server):
    """Looked at when the token is shown, not later (section 4)."""
    server = new_server(**CLOSED)
    token, _ = invite(server, "--uses", "2")
    raw = invited(secure, server, token)
    db = sqlite3.connect(server.dir / "rookery.sqlite", timeout=20)
    where = "where key like 'urn:xmpp:ibr-token:0%'"
    all_ = json.loads(db.execute(f"select data from value {where}").fetchone()[0])
    all_[0]["expires"] -= 7 * 86400 + 1
    db.execute(f"update value set data = ? {where}", [json.dumps(all_).encode()])
    db.commit()
    db.close()
    assert condition(secure(at=server).request("set", preauth(token))) == "item-not-found"
    assert ctl(server, "invite", "list") == []
    raw.result("set", fields("romeo"))
