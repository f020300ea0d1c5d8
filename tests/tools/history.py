#!/usr/bin/python3
"""Checks a recorded history of clients and servers offline: what was acknowledged, delivered, archived, and in which order.

Usage: history.py FILE...         JSON lines of one run, one event a line; exits 1 when an invariant does not hold

A message's body is "SENDER RECIPIENT N": the full JID it was sent from, the bare JID it was sent to, and a number that no
other message of this sender has. Events (`e` is the kind; more fields may be there, other kinds are ignored):

  send     from, to, n, again    before the bytes leave; again: a repetition under the same origin-id
  acked    from, messages        [[to, n], ...] that <a/>, <resumed/> or <failed/> covered
  count    session, h, known, sent   a server's h in <a/>, <resumed/>, <failed/>: what was known of it, what had been sent
  recv     at, session, from, body, sid     sid: <stanza-id/> of the own archive, or null; a resumed session keeps its name;
           early                            it was for the full JID of a session that was not yet available
  archive  of, sid, from, body   one row, in the archive's order, read when everything was quiet
  archived of                    the whole archive of this account is above

Invariants:
  I1  an acknowledged message is once in the recipient's archive and once in the sender's; any other at most once
  I2  an acknowledged message was received by its recipient
  I3  per (sender's full JID, recipient's bare JID): order of both archives and of first receptions = order of sending;
      an early reception may overtake: RFC 6121 8.5.3.1 gives it at once, what is for the bare JID waits for presence
  I4  one session receives a message once; another session only under the same stanza-id, which is that of the archive
  I5  nothing is received or archived that was not sent, or not by or not for the one it says
  I6  a server's count never goes back within a session and is never above what was sent
"""
import collections
import json
import sys

Violation = collections.namedtuple("Violation", "invariant text")


def bare(jid):
    return jid.split("/")[0]


def parse_body(body):
    """(sender, recipient, n) or None."""
    parts = (body or "").split(" ")
    return (parts[0], parts[1], int(parts[2])) if len(parts) == 3 and parts[2].isdigit() else None


