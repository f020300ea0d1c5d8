"""THREATS.md: black-box tests, by the numbers of its rows. (12, 13, 23, 24, 29, 37 stand with their RFC or XEP.)"""
import base64
import socket
import statistics
import threading
import time

import pytest
from OpenSSL import SSL

import rig
from conftest import stop_cleanly
from raw import NS, Raw, StreamClosed, Timeout, condition, every, get, new_id, qname, text
from test_rfc6120_sasl import auth, b64
from test_xep_small import INFO

RESTRICTED = {"restricted-xml", "not-well-formed", "bad-format", "invalid-xml"}
CONSTRUCTS = {
    "comment": "<!-- hello -->",
    "processing instruction": "<?php echo 1 ?>",
    "cdata end": "<message><body>]]></body></message>",
    "entity": "<message to='rookery.test'><body>&nothing;</body></message>",
    "doctype": "<!DOCTYPE lolz [<!ENTITY a 'aaaaaaaaaa'>]>",
    "entity in attribute": "<message to='&x;'/>",
}


# -- 1 to 3: XML -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("what", CONSTRUCTS)
def test_1_restricted_xml_before_login(connect, what):
    raw = connect()
    raw.open()
    raw.send(CONSTRUCTS[what])
    assert raw.expect_close(RESTRICTED) < 2


@pytest.mark.parametrize("what", CONSTRUCTS)
def test_1_restricted_xml_after_login(login, what):
    raw = login()
    raw.send(CONSTRUCTS[what])
    assert raw.expect_close(RESTRICTED) < 2


@pytest.mark.rookery
@pytest.mark.parametrize("what", ["comment", "processing instruction", "doctype", "entity"])
def test_1_condition_is_restricted_xml(login, what):
    raw = login()
    raw.send(CONSTRUCTS[what])
    raw.expect_close("restricted-xml")


def test_1_billion_laughs(connect, server):
    before = server.rss()
    entities = "".join(f"<!ENTITY l{i} '{f'&l{i - 1};' * 10 if i else 'lol'}'>" for i in range(10))
    raw = connect()
    raw.restart_parser()
    raw.send(f"<?xml version='1.0'?><!DOCTYPE s [{entities}]><stream:stream to='&l9;'>")
    raw.expect_close()
    assert server.rss() - before < 8 << 20


@pytest.mark.deviates("prosody", "waits")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7"])
def test_2_other_encodings(connect, encoding):
    raw = connect()
    raw.restart_parser()
    data = raw.header_text().encode(encoding) if encoding != "utf-7" else raw.header_text().encode().replace(b"<", b"+ADw-")
    raw.send(data)
    raw.expect_close()
    assert b"features" not in b"".join(d for _, direction, d in raw.log if direction == "<")


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "UTF-16", "US-ASCII", "nonsense"])
@pytest.mark.deviates("prosody", "looks at no declaration")
def test_2_declared_encoding(connect, encoding):
    raw = connect()
    raw.restart_parser()
    raw.send(raw.header_text().replace("<?xml version='1.0'?>", f"<?xml version='1.0' encoding='{encoding}'?>"))
    raw.expect_close("unsupported-encoding")


@pytest.mark.parametrize("encoding", ["UTF-8", "utf-8"])
def test_2_declared_utf8(connect, encoding):
    raw = connect()
    raw.restart_parser()
    raw.send(raw.header_text().replace("<?xml version='1.0'?>", f"<?xml version='1.0' encoding='{encoding}'?>"))
    raw.expect("stream:features")


