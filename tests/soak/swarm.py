"""A swarm of clients that write to each other through crashes and record what happened, as tests/tools/history.py wants it.

Every client has one account and one resource, sends numbered messages under stream management (XEP-0198), two of three with an
origin-id (XEP-0359), and from time to time loses its connection in one of several ways. Afterwards it resumes; if that fails it
drops what <failed h='N'/> covers, binds again and repeats the rest. What the clients choose follows from the seed; when it
happens depends on the machine.
"""
import asyncio
import collections
import json
import random
import shutil
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from xmpp import LOST, NS, Closed, Stream, get, qname, text

import rig  # of tests/protocol, which xmpp.py made known

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from history import check_events, report  # noqa: E402,F401

STANZAS = {qname(n) for n in ("message", "presence", "iq")}
PASSWORD = "secret"


class Session:
    """XEP-0198's state of one session, at the client."""

    def __init__(self, name):
        self.name, self.token, self.available = name, None, False
        self.sent = self.acked = self.handled = 0
        self.unacked = collections.deque()  # (to, n) of messages, None of other stanzas

    def acknowledge(self, h):
        """The messages that h covers beyond what was known; drops them."""
        n = min(max(h - self.acked, 0), len(self.unacked))
        self.acked += n
        return [m for m in (self.unacked.popleft() for _ in range(n)) if m]


