"""Who is guilty: from two votes, from two link certificates, from two conflicting finalized checkpoints.

Two quorums of one set share at least ``2Q - W`` of its stake, and every common signer of two links that conflict broke
the rule that an honest signer keeps. The theorem of accountable safety says that two finalized checkpoints of which
neither descends from the other leave such a pair of links: either two checkpoints were justified at one height (double
votes), or a link of one branch jumps over the pair that finalizes on the other (surround votes). So no node's state is
needed, only certificates and headers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from consensus.engine import Refusal
from consensus.finality import rules
from consensus.finality.certificates import LinkChecker
from consensus.finality.rules import Ancestry, Finality, Offence, ValidatorSets
from consensus.finality.types import Checkpoint, FfgVote, Link, LinkCertificate
from consensus.types import Height

OFFENCES_MAX: Final = 4096
"""Pairs of links that one extraction names. A thousand pairs name the same guilty as the first few."""
CERTIFICATES_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Guilt:
    """Whoever holds ``public_key`` signed ``first`` and ``second``."""

    public_key: bytes
    offence: Offence
    first: Link
    second: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """Two finalized checkpoints that conflict, and the guilty, by public key, each with one pair of links."""

    first: Checkpoint
    second: Checkpoint
    guilty: tuple[Guilt, ...]


def conflicting_finalized(finality: Finality, ancestry: Ancestry) -> tuple[Checkpoint, Checkpoint] | None:
    """Two finalized checkpoints of which neither descends from the other, or None when they are one chain. Ascending
    by height, a chain shows in neighbours alone."""
    ordered = sorted(finality.finalized, key=lambda checkpoint: checkpoint.order)
    for lower, higher in pairwise(ordered):
        if not ancestry.descends(higher, lower):
            return lower, higher
    return None


def conflicting_links(links: Sequence[Link]) -> list[tuple[Link, Link, Offence]]:
    """Pairs of links that nobody may sign both of, at most ``OFFENCES_MAX``. ``links`` ascend by
    :attr:`Link.order`."""
    found: list[tuple[Link, Link, Offence]] = []
    for position, later in enumerate(links):
        for earlier in reversed(links[:position]):
            if earlier.target.height <= later.source.height:
                break  # targets descend from here on: nothing further can conflict
            offence = rules.conflict(earlier, later)
            if offence is not None:
                found.append((earlier, later, offence))
                if len(found) >= OFFENCES_MAX:
                    return found
    return found


def extract(
    *,
    root: Checkpoint,
    interval: Height,
    sets: ValidatorSets,
    signers: Mapping[Link, frozenset[bytes]],
    ancestry: Ancestry,
) -> Extraction | Refusal:
    """The guilty of two conflicting finalized checkpoints: at least ``2Q - W`` of the stake of one validator set, none
    of them honest, however many are faulty. ``signers`` as in :func:`consensus.finality.rules.evaluate`, the signatures
    verified before (:func:`signers_of_certificates`). The reason when nothing conflicting is final."""
    finality = rules.evaluate(root=root, interval=interval, sets=sets, signers=signers, ancestry=ancestry)
    pair = conflicting_finalized(finality, ancestry)
    if pair is None:
        return Refusal("extraction: these links finalize one chain; nobody is accused")
    guilty: dict[bytes, Guilt] = {}
    for first, second, offence in conflicting_links(finality.links):
        for key in sorted(signers[first] & signers[second]):
            guilty.setdefault(key, Guilt(public_key=key, offence=offence, first=first, second=second))
    return Extraction(first=pair[0], second=pair[1], guilty=tuple(guilty[key] for key in sorted(guilty)))


def signers_of_certificates(
    certificates: Sequence[LinkCertificate], checker: LinkChecker
) -> dict[Link, frozenset[bytes]]:
    """Who signed which link, from both sides' certificates. Those whose signatures do not verify are left out: they
    accuse nobody. Raises ``ValueError`` beyond ``CERTIFICATES_MAX``."""
    if len(certificates) > CERTIFICATES_MAX:
        raise ValueError(f"more than {CERTIFICATES_MAX} certificates; begin from a later trusted checkpoint")
    signers: dict[Link, frozenset[bytes]] = {}
    for certificate in certificates:
        if checker.check_signatures(certificate) is None:
            known = signers.get(certificate.link, frozenset())
            signers[certificate.link] = known | checker.keys(certificate)
    return signers


def check_votes(first: FfgVote, second: FfgVote, checker: LinkChecker) -> Guilt | Refusal:
    """What two votes prove of their signer: offline, from the validator sets of their epochs. The signer is one person
    by its key; the epochs that the votes name may differ."""
    offence = rules.conflict(first.link, second.link)
    if offence is None:
        return Refusal("evidence: one honest validator may cast both votes")
    if not (checker.check_vote(first) and checker.check_vote(second)):
        return Refusal("evidence: a signature does not verify")
    key = checker.key_of(first)
    if key != checker.key_of(second):
        return Refusal("evidence: the votes are of two signers")
    return Guilt(public_key=key, offence=offence, first=first.link, second=second.link)


def check_certificates(
    first: LinkCertificate, second: LinkCertificate, checker: LinkChecker
) -> tuple[Guilt, ...] | Refusal:
    """What two link certificates prove: their common signers, by public key. No quorum is needed for that."""
    offence = rules.conflict(first.link, second.link)
    if offence is None:
        return Refusal("evidence: one honest validator may sign both links")
    for certificate in (first, second):
        refusal = checker.check_signatures(certificate)
        if refusal is not None:
            return refusal
    common = sorted(checker.keys(first) & checker.keys(second))
    if not common:
        return Refusal("evidence: nobody signed both links")
    return tuple(Guilt(public_key=key, offence=offence, first=first.link, second=second.link) for key in common)