@pytest.mark.parametrize("bad", [b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xfe\xff", b"\x80", b"a\xc3(", b"\x00",
                                 b"\xef\xbf\xbe", b"\xef\xbf\xbf", b"\x01", b"\x0b"])
def test_2_bad_bytes(login, bad):
    raw = login()
    raw.send(b"<message to='rookery.test'><body>" + bad + b"</body></message>")
    raw.expect_close()


@pytest.mark.parametrize("reference", ["&#0;", "&#xFFFE;", "&#xD800;", "&#x110000;", "&#1;"])
def test_2_bad_character_references(login, reference):
    raw = login()
    raw.send(f"<message to='rookery.test'><body>{reference}</body></message>")
    raw.expect_close()


TRICKY = [
    "<body>&lt;/body>&lt;/message>&lt;message from='admin@rookery.test'>&lt;body>x</body>",
    "<body><![CDATA[</body></message><message from='admin@rookery.test'><body>]]></body>",
    "<body a='&apos;&gt;&lt;x&gt;' b=\"'>\">x</body>",
    "<x xmlns='urn:x\u00ff' y='&#13;&#10;&#9;'/><body>&#13;</body>",
    "<x:body xmlns:x='jabber:client'>prefixed</x:body>",
    "<x xmlns:evil='urn:e' evil:to='victim@rookery.test'><evil:message xmlns:evil='jabber:client'><body>inner</body></evil:message></x>",
    "<message xmlns='jabber:client' from='admin@rookery.test'><body>inner</body></message>",
]


@pytest.mark.deviates("prosody", "does not escape white space of attributes and CR")
@pytest.mark.parametrize("payload", TRICKY)
def test_3_smuggling(login, payload):
    """What B gets is one message from A, and its parts mean what A's meant."""
    import xml.etree.ElementTree as ET
    a, b = login(presence=True), login(presence=True)
    id = new_id()
    stanza = f"<message xmlns='jabber:client' to='{b.jid}' type='chat' id='{id}'>{payload}</message>"
    a.send(stanza)
    a.message(b.jid, "end", "chat")
    b.expect("message", where=lambda e: text(e, "body") == "end")
    got = [e for e in b.before() if e.tag == qname("message")]
    assert len(got) == 1 and got[0].get("from") == a.jid and got[0].get("id") == id
    sent = ET.fromstring(stanza)
    added = {qname("sid:stanza-id"), qname("delay:delay")}
    flat = lambda e: [(x.tag, x.text or "", sorted(x.attrib.items())) for c in e if c.tag not in added for x in c.iter()]
    assert flat(got[0]) == flat(sent)


# -- 5, 6, 8: memory and time ----------------------------------------------------------------------------------------

def test_5_limit_before_login(connect):
    raw = connect()
    raw.open()
    try:
        raw.send("<x a='" + "x" * 30000)
        raw.expect_close({"policy-violation", "not-authorized", "unsupported-stanza-type", "not-well-formed"})
    except StreamClosed:
        pass  # reset while we still wrote


@pytest.mark.parametrize("shape", ["body", "attribute", "name", "nothing but space"])
@pytest.mark.deviates("prosody", "its limits are higher by default")
def test_5_limit_after_login(login, shape):
    raw = login()
    filler = "x" * 400_000
    try:
        raw.send({"body": f"<message><body>{filler}", "attribute": f"<message id='{filler}", "name": f"<{filler}",
                  "nothing but space": f"<message{' ' * 400_000}"}[shape])
        raw.expect_close("policy-violation")
    except StreamClosed:
        pass


def test_5_large_but_allowed(login):
    a, b = login(presence=True), login(presence=True)
    a.message(b.jid, "x" * 200_000)
    assert len(text(b.expect("message", type="chat"), "body")) == 200_000


@pytest.mark.rookery
@pytest.mark.parametrize("what", ["depth", "attributes", "children"])
def test_5_shape_limits(login, what):
    raw = login()
    raw.send({"depth": "<message>" + "<a>" * 100 + "</a>" * 100 + "</message>",
              "attributes": "<message " + " ".join(f"a{i}='1'" for i in range(100)) + "/>",
              "children": "<message>" + "<a/>" * 11_000 + "</message>"}[what])
    raw.expect_close({"policy-violation", "restricted-xml"})


@pytest.mark.rookery
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.single("limits one process")
def test_5_more_half_open_connections_than_descriptors(login, account, tls):
    """The oldest strangers make room; whoever is logged in stays."""
    server, sockets = rig.new_server(), []
    command = server.command()
    server.command = lambda: ["prlimit", "--nofile=250:250", *command]
    try:
        who = account(at=server.start())
        first = login(who, at=server)
        for i in range(600):
            sockets.append(socket.create_connection(("127.0.0.1", server.tls_port if tls else server.port), 5))
            if i % 60 == 59:
                start = time.monotonic()
                login(who, at=server).close()
                assert time.monotonic() - start < 5, i
        first.ping()
        stop_cleanly(server)
    finally:
        for s in sockets:
            s.close()
        server.remove()


@pytest.mark.rookery
def test_5_half_open_connections(new_server, login, account):
    """Half-open connections that drip bytes stop no login, cost little, and are gone when their time is up."""
    import resource
    count = min(2000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    server = new_server(c2s={"unauthenticated_timeout": "8s", "features_timeout": "8s"})
    who = account(at=server)
    login(who, at=server).ping()
    base, drip = server.rss(), b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' to='"
    started, sockets = time.monotonic(), []
    for i in range(count):
        s = socket.create_connection(("127.0.0.1", server.port))
        s.send(drip[:1])
        sockets.append(s)
    stop = threading.Event()

    def dripping():
        at = 1
        while not stop.wait(0.3) and at < len(drip):
            for s in sockets:
                try:
                    s.send(drip[at:at + 1])
                except OSError:
                    pass
            at += 1
    thread = threading.Thread(target=dripping)
    thread.start()
    try:
        took = []
        for _ in range(5):
            start = time.monotonic()
            login(who, at=server).ping()
            took.append(time.monotonic() - start)
        assert statistics.median(took) < (3 if server.sanitized() else 1), took
        grown = (server.rss() - base) / count
        assert server.sanitized() or grown < 40 * 1024, f"{grown} bytes for each"
        open_still = sockets[:]
        while open_still and time.monotonic() - started < 40:
            for s in open_still[:]:
                s.settimeout(max(0.05, 30 - (time.monotonic() - started)))
                try:
                    while s.recv(4096):
                        pass
                except ConnectionError:
                    pass
                except TimeoutError:
                    continue
                open_still.remove(s)
        assert not open_still, f"{len(open_still)} of {count} are still open"
        assert time.monotonic() - started < 35
    finally:
        stop.set()
        thread.join()
        for s in sockets:
            s.close()
    login(who, at=server).ping()


@pytest.mark.rookery
def test_5_connections_come_and_go(server, login):
    """Memory comes back."""
    def rounds(n):
        for _ in range(n):
            s = socket.create_connection(("127.0.0.1", server.port))
            s.send(b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
                   b"version='1.0' to='rookery.test'>")
            s.recv(10)
            s.close()
    rounds(500)
    login().ping()
    base = server.rss()
    rounds(3000)
    login().ping()
    assert server.sanitized() or server.rss() - base < 4 << 20


def test_6_big_token_in_small_pieces(login):
    a, b = login(presence=True), login(presence=True)
    body = "y" * 100_000
    stanza = f"<message to='{b.jid}' type='chat'><body>{body}</body></message>"
    start = time.monotonic()
    for at in range(0, len(stanza), 64):
        a.send(stanza[at:at + 64])
    assert len(text(b.expect("message", type="chat"), "body")) == len(body)
    assert time.monotonic() - start < 10


def test_7_no_compression(secure):
    raw = secure()
    raw.send("<compress xmlns='http://jabber.org/protocol/compress'><method>zlib</method></compress>")
    try:
        assert raw.next().tag.endswith("}failure")
    except StreamClosed:
        pass


@pytest.mark.rookery
@pytest.mark.parametrize("state,setting", [("silent", "features_timeout"), ("features", "features_timeout"), ("tls", "tls_timeout"),
                                           ("sasl", "sasl_timeout"), ("bind", "bind_timeout"), ("direct tls", "tls_timeout")])
def test_8_each_state_has_its_time(new_server, connect, secure, account, state, setting):
    long = {f"{s}_timeout": "60s" for s in ("features", "tls", "sasl", "bind", "unauthenticated")}
    server = new_server(c2s={**long, setting: "1s"})
    who = account(at=server)
    start = time.monotonic()
    if state == "direct tls":
        raw = Raw(server.tls_port, server.domain)
    elif state in ("sasl", "bind"):
        raw = secure(at=server)
    else:
        raw = connect(at=server)
    if state in ("features", "tls"):
        raw.open()
    if state == "tls":
        raw.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        raw.expect("tls:proceed")
        raw.parser = None
    elif state == "sasl":
        start = time.monotonic()
        raw.sasl(auth("SCRAM-SHA-1", b64(f"n,,n={who.local},r=abcdefghijkl")))
    elif state == "bind":
        assert raw.auth(who.local, who.password) is None
        start = time.monotonic()
        raw.open()
    raw.expect_close(timeout=8)
    assert 0.8 < time.monotonic() - start < 7


@pytest.mark.rookery
def test_8_total_time_is_not_extended_by_traffic(new_server, connect):
    server = new_server(c2s={"unauthenticated_timeout": "2s"})
    raw = connect(at=server)
    start = time.monotonic()
    raw.restart_parser()
    try:
        for byte in raw.header_text():
            raw.send(byte)
            raw.log.clear()
            try:
                if not raw.read(timeout=0.1):
                    break
            except Timeout:
                pass
    except StreamClosed:
        pass
    assert 1.5 < time.monotonic() - start < 6


@pytest.mark.rookery
@pytest.mark.single("every node counts for itself")
def test_8_unauthenticated_connections_per_address(new_server, connect):
    server = new_server(c2s={"max_unauthenticated_per_ip": 5})
    time.sleep(0.2)  # the connections that asked whether it listens are forgotten by now
    held = [connect(at=server) for _ in range(5)]
    for raw in held:
        raw.open()
    more = connect(at=server)
    more.restart_parser()
    try:
        more.send(more.header_text())
        more.expect_close()
    except StreamClosed:
        pass
    held[0].cut()
    for _ in range(100):  # the server sees the end of it when its loop turns
        try:
            connect(at=server).open()
            return
        except StreamClosed:
            time.sleep(0.02)
    pytest.fail("the place was not given back")


def test_8_no_renegotiation(connect):
    raw = connect()
    raw.open()
    raw.starttls(version=SSL.TLS1_2_VERSION)
    raw.open()
    with pytest.raises((SSL.Error, StreamClosed, Timeout)):
        raw.tls.renegotiate()
        raw.tls.do_handshake()
    assert raw.tls.total_renegotiations() <= 1


# -- 9 to 11: before TLS ---------------------------------------------------------------------------------------------

@pytest.mark.deviates("prosody", "answers it before the handshake")
@pytest.mark.parametrize("after", ["<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHgAeA==</auth>",
                                   "<iq type='get' id='injected'><ping xmlns='urn:xmpp:ping'/></iq>", " ", "x"])
def test_9_starttls_injection(connect, after):
    """Nothing received in clear after <starttls/> survives it."""
    raw = connect()
    raw.open()
    raw.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>" + after)
    try:
        raw.expect("tls:proceed")
        raw.start_tls()
        features = raw.open()
        assert get(features, "sasl:mechanisms") is not None
    except (StreamClosed, SSL.Error):
        pass  # refused: as good
    assert not [e for e in raw.queue if e.tag != qname("stream:features")]


def test_9_split_at_each_byte(connect):
    raw = connect()
    raw.open()
    for byte in "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>":
        raw.send(byte)
    raw.expect("tls:proceed")
    raw.start_tls()
    raw.open()


TOP_LEVEL = {
    "message": "<message to='{d}'><body>x</body></message>", "presence": "<presence/>",
    "iq": "<iq type='get' id='x' to='{d}'><ping xmlns='urn:xmpp:ping'/></iq>",
    "bind": "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
    "register": "<iq type='set' id='r'><query xmlns='jabber:iq:register'><username>x</username><password>x</password></query></iq>",
    "legacy": "<iq type='set' id='a'><query xmlns='jabber:iq:auth'><username>x</username><password>x</password><resource>x</resource></query></iq>",
    "enable": "<enable xmlns='urn:xmpp:sm:3'/>", "resume": "<resume xmlns='urn:xmpp:sm:3' previd='x' h='0'/>",
    "a": "<a xmlns='urn:xmpp:sm:3' h='0'/>", "r": "<r xmlns='urn:xmpp:sm:3'/>",
    "handshake": "<handshake>abc</handshake>", "dialback": "<db:result xmlns:db='jabber:server:dialback' from='a' to='b'>k</db:result>",
    "response": "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>eA==</response>",
    "success": "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "proceed": "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
    "features": "<stream:features/>", "error": "<stream:error/>", "starttls": "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
    "sasl2": "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>eA==</initial-response></authenticate>",
    "task": "<next xmlns='urn:xmpp:sasl:2' task='x'/>", "compress": "<compress xmlns='http://jabber.org/protocol/compress'/>",
    "stream": "<stream:stream to='{d}' version='1.0'>", "active": "<active xmlns='urn:xmpp:csi:0'/>",
}


@pytest.mark.parametrize("name", TOP_LEVEL)
@pytest.mark.parametrize("state", ["clear", "tls"])
def test_10_nothing_before_login(connect, secure, state, name):
    """No element but those of its state does anything: an answer is a failure or the stream's end."""
    if (state, name) == ("clear", "starttls"):
        pytest.skip("belongs there")
    raw = connect() if state == "clear" else secure()
    if state == "clear":
        raw.open()
    raw.send(TOP_LEVEL[name].format(d=raw.domain))
    raw.send("<iq type='get' id='end'><ping xmlns='urn:xmpp:ping'/></iq>")  # not allowed either
    try:
        for _ in range(3):
            e = raw.next(timeout=3)
            assert e.tag.endswith("}failed") or e.tag.endswith("}failure") or e.get("type") == "error", e.tag
    except (StreamClosed, Timeout):
        pass


@pytest.mark.rookery
@pytest.mark.parametrize("name", ["message", "presence", "iq", "bind", "dialback", "handshake"])
def test_10_not_authorized_closes(secure, name):
    """RFC 6120 4.9.3.12."""
    raw = secure()
    raw.send(TOP_LEVEL[name].format(d=raw.domain))
    raw.expect_close({"not-authorized", "unsupported-stanza-type", "invalid-namespace"})


@pytest.mark.parametrize("name", ["response", "success", "proceed", "starttls", "handshake", "dialback", "features", "sasl2", "compress"])
def test_10_after_login(login, name):
    raw = login()
    raw.send(TOP_LEVEL[name].format(d=raw.domain))
    try:
        raw.ping()  # ignored or refused
    except StreamClosed:
        pass


def test_10_second_authentication(login):
    raw = login()
    raw.send(auth("PLAIN", b64("\0x\0y")))
    with pytest.raises(StreamClosed):
        raw.expect("sasl:success", timeout=3)


# -- 14 to 17: passwords, tokens ---------------------------------------------------------------------------------------

def test_14_unknown_and_wrong_take_the_same(secure, account):
    """A small version; bench has the long one. In turn, and the quickest of each, since the machine is busy with other tests."""
    took = {account().local: [], "nobody-here": []}
    for _ in range(15):
        for user, times in took.items():
            raw = secure()
            start = time.perf_counter()
            raw.auth(user, "wrong")
            times.append(time.perf_counter() - start)
            raw.cut()
    known, unknown = map(min, took.values())
    assert abs(known - unknown) < 0.5 * max(known, unknown) + 0.005, took


@pytest.mark.rookery
@pytest.mark.single("every node counts for itself")
def test_15_failed_logins_per_address(new_server, secure, login, account):
    """Too many failures slow a guesser down, by three seconds each; who knows the password is not slowed, nor locked out."""
    server = new_server(c2s={"max_failed_per_ip": 5})
    who, took = account(at=server), []
    for _ in range(7):
        start = time.monotonic()
        assert secure(at=server).auth(who.local, "wrong") == "not-authorized"
        took.append(time.monotonic() - start)
    assert max(took[:4]) < 2 and took[6] > 2.5, took
    start = time.monotonic()
    login(who, at=server).ping()
    assert time.monotonic() - start < 2
    assert "wrong" not in server.log()


@pytest.mark.rookery
@pytest.mark.smoke
def test_15_honest_login_among_wrong_ones(server, secure, login, account):
    who, stop = account(), threading.Event()

    def guess():
        while not stop.is_set():
            raw = Raw(server.tls_port, server.domain).start_tls()
            try:
                raw.open()
                raw.auth(who.local, "wrong", "PLAIN")
            except AssertionError:
                pass
            raw.cut()
    threads = [threading.Thread(target=guess) for _ in range(4)]
    for t in threads:
        t.start()
    try:
        start = time.monotonic()
        login(who).ping()
        assert time.monotonic() - start < 5
    finally:
        stop.set()
        for t in threads:
            t.join()


@pytest.mark.rookery
@pytest.mark.single("reads all files of the server")
def test_15_passwords_are_not_stored(server, account, secure):
    who = account()
    raw = secure()
    assert raw.auth(who.local, who.password, "PLAIN") is None
    for path in server.dir.rglob("*"):
        if path.is_file() and not path.is_socket():
            assert who.password.encode() not in path.read_bytes(), path
            assert base64.b64encode(f"\0{who.local}\0{who.password}".encode()) not in path.read_bytes(), path


@pytest.mark.rookery
def test_16_tokens_after_restart(new_server, connect):
    server, ids = new_server(), set()
    for _ in range(2):
        for _ in range(20):
            raw = connect(at=server)
            raw.open()
            ids.add(raw.header.get("id"))
            raw.cut()
        server.restart()
    assert len(ids) == 40


# -- 21, 22, 25, 30: addresses ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("stanza", ["<message from='{0}' to='{1}' type='chat'><body>x</body></message>", "<presence from='{0}'/>",
                                    "<iq from='{0}' type='get' id='x' to='{1}'><x xmlns='urn:x'/></iq>"])
