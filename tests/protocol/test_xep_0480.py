"""XEP-0480: an account with keys of one hash gets those of another; XEP-0474: what was announced is told again, signed."""
import base64
import hashlib
import uuid

import pytest

from conftest import Account
from raw import NS, StreamClosed, every, get, qname, text
from sasl2 import add_with_keys, agent, authenticate, b64, failure, login2
from scram import Scram

pytestmark = pytest.mark.rookery
BIND = "<bind xmlns='urn:xmpp:bind:0'/>"


def upgrade(*hashes):
    return "".join(f"<upgrade xmlns='{NS['upgrade']}'>UPGR-SCRAM-{h}</upgrade>" for h in hashes)


@pytest.fixture
def imported(server):
    """An account with keys of these hashes only."""
    def make(*hashes):
        who = Account(f"import-{uuid.uuid4().hex[:12]}", server.domain, uuid.uuid4().hex)
        add_with_keys(server, who, *hashes)
        return who
    return make


def do_task(raw, reply, who, password=None):
    """The task of a <continue/>; what comes then."""
    task = text(reply, "sasl2:tasks/sasl2:task")
    salt = get(raw.sasl(f"<next xmlns='{NS['sasl2']}' task='{task}'/>"), "scramup:salt")
    algorithm = task.removeprefix("UPGR-SCRAM-").replace("-", "").lower()
    salted = hashlib.pbkdf2_hmac(algorithm, (password or who.password).encode(), base64.b64decode(salt.text),
                                 int(salt.get("iterations")))
    return raw.sasl(f"<task-data xmlns='{NS['sasl2']}'><hash xmlns='{NS['scramup']}'>{b64(salted)}</hash></task-data>")


def can(secure, who, mechanism):
    return login2(secure(), who, mechanism=mechanism).tag == qname("sasl2:success")


def test_feature(secure):
    tasks = [u.text for u in every(secure().features, "sasl2:authentication/upgrade:upgrade")]
    assert tasks == ["UPGR-SCRAM-SHA-256", "UPGR-SCRAM-SHA-512"]


def test_upgrade(secure, imported):
    who, raw = imported("SHA-1"), secure()
    assert not can(secure, who, "SCRAM-SHA-512")
    reply = login2(raw, who, upgrade("SHA-512") + BIND, mechanism="SCRAM-SHA-1")
    assert reply.tag == qname("sasl2:continue") and len(every(reply, "sasl2:tasks/sasl2:task")) == 1
    success = do_task(raw, reply, who)
    assert get(success, "bind2:bound") is not None, "what was asked for inline comes behind the tasks"
    assert get(success, "sasl2:additional-data") is None, "that was in <continue/>"
    raw.expect("stream:features")
    raw.ping()
    assert can(secure, who, "SCRAM-SHA-512") and can(secure, who, "SCRAM-SHA-1") and not can(secure, who, "SCRAM-SHA-256")


def test_two_tasks(secure, imported):
    who, raw = imported("SHA-1"), secure()
    reply = login2(raw, who, upgrade("SHA-512", "SHA-256", "SHA-3"), mechanism="SCRAM-SHA-1")
    reply = do_task(raw, reply, who)
    assert reply.tag == qname("sasl2:continue")
    assert do_task(raw, reply, who).tag == qname("sasl2:success")
    assert can(secure, who, "SCRAM-SHA-512") and can(secure, who, "SCRAM-SHA-256")


def test_nothing_to_do(secure, account):
    """An account that has all keys costs no more round trips."""
    assert login2(secure(), account(), upgrade("SHA-256", "SHA-512")).tag == qname("sasl2:success")


def test_not_by_a_token(secure, imported):
    """A token is no password: it must not make one."""
    who, raw, id = imported("SHA-1"), secure(), uuid.uuid4()
    mechanism = "HT-SHA-256-NONE"
    reply = login2(raw, who, agent(id) + f"<request-token xmlns='{NS['fast']}' mechanism='{mechanism}'/>",
                   mechanism="SCRAM-SHA-1")
    token = get(reply, "fast:token").get("token").encode()
    import hmac
    first = who.local.encode() + b"\0" + hmac.new(token, b"Initiator", "sha256").digest()
    reply = secure().sasl(authenticate(mechanism, first, agent(id) + f"<fast xmlns='{NS['fast']}'/>" + upgrade("SHA-512")))
    assert reply.tag == qname("sasl2:success")
    assert not can(secure, who, "SCRAM-SHA-512")


