#!/usr/bin/python3
"""Checks a recorded history of clients and servers offline: what was acknowledged, delivered, archived, and in which order.

Usage: history.py [--max-gap KIND=SECONDS]... [--limit N] FILE...

A FILE holds JSON lines, one event a line, of one run; FILE1+FILE2 is one run recorded in several files, of which the first
holds all `send`s. Prints a summary and every violation (--limit N of each kind); exits 1 when an invariant does not hold.

A message's body is "SENDER RECIPIENT N": the full JID it was sent from, the bare JID it was sent to, and a number that no
other message of this sender has. Events (`e` is the kind, `t` monotonic seconds; more fields may be there, other kinds are
only counted):

  send     from, to, n, again    before the bytes leave; again: a repetition under the same origin-id
  acked    from, messages        [[to, n], ...] that <a/>, <resumed/> or <failed/> covered
  count    session, h, known, sent   a server's h in <a/> or <resumed/>: what was known of it, what had been sent
  failed   session, h, sent      the h of <failed/>, null without; it may lag behind what was acknowledged before
  recv     at, session, from, body, sid     sid: <stanza-id/> of the own archive, or null; a resumed session keeps its name;
           early                            it was for the full JID of a session that was not yet available
  bounced  from, to, n           its sender was told by an error that it was not delivered: it need not have arrived
  left     from, session, messages   [[to, n], ...], at the end, long after all was well again: not acknowledged, though
                                 the session they were sent in lives
  waiting  of, body              found among the offline messages of an account at the end
  archive  of, sid, from, body   one row, in the archive's order, read when everything was quiet; or
           of, rows              [[sid, from, body], ...], several of them
  archived of                    the whole archive of this account is above
  fault    t, id, kind, on       something was broken: kill, stop, pg, ...; on: what, for instance node2
  healed   t, id                 it works again, as far as the breaker is concerned
  probe    t, pair, sockets      a probe arrived at t; pair: its name; sockets: nodes its two clients are connected to
  bind, resumed, kill, cut, lost   counted (lost: a client's connection ended, whoever did it)

Invariants:
  I1  an acknowledged message is once in the recipient's archive and once in the sender's; any other at most once
  I2  an acknowledged message was received by its recipient, or waits for it at the end
  I3  per (sender's full JID, recipient's bare JID): order of both archives and of first receptions = order of sending;
      an early reception may overtake: RFC 6121 8.5.3.1 gives it at once, what is for the bare JID waits for presence
  I4  one session receives a message once; another session only under the same stanza-id, which is that of the archive
  I5  nothing is received or archived that was not sent, or not by or not for the one it says
  I6  a server's count never goes back within a session and is never above what was sent
  I8  (reported; checked with --max-gap) the longest time in which a pair's probes did not arrive, per kind of fault: KIND,
      and "KIND socket" when what broke is a node one of the two was connected to; "none" when nothing was broken
  I9  at the end everything that a living session sent is acknowledged
"""
import argparse
import bisect
import collections
import json
import sys

Violation = collections.namedtuple("Violation", "invariant text")
AFTERMATH_S = 10  # a gap that begins so soon after a fault has healed is still its own


def bare(jid):
    return jid.partition("/")[0]