@pytest.mark.parametrize("who", ["other@{d}", "{d}", "other@{d}/x", "{b}/other", "elsewhere.test", "@@"])
def test_21_spoofed_from(login, stanza, who):
    """RFC 6120 8.1.2.1: refused, or replaced by the truth."""
    a, b = login(resource="here", presence=True), login(presence=True)
    a.send(stanza.format(who.format(d=a.domain, b=a.bare), b.jid))
    try:
        a.ping()
    except StreamClosed as e:
        assert e.error in ("invalid-from", "improper-addressing")
    for e in b.before():
        assert e.get("from") == a.jid or e.get("type") == "error"


@pytest.mark.parametrize("mine", ["{bare}", "{jid}", "{upper}"])
def test_21_true_from_is_allowed(login, mine):
    a, b = login(presence=True), login(presence=True)
    local, rest = a.jid.split("@", 1)
    mine = mine.format(bare=a.bare, jid=a.jid, upper=f"{local.upper()}@{rest}")
    a.send(f"<message from='{mine}' to='{b.jid}' type='chat'><body>x</body></message>")
    assert b.expect("message", type="chat").get("from") == a.jid


@pytest.mark.parametrize("to", ["bare", "full"])
@pytest.mark.deviates("prosody", "passes iqs between clients on")
def test_22_forged_roster_push(login, to):
    a, b = login(presence=True, roster=True), login(presence=True)
    b.send(f"<iq type='set' id='push' to='{a.bare if to == 'bare' else a.jid}'><query xmlns='jabber:iq:roster'>"
           f"<item jid='evil@rookery.test' subscription='both'/></query></iq>")
    assert condition(b.expect("iq", id="push")) == {"bare": "forbidden", "full": "service-unavailable"}[to]
    assert not [e for e in a.before() if e.tag == qname("iq")]


