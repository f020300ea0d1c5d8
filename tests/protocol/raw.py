"""An XMPP client that does nothing by itself: it sends the bytes it is told to and waits for elements with a deadline.

Everything that passes is logged (Raw.log), and conftest.py prints it when a test fails. TLS runs over memory BIOs, so a
test may cut the TCP connection, read slowly, or split bytes wherever it likes.
"""
import base64
import hashlib
import itertools
import select
import socket
import time
import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

from OpenSSL import SSL, crypto

from scram import Scram

NS = {
    "c": "jabber:client", "stream": "http://etherx.jabber.org/streams",
    "tls": "urn:ietf:params:xml:ns:xmpp-tls", "sasl": "urn:ietf:params:xml:ns:xmpp-sasl",
    "sasl2": "urn:xmpp:sasl:2", "bind2": "urn:xmpp:bind:0", "fast": "urn:xmpp:fast:0",
    "upgrade": "urn:xmpp:sasl:upgrade:0", "scramup": "urn:xmpp:scram-upgrade:0",
    "bind": "urn:ietf:params:xml:ns:xmpp-bind", "session": "urn:ietf:params:xml:ns:xmpp-session",
    "se": "urn:ietf:params:xml:ns:xmpp-streams", "e": "urn:ietf:params:xml:ns:xmpp-stanzas",
    "roster": "jabber:iq:roster", "ver": "urn:xmpp:features:rosterver", "sub": "urn:xmpp:features:pre-approval",
    "sm": "urn:xmpp:sm:3", "cb": "urn:xmpp:sasl-cb:0", "limits": "urn:xmpp:stream-limits:0",
    "info": "http://jabber.org/protocol/disco#info", "items": "http://jabber.org/protocol/disco#items",
    "rsm": "http://jabber.org/protocol/rsm", "mam": "urn:xmpp:mam:2", "x": "jabber:x:data",
    "fwd": "urn:xmpp:forward:0", "delay": "urn:xmpp:delay", "sid": "urn:xmpp:sid:0", "carbons": "urn:xmpp:carbons:2",
    "blocking": "urn:xmpp:blocking", "blocked": "urn:xmpp:blocking:errors", "hints": "urn:xmpp:hints",
    "version": "jabber:iq:version", "time": "urn:xmpp:time", "ping": "urn:xmpp:ping", "t": "urn:rookery:test",
    "push": "urn:xmpp:push:0", "pubsub": "http://jabber.org/protocol/pubsub",
}
HEADER = ("<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
          "version='1.0' to='{to}'{extra}>")
_ids = itertools.count(1)


class StreamClosed(AssertionError):
    """The server closed; .error is the stream error's condition or None."""

    def __init__(self, what, error=None):
        super().__init__(f"{what}{': ' + error if error else ''}")
        self.error = error


class Timeout(AssertionError):
    pass


def qname(name):
    """'message' -> '{jabber:client}message'; 'sm:enabled' -> by NS; '{ns}x' as it is."""
    if name.startswith("{"):
        return name
    prefix, _, local = name.rpartition(":")
    return f"{{{NS[prefix or 'c']}}}{local}"


def get(e, path):
    """The element at a path of qname() steps below e, or None: get(iq, 'roster:query/roster:item')."""
    return e.find("/".join(qname(step) for step in path.split("/")))


def every(e, path):
    return e.findall("/".join(qname(step) for step in path.split("/")))


def text(e, path):
    found = get(e, path)
    return None if found is None else found.text or ""


def condition(e):
    """'item-not-found' of a stanza error; None when e is no error. Also the RFC's shape of one is checked."""
    error = get(e, "error")
    if error is None:
        return None
    assert error.get("type") in ("auth", "cancel", "continue", "modify", "wait"), ET.tostring(error)
    names = [c.tag.split("}")[1] for c in error if c.tag.startswith("{%s}" % NS["e"]) and not c.tag.endswith("}text")]
    assert len(names) == 1, f"one defined condition wanted: {ET.tostring(error)}"
    return names[0]


def new_id():
    return f"i{next(_ids)}"


