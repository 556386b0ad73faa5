"""From a subject to the bytes that are signed.

Signed bytes are ``canonical([purpose, chain id, genesis hash, epoch, validator-set hash])`` followed by the canonical
subject: a signature is good for one purpose, on one chain, in one epoch, under one validator set, and cannot be
replayed anywhere else. There is no call that signs a blob.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final, cast

import msgspec

from consensus.codec import encode
from consensus.types import Epoch, Hash, Integer, ShortText, Subject

PROPOSAL: Final = "proposal"
VOTE: Final = "vote"
TIMEOUT: Final = "timeout"
_PURPOSE_PREFIX: Final = "shared-sequencer/"
REMEMBERED_MAX: Final = 256
"""Subjects whose bytes are remembered: a whole quorum signs and checks one."""


class _Domain(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    purpose: str
    chain_id: ShortText
    genesis_hash: Hash
    epoch: Integer
    validators_hash: Hash


class SigningDomain(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything besides the subject that a signature is bound to."""

    chain_id: str
    genesis_hash: bytes
    epoch: Epoch
    validators_hash: bytes

    def bytes_to_sign(self, subject: Subject) -> bytes:
        """The exact bytes that a signature over ``subject`` covers. A subject of another epoch is our bug."""
        remembered = self._remembered
        known = remembered.get(subject)
        if known is not None:
            return known
        if subject.epoch != self.epoch:
            raise ValueError(f"subject of epoch {subject.epoch} under the domain of epoch {self.epoch}")
        kind = subject.kind
        prefix = self._prefixes.get(kind)
        if prefix is None:
            prefix = self._prefixes[kind] = self._prefix(kind)
        if len(remembered) >= REMEMBERED_MAX:
            remembered.clear()
        remembered[subject] = signed = prefix + encode(cast("msgspec.Struct", subject))
        return signed

    @cached_property
    def _prefixes(self) -> dict[str, bytes]:
        """By kind, of which a protocol has a handful."""
        return {}

    @cached_property
    def _remembered(self) -> dict[Subject, bytes]:
        """What was signed or checked lately."""
        return {}

    def _prefix(self, kind: str) -> bytes:
        return encode(
            _Domain(
                purpose=_PURPOSE_PREFIX + kind,
                chain_id=self.chain_id,
                genesis_hash=self.genesis_hash,
                epoch=self.epoch,
                validators_hash=self.validators_hash,
            )
        )