def test_25_nobody_and_somebody_look_the_same(login, account):
    a, hidden = login(presence=True), account()
    kinds = {
        "version": lambda to: a.refused("get", "<query xmlns='jabber:iq:version'/>", f"{to}/x"),
        "disco": lambda to: a.refused("get", INFO, to),
        "last": lambda to: a.refused("get", "<query xmlns='jabber:iq:last'/>", to),
        "vcard": lambda to: a.request("get", "<vCard xmlns='vcard-temp'/>", to).get("type"),
    }
    for name, ask in kinds.items():
        assert ask(hidden.jid) == ask(f"nobody@{a.domain}"), name


def test_30_answer_of_a_third(login):
    """An iq answer counts only from whom was asked: here the server, asked by an id that somebody guesses."""
    a, b = login(), login()
    b.send(f"<iq type='result' id='guess' to='{a.jid}'/>")
    a.send(f"<iq type='get' id='guess' to='{a.domain}'><ping xmlns='urn:xmpp:ping'/></iq>")
    answers = [e for e in (a.expect("iq", id="guess"), a.expect("iq", id="guess"))]
    assert {e.get("from") for e in answers} == {b.jid, a.domain}


# -- 27: slow readers ------------------------------------------------------------------------------------------------

@pytest.mark.rookery
@pytest.mark.smoke
def test_27_reader_that_does_not_read(new_server, login, account):
    """Output is bounded: the session goes, memory stays, nobody else waits."""
    server = new_server(c2s={"max_out": "512KiB", "rate": "0"})
    one, two, three = (account(at=server) for _ in range(3))
    slow = login(one, at=server, presence=True, receive_buffer=4096)
    fast, sender = login(two, at=server, presence=True), login(three, at=server)
    base, body = server.rss(), "z" * 50_000
    for i in range(400):  # 20 MB
        sender.message(slow.jid, body, "headline")
        if i % 100 == 0:
            sender.message(fast.jid, str(i))
            assert text(fast.expect("message", type="chat"), "body") == str(i)
    sender.ping()
    assert server.sanitized() or server.rss() - base < 12 << 20
    with pytest.raises(StreamClosed):
        for _ in range(10_000):
            slow.next()