class History:
    """feed() the events in their order, then check(). A message is named by its body, and kept as a number."""

    def __init__(self):
        self.found = []
        self.number = {}                # body -> number of the message; below, lists by that number
        self.body, self.pair, self.place = [], [], []
        self.in_recipient, self.in_sender, self.acked = bytearray(), bytearray(), bytearray()  # times archived; acknowledged
        self.pairs, self.pair_number = [], {}                 # (sender, recipient), and back
        self.pair_size = []
        self.received, self.repeated = {}, {}                 # number -> (session, sid) first; all later ones, in a list
        self.last_received = {}                               # pair -> number
        self.last_archived = {}                               # (account, pair) -> number
        self.sid = {}                                         # number -> sid in the recipient's archive
        self.sids = collections.defaultdict(set)              # account -> sids of its archive
        self.complete, self.waiting, self.bounced = set(), set(), set()
        self.sent_again = self.rows = 0
        self.counts = {}
        self.kinds = collections.Counter()
        self.probes, self.faults = collections.defaultdict(list), {}
        self.handlers = {k[3:]: getattr(self, k) for k in dir(self) if k.startswith("on_")}

    def feed(self, event):
        kind = event["e"]
        self.kinds[kind] += 1
        handler = self.handlers.get(kind)
        if handler:
            handler(event)

    def violation(self, invariant, text):
        self.found.append(Violation(invariant, text))

    # -- events --------------------------------------------------------------------------------------------------

    def on_send(self, e):
        sender, to = e["from"], e["to"]
        body = f"{sender} {to} {e['n']}"
        if e.get("again"):
            self.sent_again += 1
        elif body not in self.number:
            self.number[body] = len(self.body)
            pair = self.pair_number.get((sender, to))
            if pair is None:
                pair = self.pair_number[sender, to] = len(self.pairs)
                self.pairs.append((sender, to))
                self.pair_size.append(0)
            self.body.append(body)
            self.pair.append(pair)
            self.place.append(self.pair_size[pair])
            self.pair_size[pair] += 1
            for flags in (self.in_recipient, self.in_sender, self.acked):
                flags.append(0)

    def on_acked(self, e):
        for to, n in e["messages"]:
            m = self.number.get(f"{e['from']} {to} {n}")
            if m is None:
                self.violation("I5", f"{e['from']} has an acknowledgement of {to} {n}, which it never sent")
            else:
                self.acked[m] = 1

    def on_left(self, e):
        for to, n in e["messages"]:
            self.violation("I9", f"{e['from']} {to} {n} was never acknowledged to {e['session']}, which lives")

    def on_count(self, e):
        before = self.counts.get(e["session"], 0)
        if not before <= e["h"] <= e["sent"] or e["h"] < e.get("known", 0):
            self.violation("I6", f"{e['session']}: h={e['h']} after {max(before, e.get('known', 0))}, sent {e['sent']}")
        self.counts[e["session"]] = max(e["h"], before)

    def on_failed(self, e):
        if e.get("h") is not None and e["h"] > e.get("sent", e["h"]):
            self.violation("I6", f"{e['session']}: <failed h='{e['h']}'/>, sent {e['sent']}")

    def on_recv(self, e):
        m = self.known(e["body"], e["from"], "received at", e["at"])
        if m is None:
            return
        pair = self.pair[m]
        to = self.pairs[pair][1]
        if to != bare(e["at"]):
            self.violation("I5", f"received at {e['at']}: {self.body[m]}, which is for {to}")
            return
        if m in self.received:
            self.repeated.setdefault(m, []).append((e["session"], e["sid"]))
            return
        self.received[m] = e["session"], e["sid"]
        if not e.get("early"):
            self.in_order("received", self.last_received, pair, m)

    def on_waiting(self, e):
        m = self.number.get(e["body"])
        if m is None or self.pairs[self.pair[m]][1] != e["of"]:
            self.violation("I5", f"{e['body']!r} waits for {e['of']}")
        else:
            self.waiting.add(m)

    def on_bounced(self, e):
        m = self.number.get(f"{e['from']} {e['to']} {e['n']}") if "n" in e else None
        if m is not None:
            self.bounced.add(m)

    def on_archive(self, e):
        rows = e.get("rows")
        if rows is None:
            rows = ((e["sid"], e["from"], e["body"]),)
        account = e["of"]
        sids = self.sids[account]
        for sid, sender, body in rows:
            self.rows += 1
            if sid in sids:
                self.violation("I4", f"the archive of {account} has two rows {sid}")
            sids.add(sid)
            m = self.known(body, sender, "archive of", account)
            if m is not None:
                self.archived(account, sid, m)

    def archived(self, account, sid, m):
        pair = self.pair[m]
        sender, to = self.pairs[pair]
        again = False
        if to == account:
            again = self.in_recipient[m] > 0
            self.in_recipient[m] = min(self.in_recipient[m] + 1, 255)
            if not again:
                self.sid[m] = sid
        if bare(sender) == account:
            again |= self.in_sender[m] > 0
            self.in_sender[m] = min(self.in_sender[m] + 1, 255)
        elif to != account:
            self.violation("I5", f"the archive of {account} has {self.body[m]}, which is not its own")
            return
        if not again:  # twice is I1's
            self.in_order("archive of " + account, self.last_archived, (account, pair), m)

    def on_archived(self, e):
        self.complete.add(e["of"])

    def on_fault(self, e):
        self.faults[e["id"]] = [e["t"], None, e["kind"], e.get("on")]

    def on_healed(self, e):
        self.faults[e["id"]][1] = e["t"]

    def on_probe(self, e):
        self.probes[e["pair"]].append((e["t"], e.get("sockets") or ()))

    def known(self, body, sender, where, whose):
        """The number of a message if it was ever sent, from where it says."""
        m = self.number.get(body)
        if m is None:
            self.violation("I5", f"{where} {whose}: {body!r}, which nobody sent")
        elif self.pairs[self.pair[m]][0] != sender:
            self.violation("I5", f"{where} {whose}: {body} as from {sender}")
            m = None
        return m

    def in_order(self, what, last, key, m):
        before = last.get(key)
        if before is not None and self.place[before] >= self.place[m]:
            self.violation("I3", f"{what}: {self.body[m]} comes behind {self.body[before]}")
        last[key] = m

    # -- invariants ----------------------------------------------------------------------------------------------

    def check(self, max_gaps=None):
        """All violations."""
        self.check_archives()
        self.check_received()
        self.check_repetitions()
        for kind, seconds in (max_gaps or {}).items():
            gap = self.gaps().get(kind)
            if gap and gap["seconds"] > seconds:
                self.violation("I8", f"{kind}: {gap['seconds']} s without a probe of {gap['pair']}, from t={gap['t']}")
        return self.found

    def check_archives(self):
        senders = [bare(sender) in self.complete for sender, _ in self.pairs]
        recipients = [to in self.complete for _, to in self.pairs]
        for m, pair in enumerate(self.pair):
            for read, times, account in ((senders[pair], self.in_sender[m], 0), (recipients[pair], self.in_recipient[m], 1)):
                if read and times <= 1 and (times or not self.acked[m] or m in self.bounced) or not read and not self.acked[m]:
                    continue
                whose = bare(self.pairs[pair][account])
                if not read:
                    self.violation("I1", f"the archive of {whose} was not read, {self.body[m]} was acknowledged")
                else:
                    acked = "acknowledged" if self.acked[m] else "not acknowledged"
                    self.violation("I1", f"{self.body[m]}, {acked}, is {times} times in the archive of {whose}")
                if bare(self.pairs[pair][0]) == self.pairs[pair][1]:
                    break  # one archive

    def check_received(self):
        for m, acked in enumerate(self.acked):
            if acked and m not in self.received and m not in self.waiting and m not in self.bounced:
                self.violation("I2", f"{self.body[m]} was acknowledged and never received")

    def check_repetitions(self):
        named = {}  # (account, sid) of what is in no archive
        for m, first in self.received.items():
            sid, stored = first[1], self.sid.get(m)
            others = self.repeated.get(m)
            if others:
                sessions = [s for s, _ in (first, *others)]
                for session in {s for s in sessions if sessions.count(s) > 1}:
                    self.violation("I4", f"{session} received {self.body[m]} {sessions.count(session)} times")
            if sid is None or sid != (stored or sid) or (others and any(o != sid for _, o in others)):
                sids = [s for _, s in (first, *(others or ()))]
                self.violation("I4", f"{self.body[m]} was received as {sids}, archived as {stored}")
            if stored is None and sid is not None:
                account = self.pairs[self.pair[m]][1]
                if named.setdefault((account, sid), m) != m or sid in self.sids[account]:
                    self.violation("I4", f"{self.body[m]} has the stanza-id {sid} of another message")

    # -- availability --------------------------------------------------------------------------------------------

    def gaps(self):
        """{kind of fault: the worst gap of any pair}"""
        worst = {}
        faults = sorted((t, (healed or t) + AFTERMATH_S, kind, on) for t, healed, kind, on in self.faults.values())
        starts = [f[0] for f in faults]
        longest = max((f[1] - f[0] for f in faults), default=0)
        for pair, arrivals in self.probes.items():
            arrivals.sort(key=lambda a: a[0])
            for (a, before), (b, after) in zip(arrivals, arrivals[1:]):
                near = faults[bisect.bisect_left(starts, a - longest):bisect.bisect_right(starts, b)]
                kinds = {kind + (" socket" if on in before or on in after else "")
                         for _, end, kind, on in near if end >= a} or {"none"}
                for kind in kinds:
                    if b - a > worst.get(kind, {"seconds": -1})["seconds"]:
                        worst[kind] = {"seconds": round(b - a, 3), "pair": pair, "t": round(a, 3)}
        return worst

    def summary(self):
        again = sum(map(len, self.repeated.values()))
        counts = {k: self.kinds[k] for k in ("kill", "cut", "lost", "bind", "resumed", "failed")}
        if self.faults:
            counts["faults"] = dict(sorted(collections.Counter(f[2] for f in self.faults.values()).items()))
        if self.probes:
            counts["probes"] = sum(map(len, self.probes.values()))
            counts["worst_gap_s"] = {k: g["seconds"] for k, g in sorted(self.gaps().items())}
        return {"sent": len(self.body), "sent_again": self.sent_again, "acked": sum(self.acked),
                "received": len(self.received), "received_again": again, "waiting": len(self.waiting), "bounced": len(self.bounced),
                "archived": self.rows, **counts, "violations": len(self.found)}


