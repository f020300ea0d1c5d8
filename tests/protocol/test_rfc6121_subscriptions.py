"""RFC 6121 appendix A with pre-approval (3.4): two accounts do at random what they may, a model says what becomes of it."""
import random
import time

import pytest

from raw import every, get, qname

ACTIONS = "subscribe", "subscribed", "unsubscribe", "unsubscribed", "remove"
STEPS = 40


class Side:
    """One account's state for the other (A.1), and what its client is to hear from it."""

    def __init__(self, raw):
        self.raw, self.heard = raw, []
        self.to = self.from_ = self.out = self.in_ = self.approved = False

    def item(self):
        return ({(0, 0): "none", (1, 0): "to", (0, 1): "from", (1, 1): "both"}[self.to, self.from_],
                "subscribe" if self.out else None, "true" if self.approved else None)

    def send(self, action):
        """A.2; whether the contact's server learns of it."""
        if action == "subscribe":
            self.out = not self.to
        elif action == "unsubscribe":
            self.to = self.out = False
        elif action == "subscribed":
            asked, self.in_ = self.in_, False
            self.approved |= not asked and not self.from_
            self.from_ |= asked
            return asked
        else:
            known = self.in_ or self.from_
            self.from_ = self.in_ = self.approved = False
            return known
        return True

    def receive(self, action, peer):
        """A.3."""
        if action == "subscribe" and self.approved:
            self.from_ = True
            peer.receive("subscribed", self)
            return
        known = {"subscribe": not self.in_, "subscribed": self.out, "unsubscribe": self.from_ or self.in_,
                 "unsubscribed": self.to or self.out}[action]
        if not known:
            return
        self.heard.append(action)
        if action == "subscribe":
            self.in_ = True
        elif action == "unsubscribe":
            self.from_ = self.in_ = False
        else:
            self.to, self.out = action == "subscribed", False


def item_of(query, contact):
    for e in query if query is not None else []:
        if e.get("jid") == contact:
            return e.get("subscription"), e.get("ask"), e.get("approved")
    return "none", None, None


def act(user, contact, action):
    me, peer = user.raw, contact.raw
    if action != "remove":
        me.send(f"<presence to='{peer.bare}' type='{action}'/>")
        parts = [action]
    else:
        reply = me.request("set", f"<query xmlns='jabber:iq:roster'><item jid='{peer.bare}' subscription='remove'/></query>")
        if reply.get("type") == "error":
            return  # who only asked is no item
        parts = ["unsubscribe"] * (user.to or user.out) + ["unsubscribed"] * (user.from_ or user.in_)
        user.approved = False
    for part in parts:
        if user.send(part):
            contact.receive(part, user)


def check(side, other, before, to_before):
    """What came: requests and answers, then or before presence as the subscription changed; pushes of changes only."""
    raw, contact = side.raw, other.raw
    wanted = sorted(side.heard + ([] if side.to == to_before else ["available" if side.to else "unavailable"]))
    heard, pushed, deadline = [], [], time.monotonic() + raw.TIMEOUT
    while True:
        query = get(raw.result("get", "<query xmlns='jabber:iq:roster'/>"), "roster:query")
        came, raw.queue = raw.queue, []
        heard += [e.get("type", "available") for e in came if e.tag == qname("presence")]
        pushed += [get(e, "roster:query") for e in came if e.get("type") == "set"]
        settled = (item_of(query, contact.bare) == side.item() and len(heard) >= len(wanted)
                   and (pushed or before == side.item()))
        if settled or time.monotonic() > deadline:
            break
    assert sorted(heard) == wanted
    assert item_of(query, contact.bare) == side.item()
    if pushed and every(pushed[-1], "roster:item")[0].get("subscription") != "remove":
        assert item_of(pushed[-1], contact.bare) == side.item()
    assert pushed or before == side.item()


@pytest.mark.deviates("prosody", "keeps approved in another way; unavailable to who asks for a subscription")
@pytest.mark.parametrize("seed", range(8))
def test_walk(login, seed):
    choose, walked = random.Random(seed), []
    sides = [Side(login(presence=True, roster=True)) for _ in range(2)]
    for _ in range(STEPS):
        user, contact = choose.sample(sides, 2)
        action = choose.choice(ACTIONS)
        if action == "subscribe" and (user.to or user.out):
            continue  # a server may answer, deliver or drop what is said twice
        walked.append((sides.index(user), action))
        before = [(s.item(), s.to) for s in sides]
        act(user, contact, action)
        try:
            for side, other, (item, to) in zip(sides, sides[::-1], before):
                check(side, other, item, to)
        except AssertionError as e:
            raise AssertionError(f"after {walked} from {before}: {e}") from e
        for side in sides:
            side.heard.clear()