@pytest.mark.rookery
def test_26_rate_limit(new_server, login, account):
    """A sender above its rate is read more slowly, and loses nothing."""
    server = new_server(c2s={"rate": "64KiB", "rate_burst": "64KiB"})
    a, b = login(account(at=server), at=server), login(account(at=server), at=server, presence=True)
    a.ping()
    start = time.monotonic()
    for i in range(20):
        a.message(b.jid, f"{i} " + "x" * 10_000)
    for i in range(20):
        assert text(b.expect("message", type="chat"), "body").startswith(f"{i} ")
    assert time.monotonic() - start > 1.2


# -- 28: JIDs --------------------------------------------------------------------------------------------------------

def test_28_localpart_is_case_mapped(login):
    a, b = login(presence=True), login(presence=True)
    local, domain = b.bare.split("@")
    a.message(f"{local.upper()}@{domain.upper()}", "x")
    assert b.expect("message", type="chat").get("to").split("/")[0] in (b.bare, f"{local.upper()}@{domain.upper()}")


def test_28_login_with_another_spelling(secure, account):
    raw, who = secure(), account()
    assert raw.auth(who.local.upper(), who.password) is None
    raw.open()
    assert raw.bind().split("/")[0] == who.jid


def test_28_slash_in_resource(login):
    assert login(resource="a/b@c/d").jid.endswith("/a/b@c/d")


