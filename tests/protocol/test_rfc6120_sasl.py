"""RFC 6120 section 6; SCRAM by RFC 5802 and 7677, channel binding by RFC 9266 and 5929."""
import base64

import pytest
from OpenSSL import SSL

from raw import NS, StreamClosed, every, get, qname
from scram import Scram

SCRAMS = ("SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512")


def mechanisms(features):
    return [m.text for m in every(features, "sasl:mechanisms/sasl:mechanism")]


def b64(data):
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def auth(mechanism, data=""):
    return f"<auth xmlns='{NS['sasl']}' mechanism='{mechanism}'>{data}</auth>"


def failure(reply):
    assert reply.tag == qname("sasl:failure"), reply.tag
    return next(c.tag.split("}")[1] for c in reply if not c.tag.endswith("}text"))


@pytest.mark.rookery
def test_offer_under_tls(secure):
    assert set(mechanisms(secure().features)) == {"PLAIN", *SCRAMS, *(f"{m}-PLUS" for m in SCRAMS)}


@pytest.mark.rookery
@pytest.mark.parametrize("mechanism", SCRAMS)
@pytest.mark.parametrize("binding", [None, "tls-exporter", "tls-server-end-point"])
def test_scram(secure, account, mechanism, binding):
    raw, who = secure(), account()
    assert raw.auth(who.local, who.password, mechanism + ("-PLUS" if binding else ""), binding) is None
    raw.open()
    assert raw.bind().startswith(who.jid + "/")


@pytest.mark.parametrize("mechanism", ("SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN"))
def test_common_mechanisms(secure, account, mechanism):
    raw, who = secure(), account()
    assert raw.auth(who.local, who.password, mechanism) is None


@pytest.mark.parametrize("mechanism", ("SCRAM-SHA-1", "PLAIN"))
def test_wrong_password_and_unknown_user_look_the_same(secure, account, mechanism):
    who = account()
    raw = secure()
    assert raw.auth(who.local, "wrong", mechanism) == "not-authorized"
    assert raw.auth("nobody-at-all", "wrong", mechanism) == "not-authorized"
    assert raw.auth(who.local, who.password, mechanism) is None, "the stream allows another try"


@pytest.mark.rookery
def test_unknown_user_keeps_its_salt(secure):
    """A salt that changes from try to try would tell that there is no such user."""
    def first(user):
        raw = secure()
        challenge = raw.sasl(auth("SCRAM-SHA-256", b64(f"n,,n={user},r=abcdefghijkl")))
        fields = dict(f.split("=", 1) for f in base64.b64decode(challenge.text).decode().split(","))
        return fields["s"], fields["i"]
    assert first("nobody") == first("nobody")
    assert first("nobody")[0] != first("nobody2")[0]


@pytest.mark.rookery
def test_attempts_per_stream_are_limited(secure, account):
    who, raw = account(), secure()
    for _ in range(3):
        assert raw.auth(who.local, "wrong") == "not-authorized"
    with pytest.raises(StreamClosed):
        raw.auth(who.local, who.password)
    assert raw.error in (None, "policy-violation", "not-authorized")


@pytest.mark.parametrize("mechanism", ["ANONYMOUS", "EXTERNAL", "DIGEST-MD5", "scram-sha-1", "Plain", "PLAIN ", "GSSAPI",
                                       "X-NOSUCH", ""])
def test_mechanism_that_was_not_offered(secure, mechanism):
    assert failure(secure().sasl(auth(mechanism, b64("\0user\0password")))) in ("invalid-mechanism", "malformed-request")


def test_bad_base64(secure):
    assert failure(secure().sasl(auth("PLAIN", "!!!not base64"))) == "incorrect-encoding"


@pytest.mark.parametrize("data", ["", "\0", "user\0password", "\0user\0password\0more", "\0\0password", "\0user\0",
                                  b"\0us\xffer\0password"])
def test_malformed_plain(secure, data):
    assert failure(secure().sasl(auth("PLAIN", b64(data) or "="))) in ("malformed-request", "not-authorized")


def test_abort(secure, account):
    raw, who = secure(), account()
    assert raw.sasl(auth("SCRAM-SHA-1", b64(f"n,,n={who.local},r=abcdefghijkl"))).tag == qname("sasl:challenge")
    assert failure(raw.sasl(f"<abort xmlns='{NS['sasl']}'/>")) == "aborted"
    assert raw.auth(who.local, who.password) is None