class History:
    """feed() the events in their order, then check(). A message is named by (sender, recipient, n)."""

    def __init__(self):
        self.found = []
        self.order = {}                                       # message -> place among this pair's messages
        self.pairs = collections.Counter()
        self.acked = set()
        self.received = collections.defaultdict(list)         # message -> [(session, sid)]
        self.first_receptions = collections.defaultdict(list)  # (sender, recipient) -> [message]
        self.archives = collections.defaultdict(list)         # account -> [(sid, message)]
        self.complete = set()
        self.repeated = 0
        self.counts = {}
        self.kinds = collections.Counter()

    def feed(self, event):
        self.kinds[event["e"]] += 1
        handler = getattr(self, "on_" + event["e"], None)
        if handler:
            handler(event)

    def violation(self, invariant, text):
        self.found.append(Violation(invariant, text))

    # -- events --------------------------------------------------------------------------------------------------

    def on_send(self, e):
        m = (e["from"], e["to"], e["n"])
        if e.get("again"):
            self.repeated += 1
        elif m not in self.order:
            self.order[m] = self.pairs[m[:2]]
            self.pairs[m[:2]] += 1

    def on_acked(self, e):
        for to, n in e["messages"]:
            self.acked.add((e["from"], to, n))

    def on_count(self, e):
        if not self.counts.get(e["session"], 0) <= e["h"] <= e["sent"] or e["h"] < e.get("known", 0):
            self.violation("I6", f"{e['session']}: h={e['h']} after {self.counts.get(e['session'], 0)}, sent {e['sent']}")
        self.counts[e["session"]] = max(e["h"], self.counts.get(e["session"], 0))

    def on_recv(self, e):
        m = self.known(e, bare(e["at"]), f"{e['session']} received")
        if not m:
            return
        if m not in self.received:
            if not e.get("early"):
                self.first_receptions[m[:2]].append(m)
        self.received[m].append((e["session"], e["sid"]))

    def on_archive(self, e):
        m = self.known(e, None, f"the archive of {e['of']} has")
        if not m:
            return
        if e["of"] not in (bare(m[0]), m[1]):
            self.violation("I5", f"the archive of {e['of']} has {m}, which is not its own")
        self.archives[e["of"]].append((e["sid"], m))

    def on_archived(self, e):
        self.complete.add(e["of"])

    def known(self, e, account, where):
        """The message of an event if it was ever sent, from where it says; account: to whom it must be addressed."""
        m = parse_body(e["body"])
        if not m or m not in self.order:
            self.violation("I5", f"{where} {e['body']!r}, which nobody sent")
        elif e["from"] != m[0]:
            self.violation("I5", f"{where} {m} as from {e['from']}")
        elif account and m[1] != account:
            self.violation("I5", f"{where} {m}, which is for {m[1]}")
        else:
            return m
        return None

    # -- invariants ----------------------------------------------------------------------------------------------

    def check(self):
        """All violations."""
        self.check_archives()
        self.check_received()
        self.check_order()
        self.check_repetitions()
        return self.found

    def check_archives(self):
        times = collections.defaultdict(collections.Counter)
        for account, rows in self.archives.items():
            times[account].update(m for _, m in rows)
        for m in self.order:
            for account in {bare(m[0]), m[1]}:
                if account not in self.complete:
                    if m in self.acked:
                        self.violation("I1", f"the archive of {account} was not read, {m} was acknowledged")
                    continue
                n = times[account][m]
                if n > 1 or (n == 0 and m in self.acked):
                    acked = "acknowledged" if m in self.acked else "not acknowledged"
                    self.violation("I1", f"{m}, {acked}, is {n} times in the archive of {account}")

    def check_received(self):
        for m in self.acked:
            if m not in self.received:
                self.violation("I2", f"{m} was acknowledged and never received")

    def check_order(self):
        for account, rows in self.archives.items():
            pairs = collections.defaultdict(list)
            for m in dict.fromkeys(m for _, m in rows):  # twice is I1's
                pairs[m[:2]].append(m)
            for pair, messages in pairs.items():
                self.ascending(pair, messages, f"archive of {account}")
        for pair, messages in self.first_receptions.items():
            self.ascending(pair, messages, "reception")

    def ascending(self, pair, messages, what):
        for a, b in zip(messages, messages[1:]):
            if self.order[a] >= self.order[b]:
                self.violation("I3", f"{what}: {pair[0]} to {pair[1]}: {b[2]} comes behind {a[2]}")

    def check_repetitions(self):
        archived, named = collections.defaultdict(set), {}
        for account, rows in self.archives.items():
            for sid, m in rows:
                archived[account, m].add(sid)
        for m, times in self.received.items():
            for session, n in collections.Counter(session for session, _ in times).items():
                if n > 1:
                    self.violation("I4", f"{session} received {m} {n} times")
            sids, stored = {sid for _, sid in times}, archived[m[1], m]
            if len(sids) > 1 or None in sids or (stored and not sids <= stored):
                self.violation("I4", f"{m} was received as {sids}, archived as {stored}")
            for sid in sids - {None}:
                if named.setdefault((m[1], sid), m) != m:
                    self.violation("I4", f"{m} and {named[m[1], sid]} have the same stanza-id {sid}")
        for account, rows in self.archives.items():
            for sid, n in collections.Counter(sid for sid, _ in rows).items():
                if n > 1:
                    self.violation("I4", f"the archive of {account} has {n} rows {sid}")

    def summary(self):
        receptions = sum(map(len, self.received.values()))
        return {"sent": len(self.order), "sent_again": self.repeated, "acked": len(self.acked),
                "received": len(self.received), "received_again": receptions - len(self.received),
                "archived": sum(map(len, self.archives.values())),
                **{k: self.kinds[k] for k in ("kill", "cut", "bind", "resumed", "failed")}, "violations": len(self.found)}


def check_events(events):
    """(violations, summary) of events in their order."""
    history = History()
    for event in events:
        history.feed(event)
    return history.check(), history.summary()


def report(violations, limit=10):
    """Text: how many of each invariant, and the first of them."""
    lines = []
    for invariant in sorted({v.invariant for v in violations}):
        texts = [v.text for v in violations if v.invariant == invariant]
        lines.append(f"{invariant}: {len(texts)} violations")
        lines += [f"  {t}" for t in texts[:limit]]
    return "\n".join(lines)


def main(paths):
    if not paths or paths[0] in ("-h", "--help"):
        print(__doc__)
        return 2
    failed = 0
    for path in paths:
        with open(path) as f:
            violations, summary = check_events(map(json.loads, f))
        print(f"{path}: {json.dumps(summary)}")
        if violations:
            print(report(violations))
        failed += bool(violations)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