def test_28_long_jids(login):
    raw = login()
    raw.send(f"<message to='{'a' * 1023}@{raw.domain}/{'r' * 1023}' id='long' type='chat'><body>x</body></message>")
    assert condition(raw.expect("message", id="long")) == "service-unavailable"


# -- other protocols -------------------------------------------------------------------------------------------------

@pytest.mark.deviates("prosody", "waits")
@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: rookery.test\r\n\r\n", b"POST /x HTTP/1.0\r\n\r\n", b"EHLO me\r\n",
                                  b"SSH-2.0-OpenSSH_9.2\r\n", b"\r\n\r\nhello", bytes(range(256)) * 4, b"\x00" * 100,
                                  b"\x80\x2e\x01\x00\x02", b"<html>", b"<" * 20000])
def test_other_protocols(server, data):
    """A stream error and a close, never silence."""
    s = socket.create_connection(("127.0.0.1", server.port), 5)
    try:
        s.sendall(data)
        got, start = b"", time.monotonic()
        while chunk := s.recv(4096):
            got += chunk
    except ConnectionError:
        pass
    assert time.monotonic() - start < 5
    assert b"stream:error" in got or not got


@pytest.mark.rookery
@pytest.mark.parametrize("port", ["port", "auto_port"])
def test_http_gets_a_stream_error(server, port):
    s = socket.create_connection(("127.0.0.1", getattr(server, port)), 5)
    s.sendall(b"GET / HTTP/1.1\r\nHost: rookery.test\r\n\r\n")
    got = b""
    while chunk := s.recv(4096):
        got += chunk
    assert b"<stream:error>" in got and got.rstrip().endswith(b"</stream:stream>")


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 100, b"<?xml version='1.0'?>"])
def test_garbage_on_direct_tls(server, data):
    s = socket.create_connection(("127.0.0.1", server.tls_port), 5)
    s.sendall(data)
    try:
        s.settimeout(15)
        while s.recv(4096):
            pass
    except ConnectionError:
        pass
