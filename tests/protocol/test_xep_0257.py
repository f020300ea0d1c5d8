"""SASL EXTERNAL by client certificate (XEP-0178), and the account's list of certificates (XEP-0257)."""
import base64
import subprocess

import pytest
from OpenSSL import SSL, crypto

from raw import NS, StreamClosed, every, get, qname, text
from sasl2 import authenticate, b64, failure

pytestmark = [pytest.mark.rookery, pytest.mark.single("a server of its own")]
BIND = "<bind xmlns='urn:xmpp:bind:0'/>"
CERT = "urn:xmpp:saslcert:1"


class Certificate:
    def __init__(self, directory, name, *jids, days=30, ca=None, extra=()):
        self.crt, self.key = directory / f"{name}.crt", directory / f"{name}.key"
        names = ",".join([f"otherName:1.3.6.1.5.5.7.8.5;UTF8:{j}" for j in jids] + list(extra))
        issuer = ["-CA", ca.crt, "-CAkey", ca.key] if ca else []
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-days", str(days), "-subj", f"/CN={name}", *(["-addext", f"subjectAltName={names}"] if names else []),
                        *issuer, "-keyout", self.key, "-out", self.crt], check=True, capture_output=True)
        self.der = subprocess.run(["openssl", "x509", "-in", self.crt, "-outform", "DER"], check=True,
                                  capture_output=True).stdout


def expire(c):
    """The same certificate, but it ended a minute ago."""
    x = crypto.load_certificate(crypto.FILETYPE_PEM, c.crt.read_bytes())
    x.gmtime_adj_notBefore(-3600)
    x.gmtime_adj_notAfter(-60)
    x.sign(crypto.load_privatekey(crypto.FILETYPE_PEM, c.key.read_bytes()), "sha256")
    c.crt.write_bytes(crypto.dump_certificate(crypto.FILETYPE_PEM, x))
    c.der = crypto.dump_certificate(crypto.FILETYPE_ASN1, x)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    directory = tmp_path_factory.mktemp("certificates")
    return lambda name, *jids, **k: Certificate(directory, name, *jids, **k)


@pytest.fixture(scope="module")
def ca(make):
    return make("ca")


@pytest.fixture(scope="module")
def external(ca):
    """A server that asks for certificates."""
    import rig
    from conftest import stop_cleanly
    s = rig.new_server(sasl={"external": True, "external_ca": ca.crt}, registration={"change_password": True})
    try:
        yield s.start()
        stop_cleanly(s)
    finally:
        s.remove()


@pytest.fixture
def open_with(connect, external):
    """A connection that shows this certificate; .features are its features."""
    def make(certificate=None, domain=None, version=None, **header):
        raw = connect(domain=domain, at=external)
        raw.open()
        raw.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        raw.expect("tls:proceed")
        raw.start_tls(certificate=certificate, version=version)
        raw.features = raw.open(**header)
        return raw
    return make


def offered(raw):
    return "EXTERNAL" in [m.text for m in every(raw.features, "sasl:mechanisms/sasl:mechanism")]


def external_login(raw, authzid="", inline=BIND):
    reply = raw.sasl(authenticate("EXTERNAL", authzid, inline))
    if reply.tag == qname("sasl2:success"):
        raw.jid = text(reply, "sasl2:authorization-identifier")
    return reply


def good(raw, who, authzid=""):
    return external_login(raw, authzid).tag == qname("sasl2:success") and raw.jid.startswith(who.jid + "/")


def append(certificate, name="phone", extra=""):
    return (f"<append xmlns='{CERT}'><name>{name}</name>{extra}<x509cert>\n{base64.encodebytes(certificate.der).decode()}"
            "</x509cert></append>")


@pytest.fixture
def owner(login, account, external):
    """A session of an account on that server, logged in by password."""
    return lambda: login(account(at=external), "desk", at=external)


def certificate_names(raw):
    items = raw.result("get", f"<items xmlns='{CERT}'/>")
    return [i.findtext(f"{{{CERT}}}name") for i in items.iter(f"{{{CERT}}}item")]


def test_disco(owner, login):
    for raw, there in ((owner(), True), (login(), False)):
        info = raw.result("get", f"<query xmlns='{NS['info']}'/>", to=raw.domain)
        assert (CERT in [f.get("var") for f in every(info, "info:query/info:feature")]) == there


def test_off_by_default(login, make, connect):
    raw, certificate = login(), make("unused")
    assert raw.refused("set", append(certificate)) == "service-unavailable"
    other = connect(tls=True)
    other.features = other.open()
    assert not offered(other)


def test_offered_with_a_certificate_only(open_with, make):
    assert not offered(open_with())
    assert offered(open_with(make("some")))


@pytest.mark.parametrize("profile", [1, 2])
@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, None])
def test_listed_certificate(owner, open_with, make, profile, version):
    raw = owner()
    c = make("listed", raw.account.jid)
    raw.result("set", append(c))
    assert certificate_names(raw) == ["phone"]
    other = open_with(c, version=version)
    if profile == 1:
        assert other.sasl(f"<auth xmlns='{NS['sasl']}' mechanism='EXTERNAL'>=</auth>").tag == qname("sasl:success")
        other.open()
        other.bind("bot")
    else:
        assert good(other, raw.account)
    other.ping()
    items = raw.result("get", f"<items xmlns='{CERT}'/>")
    assert [r.text for r in items.iter(f"{{{CERT}}}resource")] == [other.jid.split("/", 1)[1]]
    assert base64.b64decode(next(items.iter(f"{{{CERT}}}x509cert")).text) == c.der


