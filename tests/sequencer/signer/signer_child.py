"""A signing process that kills itself, with SIGKILL, at one step of one signature. Run as ``python -m
tests.sequencer.signer.signer_child DATABASE SOCKET STEP COUNTDOWN``.

It is the real server over the real store; only the store and the key are wrapped, to die at ``STEP`` of the
``COUNTDOWN``-th new signature: ``before persist``, ``after persist``, ``before sign``, ``after sign``; any other STEP
never comes. It prints ``ready`` once it listens.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import trio

from consensus.crypto.scheme import SecretKey
from consensus.slashing_rules import Refusal, SignedAttestation, SignedBlock
from sequencer.genesis import genesis_of
from sequencer.signer.authority import SigningAuthority
from sequencer.storage.signing_store import Change, SigningStore, Stored
from tests.sequencer.signer.common import serving
from tests.support.committee import committee

STEPS = ("before persist", "after persist", "before sign", "after sign")


@dataclass
class Death:
    """Comes once, at its step."""

    step: str
    countdown: int
    fresh: bool = field(default=False, init=False)

    def at(self, step: str) -> None:
        if step == "before persist":
            self.countdown -= 1
        if self.countdown == 0 and step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalStore:
    def __init__(self, store: SigningStore, death: Death) -> None:
        self._store, self._death = store, death

    def load(self) -> Stored:
        return self._store.load()

    def record(self, change: Change) -> Refusal | None:
        self._death.at("before persist")
        refusal = self._store.record(change)
        self._death.at("after persist")
        return refusal

    def check(self, pubkey: bytes, slashable: SignedBlock | SignedAttestation) -> Refusal | None:
        return self._store.check(pubkey, slashable)


class MortalKey:
    def __init__(self, key: SecretKey, death: Death) -> None:
        self._key, self._death = key, death

    @property
    def public_key(self) -> bytes:
        return self._key.public_key

    def sign(self, message: bytes) -> bytes:
        self._death.at("before sign")
        signature = self._key.sign(message)
        self._death.at("after sign")
        return signature

    def prove_possession(self) -> bytes:
        return self._key.prove_possession()

    def export(self) -> bytes:
        return self._key.export()


async def main(database: Path, socket: Path, step: str, countdown: int) -> None:
    members = committee(4, scheme="ed25519")
    death = Death(step, countdown)
    with SigningStore(database, members.spec.hash) as store:
        mortal = cast("SigningStore", MortalStore(store, death))
        authority = SigningAuthority(genesis_of(members.spec), [MortalKey(members.keys[0], death)], mortal)
        async with serving(authority, socket):
            print("ready", flush=True)
            await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
