"""What people do all day, again and again, on all nodes of a cluster, with every answer judged: presence, roster, chat,
archive, a login, a resumption on another node. Run by tests/soak/cluster --everyday.

Three accounts are in each other's rosters. Whatever comes that was not to come is trouble: a stanza error, an end of a
stream, a presence that says of a contact what is not so, a message twice.
"""
import asyncio
import threading
import time
import xml.etree.ElementTree as ET

from xmpp import NS, Closed, Stream, get, qname, text

STANZAS = {qname(n) for n in ("message", "presence", "iq")}
LIMIT_S = 15  # for any one thing


class Session:
    """A stream with XEP-0198, read all the time; what came and was not asked for yet is in .inbox."""

    def __init__(self, stream, jid, token, handled=0):
        self.stream, self.jid, self.bare, self.token, self.handled = stream, jid, jid.partition("/")[0], token, handled
        self.inbox, self.news, self.end = [], asyncio.Event(), None
        self.reader = asyncio.create_task(self.read())

    @classmethod
    async def login(cls, port, domain, name, resource):
        stream = await Stream.connect(port, domain)
        await stream.login(name, "secret")
        jid = await stream.bind(resource, f"<enable xmlns='{NS['sm']}' resume='true'/>")
        session = cls(stream, jid, (await stream.wait("sm:enabled")).get("id"))
        session.write("<presence/>")
        await session.expect("presence", lambda e: e.get("from") == jid)
        return session

    async def resumed(self, port, domain):
        """The same session on another connection; this one must have been cut."""
        stream = await Stream.connect(port, domain)
        await stream.login(self.bare.partition("@")[0], "secret")
        stream.write(f"<resume xmlns='{NS['sm']}' previd='{self.token}' h='{self.handled}'/>")
        answer = await stream.wait("sm:resumed", "sm:failed")
        if answer.tag != qname("sm:resumed"):
            raise Closed(f"not resumed: {ET.tostring(answer).decode()}")
        return Session(stream, self.jid, self.token, self.handled)

    async def read(self):
        try:
            while True:
                e = await self.stream.next()
                if e.tag == qname("sm:r"):
                    self.write(f"<a xmlns='{NS['sm']}' h='{self.handled}'/>")
                elif e.tag in STANZAS:
                    self.handled += 1
                    self.inbox.append(e)
                    self.news.set()
        except (OSError, EOFError) as e:
            self.end = e
            self.news.set()

    def write(self, xml):
        self.stream.write(xml)

    async def cut(self):
        self.reader.cancel()
        await asyncio.gather(self.reader, return_exceptions=True)
        self.stream.cut()

    def take(self, name, where):
        found = next((e for e in self.inbox if e.tag == qname(name) and where(e)), None)
        if found is not None:
            self.inbox.remove(found)
        return found

    async def expect(self, name, where):
        """The first such stanza; what is before it stays in the inbox."""
        deadline = time.monotonic() + LIMIT_S
        while (e := self.take(name, where)) is None:
            if self.end:
                raise Closed(f"{self.jid}: {self.end}")
            self.news.clear()
            try:
                await asyncio.wait_for(self.news.wait(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise Closed(f"{self.jid}: nothing for {LIMIT_S} s; there was {self.rest()}") from None
        return e

    async def ask(self, kind, content):
        """The result of an IQ to the own account."""
        self.asked = getattr(self, "asked", 0) + 1
        name = f"e{self.asked}"
        self.write(f"<iq type='{kind}' id='{name}'>{content}</iq>")
        e = await self.expect("iq", lambda e: e.get("id") == name and e.get("type") in ("result", "error"))
        if e.get("type") == "error":
            raise Closed(f"{self.jid}: {ET.tostring(e).decode()}")
        return e

    def rest(self):
        return [ET.tostring(e).decode()[:300] for e in self.inbox]


class Everyday:
    """Runs in a thread of its own. ports: of the nodes; first: number of the first account; broken(): a fault is under way."""

    def __init__(self, ports, domain, first, broken):
        self.ports, self.domain, self.broken = ports, domain, broken
        self.names = [f"user{first + i}" for i in range(3)]
        self.ending, self.cycles, self.under_fault, self.slowest, self.trouble = False, 0, 0, {}, []
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()), daemon=True)
        self.thread.start()

    def end(self):
        self.ending = True
        self.thread.join()
        return {"cycles": self.cycles, "under_fault": self.under_fault, "slowest_s": self.slowest, "trouble": self.trouble}

    async def run(self):
        try:
            await self.meet()
            while not self.ending and len(self.trouble) < 10:
                before = self.broken()
                await self.cycle()
                self.cycles += 1
                self.under_fault += bool(before and self.broken())
        except Exception as e:  # whatever ended it is trouble
            self.trouble.append(f"{type(e).__name__}: {e}")

    async def timed(self, what, doing):
        start = time.monotonic()
        result = await doing
        self.slowest[what] = max(self.slowest.get(what, 0), round(time.monotonic() - start, 3))
        return result

    def login(self, who, node, resource):
        return Session.login(self.ports[node % len(self.ports)], self.domain, self.names[who], resource)

    async def meet(self):
        """Everybody online, each on another node, and in everybody's roster."""
        self.people = [await self.login(i, i, "main") for i in range(3)]
        for one in self.people:
            for other in self.people:
                if one is not other:
                    one.write(f"<presence type='subscribed' to='{other.bare}'/><presence type='subscribe' to='{other.bare}'/>")
        await asyncio.sleep(2)  # RFC 6121 3.4: pre-approved, so that all is done without more words
        for p in self.people:
            roster = await p.ask("get", f"<query xmlns='{NS['roster']}'/>")
            both = {i.get("jid") for i in get(roster, "roster:query") if i.get("subscription") == "both"}
            if both != {o.bare for o in self.people if o is not p}:
                raise Closed(f"{p.jid}: no contacts: {ET.tostring(roster).decode()}")
            p.inbox.clear()

    async def cycle(self):
        a, b, c = self.people
        await self.timed("presence", self.presence(a, (b, c)))
        await self.timed("roster", self.roster(b))
        await self.timed("chat", self.chat(a, b))
        await self.timed("archive", self.archive(b))
        await self.timed("login", self.come_and_go(b, (a, c)))
        await self.timed("resumption", self.resumption(c, a))
        await asyncio.sleep(1)  # what is wrong comes now
        for p in self.people:
            self.trouble += [f"{p.jid} received {xml}" for xml in p.rest()]
            p.inbox.clear()

    async def presence(self, one, contacts):
        status = f"cycle {self.cycles}"
        one.write(f"<presence><status>{status}</status></presence>")
        for p in (one, *contacts):
            await p.expect("presence", lambda e: e.get("from") == one.jid and not e.get("type") and text(e, "status") == status)

    async def roster(self, one):
        item = f"<item jid='friend@{self.domain}' name='cycle {self.cycles}'/>"
        await one.ask("set", f"<query xmlns='{NS['roster']}'>{item}</query>")
        push = await one.expect("iq", lambda e: e.get("type") == "set" and get(e, "roster:query") is not None)
        one.write(f"<iq type='result' id='{push.get('id')}'/>")
        roster = await one.ask("get", f"<query xmlns='{NS['roster']}'/>")
        names = {i.get("jid"): i.get("name") for i in get(roster, "roster:query")}
        if names.get(f"friend@{self.domain}") != f"cycle {self.cycles}":
            raise Closed(f"{one.jid}: the roster has {names}")

    async def chat(self, one, other):
        for _ in range(5):
            self.said = f"{one.jid} {time.monotonic()}"
            one.write(f"<message type='chat' to='{other.bare}' id='{self.said}'><body>{self.said}</body></message>")
            await other.expect("message", lambda e: text(e, "body") == self.said)

    async def archive(self, one):
        """Its last row is what has just been received."""
        await one.ask("set", f"<query xmlns='{NS['mam']}'><set xmlns='{NS['rsm']}'><max>1</max><before/></set></query>")
        row = await one.expect("message", lambda e: get(e, "mam:result") is not None)
        if text(get(row, "mam:result/fwd:forwarded/message"), "body") != self.said:
            raise Closed(f"{one.jid}: the archive ends with {ET.tostring(row).decode()}")

    async def come_and_go(self, one, contacts):
        """A second client of it, on the third node: sees who is there, is seen, leaves."""
        new = await self.login(self.people.index(one), self.cycles + 2, f"new{self.cycles}")
        for p in (one, *contacts):
            await new.expect("presence", lambda e: e.get("from") == p.jid and not e.get("type"))
        for p in (one, *contacts):
            await p.expect("presence", lambda e: e.get("from") == new.jid and not e.get("type"))
        new.write("</stream:stream>")
        for p in (one, *contacts):
            await p.expect("presence", lambda e: e.get("from") == new.jid and e.get("type") == "unavailable")
        await new.cut()

    async def resumption(self, one, other):
        """On the next node, with what was said meanwhile; nobody sees it leave."""
        await one.cut()
        said = f"{other.jid} {time.monotonic()}"
        other.write(f"<message type='chat' to='{one.bare}'><body>{said}</body></message>")
        await asyncio.sleep(0.1)
        again = await one.resumed(self.ports[self.cycles % len(self.ports)], self.domain)
        self.people[self.people.index(one)] = again
        await again.expect("message", lambda e: text(e, "body") == said)