class Client:
    def __init__(self, swarm, name, plain):
        self.swarm, self.name, self.jid = swarm, name, f"{name}@{swarm.domain}/r"
        self.plain, self.gone = plain, None  # without origin-ids; token of a session that cannot be resumed
        self.random = random.Random(f"{swarm.seed}/{name}")
        self.session, self.stream, self.online = None, None, False
        self.repeat, self.abandoned = [], []  # messages of a lost session; streams left open
        self.sessions = self.number = 0

    def record(self, event, **fields):
        self.swarm.record(event, **fields)

    def settled(self):
        """Online, and all its messages are acknowledged."""
        return self.online and not self.repeat and not any(self.session.unacked)

    # -- connecting ----------------------------------------------------------------------------------------------

    async def run(self):
        while not self.swarm.done:
            try:
                self.stream = await Stream.connect(self.swarm.port(self), self.swarm.domain)
                await self.stream.login(self.name, PASSWORD)
                if not self.session and self.plain and self.gone:
                    await self.ask(self.gone, 0)  # the server judges by it what is sent again
                if not (self.session and await self.resume()):
                    await self.begin()
                await self.live()
            except LOST as e:
                self.record("lost", at=self.jid, why=str(e) or type(e).__name__)
                await asyncio.sleep(self.random.uniform(0.02, 0.2))
            self.online = False
            if self.stream and self.stream not in self.abandoned:
                self.stream.cut()

    async def ask(self, token, handled):
        self.stream.write(f"<resume xmlns='{NS['sm']}' previd='{token}' h='{handled}'/>")
        return await self.stream.wait("sm:resumed", "sm:failed")

    async def resume(self):
        s = self.session
        answer = await self.ask(s.token, s.handled)
        if answer.tag == qname("sm:resumed"):
            self.record("resumed", session=s.name)
            self.counted(int(answer.get("h")))
            self.send_unacked(s.unacked)
            return True
        h = answer.get("h")
        self.record("failed", session=s.name, h=h and int(h), sent=s.sent)
        if h:
            self.acknowledged(s.acknowledge(int(h)))
        return False

    async def begin(self):
        """A new session; what the old one left is sent again."""
        if self.session:
            self.gone = self.session.token
            self.repeat, self.session = [m for m in self.session.unacked if m] + self.repeat, None
        self.sessions += 1
        session = Session(f"{self.name}#{self.sessions}")
        await self.stream.bind("r", f"<enable xmlns='{NS['sm']}' resume='true'/>")
        self.record("bind", at=self.jid, session=session.name)
        while (e := await self.stream.wait("sm:enabled", "message")).tag == qname("message"):
            self.message(e, session)
        session.token, self.session = e.get("id"), session
        self.send("<presence/>", None)
        while self.repeat:
            self.send_message(*self.repeat.pop(0), again=True)

    # -- a life, and its end -------------------------------------------------------------------------------------

    async def live(self):
        """Chats until the connection breaks or the client breaks it."""
        self.online, span = True, self.swarm.fault_every
        tasks = {asyncio.create_task(self.read()), asyncio.create_task(self.chat())}
        try:
            until = self.random.expovariate(1 / span) if span else None
            done, _ = await asyncio.wait(tasks, timeout=until, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for t in tasks:
                t.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for e in ended:
            if isinstance(e, Exception):
                raise e
        if not done:
            await self.fault()

    async def fault(self):
        """Loses the connection. Cut and left: the server does not know yet that the old stream is dead."""
        kind = self.random.choice(("cut", "late", "steal") + (() if self.plain else ("replace", "leave")))
        self.record("cut", session=self.session.name, kind=kind)
        self.online = False
        if kind in ("steal", "replace"):
            self.stream.writer.transport.pause_reading()
            self.abandoned.append(self.stream)
            if len(self.abandoned) > 3:
                self.abandoned.pop(0).cut()
        elif kind == "leave":
            self.stream.write("</stream:stream>")
            await asyncio.wait_for(self.stream.writer.drain(), 5)
            self.stream.writer.close()
        else:
            self.stream.cut()
        if kind in ("replace", "leave"):
            self.repeat, self.session = [m for m in self.session.unacked if m], None
        if kind in ("late", "leave"):
            await asyncio.sleep(self.random.uniform(0.2, self.swarm.offline_s))

    # -- receiving -----------------------------------------------------------------------------------------------

    async def read(self):
        while True:
            self.received(await self.stream.next())

    def received(self, e):
        s = self.session
        if e.tag == qname("sm:r"):
            self.stream.write(f"<a xmlns='{NS['sm']}' h='{s.handled}'/>")
        elif e.tag == qname("sm:a"):
            self.counted(int(e.get("h")))
        elif e.tag in STANZAS:
            s.handled += 1
            s.available |= e.tag == qname("presence") and e.get("from") == self.jid
            if e.tag == qname("message"):
                self.message(e, s)
        else:
            raise Closed(f"unexpected {ET.tostring(e).decode()[:300]}")

    def message(self, e, session):
        if e.get("type") == "error":
            self.record("bounced", at=self.jid, xml=ET.tostring(e).decode())
            return
        ids = [i.get("id") for i in e.findall(qname("sid:stanza-id")) if i.get("by") == self.jid.split("/")[0]]
        self.record("recv", at=self.jid, session=session.name, body=text(e, "body"), sid=ids[0] if len(ids) == 1 else None,
                    early="/" in e.get("to") and not session.available, **{"from": e.get("from")})
        self.swarm.pending.discard(text(e, "body"))

    def counted(self, h):
        s = self.session
        self.record("count", session=s.name, h=h, known=s.acked, sent=s.sent)
        self.acknowledged(s.acknowledge(h))

    def acknowledged(self, messages):
        if messages:
            self.record("acked", messages=[(to.split("/")[0], n) for to, n in messages], **{"from": self.jid})

    # -- sending -------------------------------------------------------------------------------------------------

    def send(self, xml, message):
        self.session.sent += 1
        self.session.unacked.append(message)
        self.stream.write(xml)

    def send_message(self, to, n, again=False):
        bare = to.split("/")[0]
        body = f"{self.jid} {bare} {n}"
        self.record("send", to=bare, n=n, again=again, **{"from": self.jid})
        if not again:
            self.swarm.pending.add(body)
        origin = "" if self.plain else f"<origin-id xmlns='{NS['sid']}' id='{self.name}-{n}'/>"
        self.send(f"<message to='{to}' type='chat' id='m{n}'><body>{body}</body>{origin}</message>", (to, n))

    def send_unacked(self, unacked):
        """After a resumption: what the server does not have, in the same order, counted as before."""
        rest = list(unacked)
        unacked.clear()
        self.session.sent -= len(rest)
        for m in rest:
            if m:
                self.send_message(*m, again=True)
            else:
                self.send("<presence/>", None)

    async def chat(self):
        """Sends within the window; asks for acknowledgements."""
        s, swarm = self.session, self.swarm
        while True:
            await asyncio.sleep(self.random.expovariate(swarm.rate / 2) if not swarm.finishing else 0.25)
            for _ in range(self.random.randint(1, 3)):
                if len(s.unacked) < swarm.window and not swarm.finishing:
                    self.number += 1
                    self.send_message(swarm.somebody(self), self.number)
                    swarm.count += 1
            if s.unacked:
                self.stream.write(f"<r xmlns='{NS['sm']}'/>")
            await self.stream.writer.drain()


class Swarm:
    """server: of tests/protocol/rig.py, started, to be killed and started again. path: where the history goes."""

    def __init__(self, server, path, seed, clients=10, rate=50, window=30, fault_every=4.0, offline_s=2.0, resources_full=0.2):
        self.server, self.seed, self.domain = server, seed, server.domain
        self.rate, self.window, self.fault_every, self.offline_s = rate, window, fault_every, offline_s
        self.full = resources_full  # share of messages sent to a full JID
        self.random, self.file, self.start = random.Random(seed), open(path, "w"), time.monotonic()
        self.kills, self.pending, self.count = 0, set(), 0  # bodies sent and not yet received
        self.finishing = self.done = False
        self.clients = [Client(self, f"c{i}", plain=i % 3 == 2) for i in range(clients)]

    def record(self, event, **fields):
        self.file.write(json.dumps({"t": round(time.monotonic() - self.start, 6), "e": event, **fields}) + "\n")

    def port(self, client):
        return self.server.tls_port

    def somebody(self, but):
        other = but
        while other is but:
            other = but.random.choice(self.clients)
        return other.jid if but.random.random() < self.full else other.jid.split("/")[0]

    def add_users(self):
        self.server.ctl("user", "import", "--domain", self.domain, "--scram-iterations", "4096",
                        input="".join(f"{c.name},{PASSWORD}\n" for c in self.clients))

    async def run(self, seconds, messages, kills, kill_every):
        """Runs until both numbers are reached, at most so many seconds, killing the server about every kill_every seconds;
        then lets everybody come online, drains, and reads the archives."""
        tasks = [asyncio.create_task(c.run()) for c in self.clients]
        killer = asyncio.create_task(self.kill_now_and_then(kill_every))
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end and (self.count < messages or self.kills < kills):
                await asyncio.sleep(0.1)
                self.check(tasks, killer)
            self.finishing, self.fault_every = True, None
            await killer
            await self.drain(tasks)
            for c in self.clients:
                await self.read_archive(c)
        finally:
            self.done = True
            for t in tasks:
                t.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.file.close()

    @staticmethod
    def check(tasks, *more):
        """Says at once when one of the tasks failed."""
        for t in (*tasks, *more):
            if t.done() and t.exception():
                raise t.exception()

    async def kill_now_and_then(self, every_s):
        while not self.finishing:
            wait = time.monotonic() + self.random.uniform(0.3, 1.7) * every_s
            while time.monotonic() < wait and not self.finishing:
                await asyncio.sleep(0.02)
            if not self.finishing:
                await self.kill()

    async def kill(self):
        self.record("kill")
        self.server.kill()
        await asyncio.sleep(self.random.choice((0, 0.1, 0.5)))
        await asyncio.to_thread(self.server.start)
        self.kills += 1
        self.record("start")

    async def drain(self, tasks, seconds=90):
        """Everybody comes online and stays, until nothing is under way any more."""
        end = time.monotonic() + seconds
        while not self.quiet() and time.monotonic() < end:
            await asyncio.sleep(0.1)
            self.check(tasks)
        await asyncio.sleep(0.5)  # what comes twice comes now
        self.record("drained", quiet=self.quiet(), pending=len(self.pending),
                    busy=[c.name for c in self.clients if not c.settled()])

    def quiet(self):
        return not self.pending and all(c.settled() for c in self.clients)

    async def read_archive(self, c):
        stream = await Stream.connect(self.port(c), self.domain)
        await stream.login(c.name, PASSWORD)
        bare = (await stream.bind("reader")).split("/")[0]
        async for sid, m in stream.archive():
            self.record("archive", of=bare, sid=sid, body=text(m, "body"), **{"from": m.get("from")})
        self.record("archived", of=bare)
        stream.cut()


def crash_run(path, seed, seconds, messages, kills, kill_every, keep=False, **swarm):
    """One run against a new server; (violations, summary)."""
    server = rig.Rookery(log={"level": "info"}, offline={"max_messages": 100000})
    violations = ["the run broke off"]
    try:
        s = Swarm(server.start(), path, seed, **swarm)
        s.add_users()
        asyncio.run(s.run(seconds, messages, kills, kill_every))
        code = server.stop()
        with open(path) as f:
            violations, summary = check_events(map(json.loads, f))
        return violations, {**summary, "exit_code": code}
    finally:
        server.stop()
        if keep and violations:
            print(f"the server's directory: {server.dir}")
        else:
            shutil.rmtree(server.dir)
