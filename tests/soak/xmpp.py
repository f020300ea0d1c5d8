"""A slim XMPP client for many sessions in one asyncio loop: direct TLS, SCRAM, elements. It judges nothing."""
import asyncio
import base64
import ssl
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "protocol"))
from raw import HEADER, NS, get, qname, text  # noqa: E402
from scram import Scram  # noqa: E402

TLS = ssl.create_default_context()
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE
LOST = (OSError, EOFError, asyncio.TimeoutError)  # what a cut connection looks like


class Closed(EOFError):
    """The stream or the connection ended; the text is the stream error if there was one."""


class Stream:
    """One connection. more of connect(): what asyncio.open_connection takes, e.g. local_addr."""

    def __init__(self, reader, writer, domain):
        self.reader, self.writer, self.domain, self.queue = reader, writer, domain, []

    @classmethod
    async def connect(cls, port, domain, host="127.0.0.1", timeout=20, **more):
        opening = asyncio.open_connection(host, port, ssl=TLS, server_hostname=domain, **more)
        return cls(*await asyncio.wait_for(opening, timeout), domain)

    def cut(self):
        try:
            self.writer.transport.abort()
        except AttributeError:
            pass  # Python's ssl transport does this when it is closed already

    def write(self, xml):
        self.writer.write(xml.encode())

    async def open(self):
        """A new stream; its features."""
        self.parser, self.held, self.depth, self.root = ET.XMLPullParser(("start", "end")), b"", 0, None
        self.write(HEADER.format(to=self.domain, extra=""))
        return await self.wait("stream:features")

    def parse(self, data):
        # expat defers a token that came in pieces until more bytes follow, so it is given whole tokens only
        self.held += data
        whole = self.held.rfind(b">") + 1
        self.parser.feed(self.held[:whole])
        self.held = self.held[whole:]
        for event, e in self.parser.read_events():
            self.depth += 1 if event == "start" else -1
            if event == "start" and self.depth == 1:
                self.root = e
            elif event == "end" and self.depth == 1:
                self.root.remove(e)
                self.queue.append(e)
            elif event == "end" and self.depth == 0:
                self.queue.append(e)

    async def next(self):
        """The next element."""
        while not self.queue:
            data = await self.reader.read(65536)
            if not data:
                raise Closed("connection lost")
            self.parse(data)
        e = self.queue.pop(0)
        if e.tag == qname("stream:error"):
            raise Closed(next(c.tag.split("}")[1] for c in e))
        if e.tag == qname("stream:stream"):
            raise Closed("stream closed")
        return e

    async def wait(self, *names, timeout=20):
        """The next element, which must be one of these."""
        e = await asyncio.wait_for(self.next(), timeout)
        if e.tag not in {qname(n) for n in names}:
            raise Closed(f"{e.tag} instead of {names}: {ET.tostring(e).decode()[:300]}")
        return e

    async def login(self, user, password):
        """SCRAM-SHA-1; returns the features that follow."""
        await self.open()
        s = Scram("SCRAM-SHA-1", user, password)
        self.write(f"<auth xmlns='{NS['sasl']}' mechanism='SCRAM-SHA-1'>{base64.b64encode(s.first()).decode()}</auth>")
        answer = s.challenge(base64.b64decode((await self.wait("sasl:challenge")).text))
        self.write(f"<response xmlns='{NS['sasl']}'>{base64.b64encode(answer).decode()}</response>")
        s.verify(base64.b64decode((await self.wait("sasl:success")).text))
        return await self.open()

    async def bind(self, resource, then=""):
        """The full JID. then: goes out together with the request."""
        self.write(f"<iq type='set' id='bind'><bind xmlns='{NS['bind']}'><resource>{resource}</resource></bind></iq>{then}")
        jid = text(await self.wait("iq"), "bind:bind/bind:jid")
        if not jid:
            raise Closed("bind refused")
        return jid

    async def archive(self, page=200):
        """All of the own archive: (id, message element), in order. The session must receive nothing else meanwhile."""
        after = ""
        while True:
            self.write(f"<iq type='set' id='mam'><query xmlns='{NS['mam']}'><set xmlns='{NS['rsm']}'><max>{page}</max>{after}"
                       "</set></query></iq>")
            while (e := await self.wait("message", "iq")).tag == qname("message"):
                yield get(e, "mam:result").get("id"), get(e, "mam:result/fwd:forwarded/message")
            fin = get(e, "mam:fin")
            if fin is None:
                raise Closed(f"archive: {ET.tostring(e).decode()}")
            if fin.get("complete") == "true":
                return
            after = f"<after>{text(fin, 'rsm:set/rsm:last')}</after>"