def test_unknown_certificate(owner, open_with, make):
    raw = owner()
    assert failure(external_login(open_with(make("foreign", raw.account.jid)))) == "not-authorized"
    assert failure(external_login(open_with(make("nobody", f"nobody@{raw.domain}")))) == "not-authorized"


def test_anothers_certificate(owner, open_with, make):
    """A listed certificate opens the account that lists it, and no other."""
    a, b = owner(), owner()
    c = make("a", a.account.jid)
    a.result("set", append(c))
    assert failure(external_login(open_with(c), b.account.jid)) == "invalid-authzid"
    unnamed = make("unnamed")
    a.result("set", append(unnamed, "unnamed"))
    assert failure(external_login(open_with(unnamed), b.account.jid)) == "not-authorized"
    assert good(open_with(unnamed), a.account, a.account.jid)


def test_no_name_in_the_certificate(owner, open_with, make):
    """Then it is the stream's `from` that says who, or nobody."""
    raw = owner()
    c = make("nameless")
    raw.result("set", append(c))
    assert failure(external_login(open_with(c))) == "not-authorized"
    assert good(open_with(c, extra=f" from='{raw.account.jid}'"), raw.account)


def test_two_names(owner, open_with, make):
    raw = owner()
    c = make("two", raw.account.jid, f"other@{raw.domain}")
    raw.result("set", append(c))
    assert failure(external_login(open_with(c))) == "invalid-authzid"
    assert good(open_with(c), raw.account, raw.account.jid)


def test_expired(owner, open_with, make):
    raw = owner()
    c = make("expired", raw.account.jid)
    expire(c)
    raw.result("set", append(c))
    assert failure(external_login(open_with(c))) == "credentials-expired"


@pytest.mark.parametrize("authzid", ["@@", "{domain}", "{jid}/resource", "user@elsewhere.test", "a\0b"])
def test_authzid(owner, open_with, make, authzid):
    raw = owner()
    c = make("authzid")
    raw.result("set", append(c))
    why = failure(external_login(open_with(c), authzid.format(jid=raw.account.jid, domain=raw.domain)))
    assert why == "invalid-authzid"


def test_name_is_no_common_name(owner, open_with, make):
    """THREATS 18: nothing but xmppAddr counts."""
    raw = owner()
    c = make(raw.account.jid, extra=[f"email:{raw.account.jid}", f"URI:xmpp:{raw.account.jid}"])
    assert failure(external_login(open_with(c))) == "not-authorized"


def test_authority(owner, open_with, make, ca):
    """XEP-0178: in no list, but an authority says whose it is."""
    raw = owner()
    assert good(open_with(make("signed", raw.account.jid, ca=ca)), raw.account)
    assert failure(external_login(open_with(make("signed-nobody", f"nobody@{raw.domain}", ca=ca)))) == "not-authorized"
    nameless = make("signed-nameless", ca=ca)
    assert failure(external_login(open_with(nameless), raw.account.jid)) == "not-authorized"
    forged = make("ca")  # an authority of the same name
    assert failure(external_login(open_with(make("forged", raw.account.jid, ca=forged)))) == "not-authorized"


def test_disable_and_revoke(owner, open_with, make):
    raw = owner()
    for name in ("disable", "revoke"):
        c = make(name, raw.account.jid)
        raw.result("set", append(c, name))
        other = open_with(c)
        assert good(other, raw.account)
        raw.result("set", f"<{name} xmlns='{CERT}'><name>{name}</name></{name}>")
        assert failure(external_login(open_with(c))) == "not-authorized"
        if name == "revoke":
            other.expect_close("not-authorized")
        else:
            other.ping()
        assert raw.refused("set", f"<{name} xmlns='{CERT}'><name>{name}</name></{name}>") == "item-not-found"
    raw.ping()


def test_no_management(owner, open_with, make):
    raw = owner()
    c = make("bot", raw.account.jid)
    raw.result("set", append(c, "bot", "<no-cert-management/>"))
    bot = open_with(c)
    assert good(bot, raw.account)
    assert bot.refused("set", append(make("more"), "more")) == "forbidden"
    assert bot.refused("set", f"<revoke xmlns='{CERT}'><name>bot</name></revoke>") == "forbidden"
    assert certificate_names(bot) == ["bot"]


def test_no_new_password(owner, open_with, make):
    raw = owner()
    c = make("bot", raw.account.jid)
    raw.result("set", append(c, "bot"))
    bot = open_with(c)
    assert good(bot, raw.account)
    change = ("<query xmlns='jabber:iq:register'>"
              f"<username>{raw.account.local}</username><password>a password of its own</password></query>")
    assert bot.refused("set", change, to=bot.domain) == "not-authorized"
    raw.result("set", change, to=raw.domain)


def test_what_is_refused(owner, make, login, account, external):
    raw, c = owner(), make("one")
    raw.result("set", append(c, "one"))
    assert raw.refused("set", append(make("two"), "one")) == "conflict"
    assert raw.refused("set", append(c, "again")) == "conflict"
    for bad in ("", "AAAA", "!", b64(c.der + b"x"), b64(c.der[:-1])):
        assert raw.refused("set", f"<append xmlns='{CERT}'><name>x</name><x509cert>{bad}</x509cert></append>") == "bad-request"
    assert raw.refused("set", append(c, "")) == "bad-request"
    assert raw.refused("set", append(make("three"), "n" * 300)) == "bad-request"
    assert certificate_names(raw) == ["one"]
    assert login(account(at=external), at=external).refused("get", f"<items xmlns='{CERT}'/>", to=raw.bare) is not None


def test_survives_a_reload(external, owner, open_with, make):
    raw = owner()
    c = make("reload", raw.account.jid)
    raw.result("set", append(c))
    external.ctl("reload")
    assert good(open_with(c), raw.account)