class Raw:
    TIMEOUT = 10
    created = []  # those of the running test, for the report of a failure

    def __init__(self, port, domain, host="127.0.0.1", receive_buffer=None):
        self.domain, self.tls, self.jid, self.name = domain, None, None, "?"
        self.log, self.queue, self.header, self.error = [], [], None, None
        self.eof = self.closed = False
        self.parser = None
        self.handled = 0  # stanzas received since <enabled/> (XEP-0198)
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(self.TIMEOUT)
        self.socket.connect((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        Raw.created.append(self)

    # -- bytes ---------------------------------------------------------------------------------------------------

    def _note(self, direction, data):
        self.log.append((time.time(), direction, data))

    def send(self, data):
        data = data.encode() if isinstance(data, str) else data
        self._note(">", data)
        if self.tls:
            while data:
                data = data[self.tls.send(data[:16000]):]
                self._flush()
        else:
            self._write(data)

    def _flush(self):
        """What TLS has to say, to the socket."""
        while True:
            try:
                self._write(self.tls.bio_read(65536))
            except SSL.WantReadError:
                return

    def _write(self, data):
        deadline = time.monotonic() + self.TIMEOUT
        while data:
            try:
                data = data[self.socket.send(data):]
            except BlockingIOError:
                if not self._ready(select.POLLOUT, deadline):
                    raise Timeout("the server reads no more") from None
            except OSError as e:
                raise StreamClosed(f"sending: {e}") from None

    def _ready(self, event, deadline):
        poll = select.poll()  # select() knows no descriptors above 1023
        poll.register(self.socket, event)
        return poll.poll(max(0, deadline - time.monotonic()) * 1000)

    def _read(self, deadline):
        """Some bytes; b'' at the end of the connection."""
        if self.eof:
            return b""
        if not self._ready(select.POLLIN, deadline):
            raise Timeout("nothing came")
        try:
            data = self.socket.recv(65536)
        except OSError:
            data = b""
        self.eof = not data
        return data

    def read(self, timeout=None):
        """Some bytes as the stream sees them (decrypted), b'' at the end."""
        deadline = time.monotonic() + (self.TIMEOUT if timeout is None else timeout)
        while True:
            if self.tls:
                try:
                    data = self.tls.recv(65536)
                    self._note("<", data)
                    return data
                except SSL.WantReadError:
                    self._flush()
                except (SSL.ZeroReturnError, SSL.Error):
                    self.eof = True
                    return b""
            data = self._read(deadline)
            if not self.tls:
                self._note("<", data)
                return data
            if not data:
                return b""
            self.tls.bio_write(data)

    def cut(self):
        """Ends the TCP connection without a word."""
        self.socket.close()
        self.eof = True

    def close(self):
        """A proper end, if the connection still lives."""
        if self.socket.fileno() < 0:
            return
        try:
            if not self.eof and self.header is not None:
                self.send("</stream:stream>")
        except (StreamClosed, Timeout, SSL.Error):
            pass
        self.cut()

    # -- TLS -----------------------------------------------------------------------------------------------------

    def start_tls(self, alpn=None, sni=True, version=None, certificate=None):
        """The handshake. version: the highest to offer, e.g. SSL.TLS1_2_VERSION. certificate: the client's, .crt and .key."""
        context = SSL.Context(SSL.TLS_METHOD)
        if certificate:
            context.use_certificate_file(str(certificate.crt))
            context.use_privatekey_file(str(certificate.key))
        context.set_verify(SSL.VERIFY_NONE, lambda *a: True)
        if version:
            context.set_max_proto_version(version)
            context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
        if alpn:
            context.set_alpn_protos([p.encode() for p in alpn])
        tls = SSL.Connection(context, None)
        if sni:
            tls.set_tlsext_host_name((self.domain if sni is True else sni).encode())
        tls.set_connect_state()
        self.tls, deadline = tls, time.monotonic() + self.TIMEOUT
        while True:
            try:
                tls.do_handshake()
                break
            except SSL.WantReadError:
                self._flush()
                data = self._read(deadline)
                if not data:
                    raise StreamClosed("in the TLS handshake") from None
                tls.bio_write(data)
        self._flush()
        return self

    def binding(self, kind):
        """(type, data) for SCRAM-PLUS."""
        if kind == "tls-exporter":
            return kind, self.tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        der = crypto.dump_certificate(crypto.FILETYPE_ASN1, self.tls.get_peer_certificate())
        return "tls-server-end-point", hashlib.sha256(der).digest()

    # -- elements ------------------------------------------------------------------------------------------------

    def _parse(self, data):
        # expat defers a token that came in pieces until more bytes follow, so it is given whole tokens only
        self.held += data
        whole = self.held.rfind(b">") + 1
        self.parser.feed(self.held[:whole])
        self.held = self.held[whole:]
        for event, e in self.parser.read_events():
            self.depth += 1 if event == "start" else -1
            if event == "start" and self.depth == 1:
                self.header, self.root = e, e
            elif event == "end" and self.depth == 1:
                self.root.remove(e)
                self._arrived(e)
            elif event == "end" and self.depth == 0:
                self.closed = True

    def _arrived(self, e):
        if e.tag == qname("stream:error"):
            self.error = next(c.tag.split("}")[1] for c in e if not c.tag.endswith("}text"))
            self.error_element = e
        elif e.tag == qname("sm:r") and self.answer_acks:
            self.send(f"<a xmlns='urn:xmpp:sm:3' h='{self.handled}'/>")
        else:
            if e.tag in (qname("message"), qname("presence"), qname("iq")):
                self.handled = (self.handled + 1) % 2**32
            self.queue.append(e)

    answer_acks = True  # answer <r/> at once

    def restart_parser(self):
        self.parser = ET.XMLPullParser(("start", "end"))
        self.held, self.depth, self.header, self.closed = b"", 0, None, False

    def _more(self, deadline):
        if self.eof or self.closed:
            raise StreamClosed("the server closed the stream" if self.closed else "connection lost", self.error)
        data = self.read(max(0, deadline - time.monotonic()))
        if data:
            self._parse(data)

    def expect(self, name, *, where=None, timeout=None, **attributes):
        """The first element of this name with these attributes (None: absent; from_ for 'from') for which where(e) holds.
        Others stay in the queue."""
        want = qname(name)
        attributes = {k.rstrip("_"): v for k, v in attributes.items()}
        deadline, looked = time.monotonic() + (self.TIMEOUT if timeout is None else timeout), 0
        while True:
            for i, e in enumerate(self.queue[looked:], looked):
                if e.tag == want and all(e.get(k) == v for k, v in attributes.items()) and (not where or where(e)):
                    return self.queue.pop(i)
            looked = len(self.queue)
            try:
                self._more(deadline)
            except Timeout:
                waiting = [ET.tostring(e).decode()[:200] for e in self.queue]
                raise Timeout(f"{self.name}: no {name} {attributes} came; waiting: {waiting}") from None

    def next(self, timeout=None):
        """The next element, whatever it is."""
        deadline = time.monotonic() + (self.TIMEOUT if timeout is None else timeout)
        while not self.queue:
            self._more(deadline)
        return self.queue.pop(0)

    def expect_close(self, error=None, timeout=None):
        """Reads until the server has ended the connection; error: the stream error (or a set of them) that must have come.
        Returns the seconds it took."""
        start = time.monotonic()
        deadline = start + (self.TIMEOUT if timeout is None else timeout)
        while not self.eof:
            try:
                data = self.read(max(0, deadline - time.monotonic()))
                if data and self.parser:
                    self._parse(data)
            except Timeout:
                raise Timeout(f"{self.name}: the server did not close; stream error so far: {self.error}") from None
        if error:
            assert self.error in ({error} if isinstance(error, str) else error), f"{self.error}, not {error}"
        return time.monotonic() - start

    def before(self, sender=None):
        """What arrived before a marker that sender (default: this session itself) sends to this session now: a way to say
        'and nothing else came' without sleeping, since the order between two entities holds."""
        mark = new_id()
        (sender or self).send(f"<message to='{self.jid}' type='headline' id='{mark}'><mark xmlns='urn:rookery:test'/>"
                              "<no-store xmlns='urn:xmpp:hints'/></message>")
        end = self.expect("message", id=mark)
        assert get(end, "t:mark") is not None
        seen, self.queue = self.queue, []
        return seen

    # -- stream --------------------------------------------------------------------------------------------------

    def header_text(self, to=None, extra=""):
        return HEADER.format(to=self.domain if to is None else to, extra=extra)

    def open(self, to=None, extra=""):
        """Opens (or reopens) the stream; returns the features."""
        self.restart_parser()
        self.send(self.header_text(to, extra))
        return self.expect("stream:features")

    def starttls(self, **tls):
        self.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        self.expect("tls:proceed")
        return self.start_tls(**tls)

    def auth(self, user, password, mechanism="SCRAM-SHA-1", binding=None, **scram):
        """SASL; returns None or the failure's condition."""
        if mechanism == "PLAIN":
            first = "\0".join((scram.get("authzid", ""), user, password)).encode()
        else:
            s = Scram(mechanism, user, password, self.binding(binding) if binding else None, **scram)
            first = s.first()
        reply = self.sasl(f"<auth xmlns='{NS['sasl']}' mechanism='{mechanism}'>{base64.b64encode(first).decode()}</auth>")
        if reply.tag == qname("sasl:challenge"):
            answer = s.challenge(base64.b64decode(reply.text))
            reply = self.sasl(f"<response xmlns='{NS['sasl']}'>{base64.b64encode(answer).decode()}</response>")
        if reply.tag == qname("sasl:failure"):
            return next(c.tag.split("}")[1] for c in reply if not c.tag.endswith("}text"))
        assert reply.tag == qname("sasl:success"), ET.tostring(reply)
        if mechanism != "PLAIN":
            s.verify(base64.b64decode(reply.text))
        return None

    def sasl(self, xml):
        self.send(xml)
        return self.next()

    def bind(self, resource=None):
        wish = f"<resource>{escape(resource)}</resource>" if resource else ""
        reply = self.request("set", f"<bind xmlns='{NS['bind']}'>{wish}</bind>")
        assert reply.get("type") == "result", ET.tostring(reply)
        self.jid = text(reply, "bind:bind/bind:jid")
        return self.jid

    @property
    def bare(self):
        return self.jid.split("/")[0]

    # -- stanzas -------------------------------------------------------------------------------------------------

    def request(self, kind, payload, to=None, timeout=None):
        """Sends an iq, returns its answer (result or error)."""
        id = new_id()
        self.send(f"<iq type='{kind}' id='{id}'{f' to={quoteattr(to)}' if to else ''}>{payload}</iq>")
        return self.expect("iq", id=id, where=lambda e: e.get("type") in ("result", "error"), timeout=timeout)

    def result(self, kind, payload, to=None):
        """As request, but the answer must be a result."""
        reply = self.request(kind, payload, to)
        assert reply.get("type") == "result", ET.tostring(reply).decode()
        return reply

    def refused(self, kind, payload, to=None):
        """As request, but the answer must be an error; its condition."""
        reply = self.request(kind, payload, to)
        assert reply.get("type") == "error", ET.tostring(reply).decode()
        return condition(reply)

    def ping(self):
        self.result("get", "<ping xmlns='urn:xmpp:ping'/>", to=self.domain)

    def presence(self, payload="", **attributes):
        """Sends presence; with no 'to' and no 'type' waits until the server has echoed it to us."""
        attrs = "".join(f" {k}={quoteattr(v)}" for k, v in attributes.items())
        self.send(f"<presence{attrs}>{payload}</presence>")
        if not attributes.keys() - {"id"} and self.jid:
            self.expect("presence", from_=self.jid, type=None)

    def message(self, to, body="hello", type="chat", extra="", id=None):
        """Sends a message, returns its id."""
        id = id or new_id()
        content = f"<body>{escape(body)}</body>" if body is not None else ""
        self.send(f"<message to={quoteattr(to)} type='{type}' id='{id}'>{content}{extra}</message>")
        return id

    def enable_sm(self, resume=True):
        """XEP-0198; returns the <enabled/> (or <failed/>)."""
        self.send("<enable xmlns='urn:xmpp:sm:3'" + (" resume='true'/>" if resume else "/>"))
        reply = self.expect_any("sm:enabled", "sm:failed")
        self.handled = 0
        return reply

    def expect_any(self, *names):
        names = {qname(n) for n in names}
        deadline, looked = time.monotonic() + self.TIMEOUT, 0
        while True:
            for i, e in enumerate(self.queue[looked:], looked):
                if e.tag in names:
                    return self.queue.pop(i)
            looked = len(self.queue)
            self._more(deadline)

    def acked(self):
        """Asks for an ack, returns h."""
        self.send("<r xmlns='urn:xmpp:sm:3'/>")
        return int(self.expect("sm:a").get("h"))

    def transcript(self, limit=20000):
        """The log as text, secrets of SASL left in: these are test accounts."""
        start = self.log[0][0] if self.log else 0
        lines = [f"{t - start:8.3f} {d} {data[:3000].decode('utf-8', 'backslashreplace')}" for t, d, data in self.log]
        return "\n".join(lines)[-limit:]