def check_events(events, max_gaps=None):
    """(violations, summary) of events in their order."""
    history = History()
    for event in events:
        history.feed(event)
    return history.check(max_gaps), history.summary()


def read_events(paths):
    for path in paths:
        with open(path) as f:
            yield from map(json.loads, f)


def report(violations, limit=10):
    """Text: how many of each invariant, and the first of them."""
    lines = []
    for invariant in sorted({v.invariant for v in violations}):
        texts = [v.text for v in violations if v.invariant == invariant]
        lines.append(f"{invariant}: {len(texts)} violations")
        lines += [f"  {t}" for t in texts[:limit]]
    return "\n".join(lines)


def gap_limit(text):
    kind, _, seconds = text.rpartition("=")
    return kind, float(seconds)


def main(arguments):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s [options] FILE...")
    p.add_argument("files", nargs="+", metavar="FILE")
    p.add_argument("--max-gap", action="append", type=gap_limit, default=[], metavar="KIND=SECONDS")
    p.add_argument("--limit", type=int, default=None, help="violations shown of each invariant (default: all)")
    options = p.parse_args(arguments)
    failed = 0
    for name in options.files:
        violations, summary = check_events(read_events(name.split("+")), dict(options.max_gap))
        print(f"{name}: {json.dumps(summary)}")
        if violations:
            print(report(violations, options.limit))
        failed += bool(violations)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