@pytest.mark.parametrize("message", ["", "n,,", "n,,r=abc", "x,,n=user,r=abcdefgh", "n,,m=ext,n=user,r=abcdefgh",
                                     "n,a=other,n=user", "p=,,n=user,r=abcdefgh"])
def test_malformed_scram(secure, message):
    reply = secure().sasl(auth("SCRAM-SHA-1", b64(message) or "="))
    assert failure(reply) in ("malformed-request", "not-authorized", "incorrect-encoding")


@pytest.mark.rookery
@pytest.mark.parametrize("authzid,good", [("{jid}", True), ("", True), ("other@{domain}", False),
                                          ("{jid}/resource", False), ("{local}@second.test", False), ("@@@", False)])
@pytest.mark.parametrize("mechanism", ("PLAIN", "SCRAM-SHA-256"))
def test_authzid(secure, account, mechanism, authzid, good):
    """THREATS 12: only the own identity; ejabberd 23.01 let one in as another."""
    raw, who = secure(), account()
    authzid = authzid.format(jid=who.jid, local=who.local, domain=who.domain)
    why = raw.auth(who.local, who.password, mechanism, authzid=authzid)
    assert why is None if good else why in ("invalid-authzid", "not-authorized", "malformed-request")


@pytest.mark.rookery
def test_downgrade_is_noticed(secure, account):
    """'y' says: I could bind, but you do not offer it. We do, so somebody took it out of the features."""
    raw, who = secure(), account()
    assert raw.auth(who.local, who.password, "SCRAM-SHA-256", gs2="y") is not None


@pytest.mark.rookery
@pytest.mark.parametrize("kind", ["tls-exporter", "tls-server-end-point"])
def test_wrong_binding(secure, account, kind):
    """THREATS 13: what a man in the middle would have."""
    raw, who = secure(), account()
    raw.binding = lambda k: (k, b"x" * 32)
    assert raw.auth(who.local, who.password, "SCRAM-SHA-256-PLUS", kind) == "not-authorized"


@pytest.mark.rookery
def test_unsupported_binding_type(secure, account):
    raw, who = secure(), account()
    raw.binding = lambda k: ("tls-unique", b"x" * 12)
    assert raw.auth(who.local, who.password, "SCRAM-SHA-256-PLUS", "tls-unique") in ("malformed-request", "not-authorized")


@pytest.mark.rookery
def test_plus_needs_p_flag(secure, account):
    raw, who = secure(), account()
    assert raw.auth(who.local, who.password, "SCRAM-SHA-256-PLUS", gs2="n") is not None


@pytest.mark.rookery
def test_plus_under_tls_1_2(connect, account):
    raw, who = connect(), account()
    raw.open()
    raw.starttls(version=SSL.TLS1_2_VERSION)
    raw.open()
    assert raw.auth(who.local, who.password, "SCRAM-SHA-1-PLUS", "tls-server-end-point") is None


def test_second_step_with_another_nonce(secure, account):
    raw, who = secure(), account()
    s = Scram("SCRAM-SHA-1", who.local, who.password)
    challenge = raw.sasl(auth("SCRAM-SHA-1", b64(s.first())))
    answer = s.challenge(base64.b64decode(challenge.text), nonce=s.nonce + "forged")
    reply = raw.sasl(f"<response xmlns='{NS['sasl']}'>{b64(answer)}</response>")
    assert failure(reply) in ("not-authorized", "malformed-request")


def test_response_without_auth(secure):
    raw = secure()
    raw.send(f"<response xmlns='{NS['sasl']}'>{b64('x')}</response>")
    try:
        assert failure(raw.next())
    except StreamClosed as e:
        assert e.error == "not-authorized"


@pytest.mark.rookery
def test_no_sasl_in_clear(connect, account):
    raw, who = connect(), account()
    features = raw.open()
    assert not mechanisms(features) and get(features, "tls:starttls/tls:required") is not None
    reply = None
    try:
        reply = failure(raw.sasl(auth("PLAIN", b64(f"\0{who.local}\0{who.password}"))))
    except StreamClosed as e:
        assert e.error in ("policy-violation", "not-authorized")
    assert reply in (None, "encryption-required", "invalid-mechanism")
