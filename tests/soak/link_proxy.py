"""A TCP proxy before the link ports of a cluster's nodes, to cut one direction of one link: nothing of what `dialer` writes
reaches `target` any more, no connection ends, and what the other writes still arrives. Runs in a thread of its own.
"""
import asyncio
import os
import re
import socket
import threading
from pathlib import Path


def owner_of(port, pids):
    """Which of these processes holds the local TCP port of a connection; None: nobody."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].split(":")[1], 16) == port and fields[9] != "0":
            wanted = f"socket:[{fields[9]}]"
            break
    else:
        return None
    for pid in pids:
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    if os.readlink(f"/proc/{pid}/fd/{fd}") == wanted:
                        return pid
                except OSError:
                    continue
        except OSError:
            continue
    return None


class Half(asyncio.Protocol):
    """One of the two connections of a link; what comes in goes out at the other."""

    def __init__(self):
        self.other, self.transport, self.early = None, None, []

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data):
        if self.other and not self.held():
            self.other.transport.write(data)
            return
        self.early.append(data)
        self.transport.pause_reading()

    def join(self, other):
        self.other, other.other = other, self
        self.release()

    def release(self):
        """Passes on what was held back, unless it is still to be held."""
        if self.other and not self.held():
            for data in self.early:
                self.other.transport.write(data)
            self.early = []
            self.transport.resume_reading()

    def pause_writing(self):
        if self.other and not self.other.held():
            self.other.transport.pause_reading()

    def resume_writing(self):
        if self.other and not self.other.held():
            self.other.transport.resume_reading()

    def held(self):
        return False

    def connection_lost(self, error):
        if self.other and self.other.transport:
            self.other.transport.close()


class Dialed(Half):
    """The side of the node that connected."""

    def __init__(self, proxy, target):
        super().__init__()
        self.proxy, self.target, self.dialer = proxy, target, None

    def held(self):
        return (self.dialer, self.target) in self.proxy.cuts

    def connection_made(self, transport):
        super().connection_made(transport)
        port = transport.get_extra_info("peername")[1]
        pids = self.proxy.pids()
        pid = owner_of(port, pids)
        self.dialer = pids.get(pid)
        self.proxy.links.add(self)
        asyncio.get_running_loop().create_task(self.reach())

    async def reach(self):
        try:
            _, half = await asyncio.get_running_loop().create_connection(Half, "127.0.0.1", self.proxy.routes[self.target][1])
            self.join(half)
        except OSError:
            self.transport.abort()

    def connection_lost(self, error):
        self.proxy.links.discard(self)
        super().connection_lost(error)


class LinkProxy:
    """routes: {node: (port to listen on, the node's real link port)}; pids(): {pid: node} of those that run."""

    def __init__(self, routes, pids):
        self.routes, self.pids, self.links, self.cuts = routes, pids, set(), set()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.call(self.listen())

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    async def listen(self):
        for target, (port, _) in self.routes.items():
            await self.loop.create_server(lambda target=target: Dialed(self, target), "127.0.0.1", port)

    def cut(self, dialer, target):
        """Returns how many connections this concerns now; later ones are held too."""
        async def do():
            self.cuts.add((dialer, target))
            held = [link for link in self.links if (link.dialer, link.target) == (dialer, target)]
            for link in held:
                link.transport.pause_reading()
            return len(held)
        return self.call(do())

    def heal(self, dialer, target):
        async def do():
            self.cuts.discard((dialer, target))
            for link in self.links:
                if (link.dialer, link.target) == (dialer, target):
                    link.release()
        self.call(do())


def advertise(config, port):
    """Puts the proxy's port into a node's configuration; True when that was a change."""
    text = config.read_text()
    if "advertise:" in text:
        return False
    config.write_text(re.sub(r"(?m)^cluster:\n", f"cluster:\n  advertise: 127.0.0.1:{port}\n", text))
    return True