def test_token_lives_on(secure, imported):
    """Added keys are no new password."""
    who, id = imported("SHA-1"), uuid.uuid4()
    import hmac
    raw = secure()
    reply = login2(raw, who, agent(id) + f"<request-token xmlns='{NS['fast']}' mechanism='HT-SHA-256-NONE'/>" +
                   upgrade("SHA-512"), mechanism="SCRAM-SHA-1")
    assert get(reply, "fast:token") is None, "not before the tasks are done"
    token = get(do_task(raw, reply, who), "fast:token").get("token").encode()
    first = who.local.encode() + b"\0" + hmac.new(token, b"Initiator", "sha256").digest()
    assert secure().sasl(authenticate("HT-SHA-256-NONE", first, agent(id) + f"<fast xmlns='{NS['fast']}'/>")
                         ).tag == qname("sasl2:success")


@pytest.mark.parametrize("step", ["other task", "no next", "short", "empty", "abort", "stanza", "again"])
def test_wrong_step(secure, imported, step):
    who, raw = imported("SHA-1"), secure()
    login2(raw, who, upgrade("SHA-512"), mechanism="SCRAM-SHA-1")
    hash = f"<task-data xmlns='{NS['sasl2']}'><hash xmlns='{NS['scramup']}'>{{}}</hash></task-data>"
    if step in ("short", "empty"):
        raw.sasl(f"<next xmlns='{NS['sasl2']}' task='UPGR-SCRAM-SHA-512'/>")
    raw.send({"other task": f"<next xmlns='{NS['sasl2']}' task='UPGR-SCRAM-SHA-256'/>", "no next": hash.format(b64("x" * 64)),
              "short": hash.format(b64("x" * 32)), "empty": hash.format(""), "abort": f"<abort xmlns='{NS['sasl2']}'/>",
              "stanza": "<iq type='get' id='x'><ping xmlns='urn:xmpp:ping'/></iq>",
              "again": authenticate("PLAIN", "x")}[step])
    if step in ("stanza", "again"):
        raw.expect_close({"policy-violation", "not-authorized"})
    else:
        assert failure(raw.next()) == ("aborted" if step == "abort" else "malformed-request")
        raw.expect_close()
    assert not can(secure, who, "SCRAM-SHA-512")


def test_task_without_one(login):
    raw = login()
    raw.send(f"<next xmlns='{NS['sasl2']}' task='UPGR-SCRAM-SHA-512'/>")
    raw.expect_close("not-authorized")


# -- XEP-0474 ------------------------------------------------------------------------------------------------------------

def announced(features, mechanisms, algorithm):
    names = [m.text.encode() for m in every(features, mechanisms)]
    bindings = [b.get("type").encode() for b in every(features, "cb:sasl-channel-binding/cb:channel-binding")]
    data = b"\x1e".join(sorted(names)) + (b"\x1f" + b"\x1e".join(sorted(bindings)) if bindings else b"")
    return b64(hashlib.new(algorithm, data).digest())


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("profile", [1, 2])
def test_0474_hash(secure, account, mechanism, profile):
    """What the server says it has announced is what came here."""
    raw, who = secure(), account()
    first = b64(Scram(mechanism, who.local, who.password).first())
    if profile == 1:
        reply = raw.sasl(f"<auth xmlns='{NS['sasl']}' mechanism='{mechanism}'>{first}</auth>")
        names = "sasl:mechanisms/sasl:mechanism"
    else:
        reply = raw.sasl(authenticate(mechanism, base64.b64decode(first)))
        names = "sasl2:authentication/sasl2:mechanism"
    fields = dict(f.split("=", 1) for f in base64.b64decode(reply.text).decode().split(","))
    assert fields["h"] == announced(raw.features, names, mechanism.removeprefix("SCRAM-").replace("-", "").lower())


def test_0474_is_signed(secure, account):
    """Another hash in between, and the client's proof is not the server's."""
    raw, who = secure(), account()
    s = Scram("SCRAM-SHA-256", who.local, who.password)
    challenge = base64.b64decode(raw.sasl(authenticate("SCRAM-SHA-256", s.first())).text).decode()
    forged = challenge[:challenge.index(",h=")] + ",h=" + b64(hashlib.sha256(b"PLAIN").digest())
    answer = s.challenge(forged.encode())
    assert failure(raw.sasl(f"<response xmlns='{NS['sasl2']}'>{b64(answer)}</response>")) == "not-authorized"
