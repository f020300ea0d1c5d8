"""The client's side of SCRAM (RFC 5802, 7677) with channel binding (RFC 9266, 5929), written apart from the server's."""
import base64
import hashlib
import hmac
import secrets

HASHES = {"SCRAM-SHA-1": "sha1", "SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}


class ScramError(Exception):
    pass


def _xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


class Scram:
    """One attempt: first() -> challenge(bytes) -> verify(bytes)."""

    def __init__(self, mechanism, user, password, binding=None, gs2=None, authzid=""):
        """binding: (type, data) for -PLUS. gs2: the flag to send instead of the right one ('n', 'y', 'p=...')."""
        plus = mechanism.endswith("-PLUS")
        self.hash = HASHES[mechanism.removesuffix("-PLUS")]
        self.user, self.password = user, password
        flag = gs2 or (f"p={binding[0]}" if plus else "n")
        self.header = f"{flag},{'a=' + authzid if authzid else ''},"
        self.bound = self.header.encode() + (binding[1] if binding else b"")
        self.nonce = secrets.token_urlsafe(18)

    def first(self):
        name = self.user.replace("=", "=3D").replace(",", "=2C")
        self.bare = f"n={name},r={self.nonce}"
        return (self.header + self.bare).encode()

    def challenge(self, data, nonce=None):
        """The answer to the server's first message. nonce: to send another one than the server's."""
        self.server_first = data.decode()
        fields = dict(f.split("=", 1) for f in self.server_first.split(","))
        if not fields["r"].startswith(self.nonce) or len(fields["r"]) < len(self.nonce) + 8:
            raise ScramError("the server did not extend the nonce")
        self.iterations, self.salt = int(fields["i"]), base64.b64decode(fields["s"])
        salted = hashlib.pbkdf2_hmac(self.hash, self.password.encode(), self.salt, self.iterations)
        without = f"c={base64.b64encode(self.bound).decode()},r={nonce or fields['r']}"
        message = ",".join((self.bare, self.server_first, without)).encode()
        mac = lambda key, text: hmac.new(key, text, self.hash).digest()
        client_key = mac(salted, b"Client Key")
        proof = _xor(client_key, mac(hashlib.new(self.hash, client_key).digest(), message))
        self.signature = mac(mac(salted, b"Server Key"), message)
        return f"{without},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, data):
        """Raises unless the server proved that it knows the keys."""
        fields = dict(f.split("=", 1) for f in data.decode().split(","))
        if "v" not in fields or base64.b64decode(fields["v"]) != self.signature:
            raise ScramError("wrong server signature")
