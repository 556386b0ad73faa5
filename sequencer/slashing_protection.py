"""Slashing protection by EIP-3076: ask here, durably, before every signature on a block or an attestation (an FFG
vote).

.. code-block:: python

    with SlashingProtection.open("slashing.db", genesis_validators_root) as protection:
        protection.import_interchange(json.loads(text))
        protection.check_and_record_attestation(pubkey, source_epoch, target_epoch, signing_root)   # or SlashingRefusal
        signature = sign(...)

The rules are those of :mod:`consensus.slashing_rules`, the format that of :mod:`sequencer.slashing_interchange`, the
file that of :mod:`sequencer.storage.slashing_store`. Calls block for one synced write (a fraction of a millisecond on
a good disk); a trio program makes them in a thread, or in a process of its own. Several processes may share a file:
of two contradictory requests one is refused. A file is worth what it remembers: never go on with an older copy of it.

**An import** adds to what is known and lowers no bound. Files that contradict themselves or the database are imported
too, as what they say makes the signer stricter (the published tests leave that open).

**Gaps.** After two files with a gap between them, what was signed in the gap is unknown if the second does not hold
everything (a minimal one does not): "signing in this gap is not safe" (EIP-3076, Advice for Complete Databases). The
published tests permit it to a complete database (``should_succeed_complete``), and so does ``import_interchange``,
unless ``raise_bounds`` applies conditions 2, 4 and 5 to each file by itself. The command line always does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from consensus import slashing_rules as rules
from consensus.finality.types import FFG
from consensus.signing import PROPOSAL
from consensus.slashing_rules import Refusal, Rule, SignedAttestation, SignedBlock, Verdict
from consensus.types import Slot
from rollup_adapters.base import JsonValue
from sequencer.slashing_interchange import (
    GENESIS_VALIDATORS_ROOT_SIZE,
    PUBKEY_SIZES,
    InterchangeError,
    parse_interchange,
    render_interchange,
)
from sequencer.storage.slashing_store import Merged, Pruned, SlashingStore

__all__ = ["InterchangeError", "Merged", "Pruned", "Rule", "SlashingProtection", "SlashingRefusal"]

_SIGNING_ROOT_SIZES: Final = (rules.SIGNING_ROOT_SIZE,)


class SlashingRefusal(Exception):
    """Do not sign this: the signer could be slashed, or what it signed before is not known well enough."""

    def __init__(self, pubkey: bytes, message: SignedBlock | SignedAttestation, refusal: Refusal) -> None:
        known = "" if refusal.known is None else f"; known: {_described(refusal.known)}"
        super().__init__(f"{_described(message)} of key 0x{pubkey.hex()} is refused: {refusal.rule.value}{known}")
        self.pubkey = pubkey
        self.message = message
        self.rule: Rule = refusal.rule
        self.known = refusal.known


class SlashingProtection:
    """See the module. Made by :meth:`open` or :meth:`open_existing`; a context manager; may be called from any thread.

    Every method raises :class:`sequencer.storage.StorageError` when the file cannot be relied on: then nothing may be
    signed.
    """

    def __init__(self, store: SlashingStore) -> None:
        """Use :meth:`open`."""
        self._store = store

    @classmethod
    def open(cls, path: Path | str, genesis_validators_root: bytes) -> SlashingProtection:
        """Open the database at ``path``, or make it, for the chain of ``genesis_validators_root`` (32 bytes).

        A new one knows nothing: import what its keys signed elsewhere before the first signature. Raises
        ``ValueError`` for a root of another size, :class:`StorageError` for the database of another chain.
        """
        _check_size("genesis_validators_root", genesis_validators_root, (GENESIS_VALIDATORS_ROOT_SIZE,))
        return cls(SlashingStore(Path(path), genesis_validators_root, exclusive=False))

    @classmethod
    def open_existing(cls, path: Path | str, *, exclusive: bool = False) -> SlashingProtection:
        """Open a database of any chain, without making one. With ``exclusive`` only if nobody else has it open, as
        the EIP advises for imports and exports; else :class:`sequencer.storage.InUseError`."""
        return cls(SlashingStore(Path(path), None, exclusive=exclusive))

    @property
    def path(self) -> Path:
        """The file."""
        return self._store.path

    @property
    def genesis_validators_root(self) -> bytes:
        """The chain (32 bytes)."""
        return self._store.genesis_validators_root

    def check_and_record_block(self, pubkey: bytes, slot: int, signing_root: bytes | None) -> None:
        """Return if the block may be signed; it is then recorded, durably. Else :class:`SlashingRefusal`, and nothing
        is recorded.

        ``pubkey`` has 48 bytes (BLS) or 32 (Ed25519), ``signing_root`` 32 or is None (then it can never be repeated);
        ``slot`` is unsigned 64-bit; else ``ValueError``.
        """
        block = SignedBlock(slot, signing_root)
        _check_arguments(pubkey, signing_root, slot=slot)
        _raise_refusal(pubkey, block, self._store.check_and_record_block(pubkey, block))

    def check_and_record_attestation(
        self, pubkey: bytes, source_epoch: int, target_epoch: int, signing_root: bytes | None
    ) -> None:
        """The same for an attestation."""
        attestation = SignedAttestation(source_epoch, target_epoch, signing_root)
        _check_arguments(pubkey, signing_root, source_epoch=source_epoch, target_epoch=target_epoch)
        _raise_refusal(pubkey, attestation, self._store.check_and_record_attestation(pubkey, attestation))

    def import_interchange(
        self, document: Mapping[str, object], *, raise_bounds: bool = False, besides_from: Slot | None = None
    ) -> Merged:
        """Add a document of EIP-3076, all of it or, with :class:`InterchangeError`, nothing. Durable on return.

        ``raise_bounds``: no signature below the document's own lowest messages, even if the database knows lower ones
        (see *Gaps* in the module). ``besides_from`` matters to a signing process of ours alone, which signs over the
        file only where the last import named it: the slot below which no key signs anything any more of the kinds that
        no document carries.
        """
        histories = parse_interchange(document, self.genesis_validators_root)
        return self._store.merge(histories, raise_bounds=raise_bounds, besides_from=besides_from)

    def export_interchange(self, *, minimal: bool = False) -> dict[str, JsonValue]:
        """Everything as a document of EIP-3076, or with ``minimal`` one block and one attestation per key that stand
        for everything.

        Whoever imports it signs nothing that contradicts what was ever recorded here; of a minimal one, nothing up to
        the newest messages. It is outdated by the next signature.
        """
        reduced = rules.minimal if minimal else rules.without_watermarks
        return render_interchange(self.genesis_validators_root, map(reduced, self._store.histories()))

    def kinds_besides(self) -> tuple[str, ...]:
        """The kinds of subjects that a signing process (``sequencer.signer``) signed over this file and that no
        interchange carries: whoever moves its keys moves the file."""
        return tuple(kind for kind in self._store.kinds() if kind not in (PROPOSAL, FFG))

    def prune(self, *, before_slot: int, before_epoch: int) -> Pruned:
        """Forget blocks of slots below ``before_slot`` and attestations of targets below ``before_epoch``, of all keys.

        Nothing that was refused before is allowed after: up to the newest forgotten messages, everything is refused.
        """
        _check_number("before_slot", before_slot)
        _check_number("before_epoch", before_epoch)
        return self._store.prune(before_slot=before_slot, before_epoch=before_epoch)

    def close(self) -> None:
        """Close the file. Nothing is lost without it."""
        self._store.close()

    def __enter__(self) -> SlashingProtection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _raise_refusal(pubkey: bytes, message: SignedBlock | SignedAttestation, verdict: Verdict) -> None:
    if isinstance(verdict, Refusal):
        raise SlashingRefusal(pubkey, message, verdict)


def _described(message: SignedBlock | SignedAttestation | int) -> str:
    match message:
        case SignedBlock():
            what = f"block at slot {message.slot}"
        case SignedAttestation():
            what = f"attestation {message.source_epoch} -> {message.target_epoch}"
        case int():
            return str(message)
    return (
        f"{what} with {'no signing root' if message.signing_root is None else f'root 0x{message.signing_root.hex()}'}"
    )


def _check_arguments(pubkey: bytes, signing_root: bytes | None, **numbers: int) -> None:
    _check_size("pubkey", pubkey, PUBKEY_SIZES)
    if signing_root is not None:
        _check_size("signing_root", signing_root, _SIGNING_ROOT_SIZES)
    for name, number in numbers.items():
        _check_number(name, number)


def _check_size(name: str, value: bytes, sizes: tuple[int, ...]) -> None:
    if not isinstance(value, bytes) or len(value) not in sizes:
        expected = " or ".join(map(str, sizes))
        raise ValueError(f"{name}: {len(value)} bytes of {type(value).__name__}, not {expected} of bytes")


def _check_number(name: str, value: int) -> None:
    if not isinstance(value, int) or not 0 <= value <= rules.UINT64_MAX:
        raise ValueError(f"{name}: {value} is not an unsigned 64-bit number")
