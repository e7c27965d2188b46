"""A client of the secure sum written from docs/secure-sum.md: nothing of Headway is imported."""

import hashlib
import json
import math
import os
import struct

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PRIME = 2**521 - 1


def joined(*parts):
    return b"".join(struct.pack(">Q", len(part)) + part for part in parts)


def digest(purpose, *parts):
    return hashlib.sha256(joined(b"headway secure sum 1", purpose.encode(), *parts)).digest()


def hkdf(secret, salt, *info):
    return HKDF(hashes.SHA256(), 32, salt, joined(*info)).derive(secret)


def stream(key, count):
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(count))


def bitmap(size, members):
    return sum(1 << place for place in members).to_bytes((size + 7) // 8, "little")


def members(raw):
    number = int.from_bytes(raw, "little")
    return [place for place in range(8 * len(raw)) if number >> place & 1]


def plan(clients, needed, corrupt):
    """Degree and threshold."""
    if clients <= 64:
        return clients - 1, needed
    total = math.comb

    def chance(marked, drawn, count):
        return total(marked, count) * total(clients - 1 - marked, drawn - count) / total(clients - 1, drawn)

    colluding = math.floor(corrupt * clients)
    missing = colluding + clients - needed
    for k in range(2, clients - 1, 2):
        if missing >= k and clients**2 / 2 * total(clients - k, missing - k) / total(clients, missing) > 2**-41:
            continue
        t = 0
        while t < k and clients * sum(chance(needed, k, count) for count in range(t + 1)) <= 2**-20:
            t += 1
        if t and clients * sum(chance(colluding, k, count) for count in range(t, k + 1)) <= 2**-41:
            return k, t
    return clients - 1, needed


class PlainMasker:
    """One client in one round.  sign: its signature of bytes; verify: of (name, data, signature)."""

    def __init__(self, name, run, chain, sign, verify, *, share=0.7, least=4, corrupt=0.2):
        self.name, self.run, self.chain, self.sign, self.verify = name, run, chain, sign, verify
        self.share, self.least, self.corrupt = share, least, corrupt

    def advertise(self, request, round_, attempt):
        self.names = json.loads(request["names"])
        self.own = self.names.index(self.name)
        self.needed = max(math.ceil(self.share * len(self.names) - 1e-9), self.least)
        tag = struct.pack(">QQ", round_, attempt)
        parts = (self.run.encode(), self.chain.encode(), tag, *(name.encode() for name in self.names))
        self.context = digest("context", *parts)
        self.masks, self.channel, self.secret = os.urandom(32), os.urandom(32), os.urandom(32)
        both = [X25519PrivateKey.from_private_bytes(key) for key in (self.masks, self.channel)]
        keys = b"".join(key.public_key().public_bytes_raw() for key in both)
        return {
            "keys": keys,
            "context": self.context,
            "signature": self.sign(joined(b"headway secure sum 1 keys", self.context, self.name.encode(), keys)),
            "commitment": digest("own mask", self.secret),
        }

    def share_out(self, request, private):
        self.present = request["present"]
        there = members(self.present)
        degree, threshold = plan(len(there), self.needed, self.corrupt)
        drawn = stream(digest("graph", self.context, self.present), 16 * len(there))
        circle = sorted(there, key=lambda one: drawn[16 * there.index(one) :][:16])
        place, reach = circle.index(self.own), range(1, degree // 2 + 1)
        near = {circle[(place + side * step) % len(circle)] for step in reach for side in (1, -1)}
        self.near = sorted(near if degree < len(there) - 1 else set(there) - {self.own})
        rows = [private["keys"][128 * row :][:128] for row in range(len(self.near))]
        self.peers = dict(zip(self.near, rows, strict=True))
        for peer, row in self.peers.items():
            name = self.names[peer]
            text = joined(b"headway secure sum 1 keys", self.context, name.encode(), row[:64])
            assert self.verify(name, text, row[64:])
        of_own, of_masks = self._shares(self.secret, threshold), self._shares(self.masks, threshold)
        self.own_share, sealed = of_own[self.own], b""
        for peer in self.near:
            about = joined(b"shares", self.context, struct.pack(">II", self.own, peer))
            sealed += AESGCM(self._seal(self.own, peer)).encrypt(bytes(12), of_own[peer] + of_masks[peer], about)
        return {"shares": sealed}

    def masked(self, numbers, bits, request, model):
        """numbers: residues modulo 2^bits; model: (name, type, shape, bytes) of each tensor of the message."""
        self.sharing = request["sharing"]
        found = hashlib.sha256()
        for name, kind, shape, data in sorted(model):
            found.update(repr((name, kind, shape)).encode() + data)
        self.binding = digest("sum", self.context, self.present, self.sharing, found.digest())
        word = np.dtype("<u4" if bits <= 32 else "<u8")
        total = np.array(numbers, dtype=word) + self._mask(hkdf(self.secret, self.binding, b"own mask"), numbers, word)
        for peer in self._sharing():
            pair = struct.pack(">II", *sorted((self.own, peer)))
            common = self._common(self.masks, self.peers[peer][:32])
            mask = self._mask(hkdf(common, self.binding, b"pair mask", pair), numbers, word)
            total = total + mask if self.own < peer else total - mask
        return (total & (2**bits - 1)).astype(np.int64)

    def confirm(self, request, private):
        self.survivors = request["survivors"]
        self.shares = self.own_share
        for row, peer in enumerate(self._sharing()):
            about = joined(b"shares", self.context, struct.pack(">II", peer, self.own))
            plain = AESGCM(self._seal(peer, self.own)).decrypt(bytes(12), private["shares"][148 * row :][:148], about)
            self.shares += plain[:66] if peer in members(self.survivors) else plain[66:]
        return {"signature": self.sign(self._text())}

    def unmask(self, request):
        kept, lost = set(members(request["survived"])), set(members(request["lost"]))
        assert kept == set(members(self.survivors))
        assert not kept & lost
        assert kept | lost == set(members(self.sharing))
        signers = members(request["signers"])
        assert len(signers) >= self.needed
        for row, signer in enumerate(signers):
            assert self.verify(self.names[signer], self._text(), request["signatures"][64 * row :][:64])
        return {"shares": self.shares}

    def _sharing(self):
        return [peer for peer in self.near if peer in members(self.sharing)]

    def _text(self):
        return joined(b"headway secure sum 1 survivors", self.binding, self.survivors)

    def _common(self, private, public):
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))

    def _seal(self, sender, receiver):
        peer = receiver if sender == self.own else sender
        common = self._common(self.channel, self.peers[peer][32:64])
        return hkdf(common, digest("shares", self.context, self.present), struct.pack(">II", sender, receiver))

    def _shares(self, secret, threshold):
        polynomial = [int.from_bytes(secret, "big")]
        polynomial += [int.from_bytes(os.urandom(80), "big") % PRIME for _ in range(threshold - 1)]
        at = {place: sum(c * (place + 1) ** n for n, c in enumerate(polynomial)) for place in (self.own, *self.near)}
        return {place: (value % PRIME).to_bytes(66, "big") for place, value in at.items()}

    def _mask(self, key, numbers, word):
        return np.frombuffer(stream(key, len(numbers) * word.itemsize), dtype=word)
