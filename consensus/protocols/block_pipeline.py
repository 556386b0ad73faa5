"""The blocks of an engine on their way from a proposal to the ledger: checks asked for, records made, commits
emitted.

A block that is known to be committed is a *goal*. It is committed once the path from the committed head up to it is
here and every body on that path was checked; oldest first, each height once.

The first block of a path that names the next validators is the epoch's *boundary*. No commit goes beyond it: a goal
above commits the boundary, with the goal's proof extended down to it, and then the epoch is over here. What descends
from the boundary within the epoch is a *closing* block: its only use is to commit the boundary, and so it is empty. Its
payload root says what it is, so that nobody can prove it to a stranger who does not know where the epoch ended.

A boundary cannot become unprovable by closing blocks: a proof is extended by blocks of the tree alone, and the tree
holds no more blocks than a proof may hold headers. What already has headers is a peer's proof of a closing block, which
no honest peer commits and so none has a proof of: such a goal is dropped if it grows too long, and the next certificate
gives another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from consensus.block_tree import BlockTree, Entry, Root
from consensus.certificates import QuorumChecker
from consensus.codec import block_of, encode
from consensus.commit_proof import extend
from consensus.engine import (
    BlockRecord,
    CheckPayload,
    Commit,
    CommitRecord,
    FetchBlocks,
    PayloadVerdict,
    Recovered,
    StepBuilder,
    TranscriptRecord,
)
from consensus.epochs import CLOSING_PAYLOAD_ROOT, EpochInfo
from consensus.types import Block, BlockId, Certificate, CommitProof, Height, PeerId, StoredBlock


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A block that is known to be committed, though perhaps not all of its ancestors are here yet: by a proof that a
    peer gave, or by a certificate that such a proof can be made from."""

    block_id: BlockId
    height: Height
    shown_by: CommitProof | Certificate


class CommitRule(Protocol):
    """Which block a certificate commits."""

    def commit_target(self, certificate: Certificate, tree: BlockTree) -> Entry | None:
        """The highest block that ``certificate`` commits, if it does and the blocks between are here."""
        ...


class BlockPipeline:
    """The block tree and the next commit. Adds to the step that ``out`` collects."""

    __slots__ = ("_checker", "_epoch", "_goal", "_highest", "_out", "_rule", "is_over", "tree")

    def __init__(self, epoch: EpochInfo, checker: QuorumChecker, rule: CommitRule, out: StepBuilder) -> None:
        self._epoch = epoch
        self._checker = checker
        self._rule = rule
        self._out = out
        self._goal: Goal | None = None
        self._highest: Goal | None = None
        """The next goal once a nearer one is reached."""
        self.is_over = False
        """True once the boundary is committed. Nothing above it ever is; its engine has nothing left to do."""
        genesis = epoch.genesis
        self.tree = BlockTree(
            Root(id=genesis.block_id, height=genesis.height, view=0, timestamp_ms=epoch.boundary_timestamp_ms)
        )

    def restore(self, recovered: Recovered) -> CommitProof | None:
        """Take back what the journal holds, and emit the commits that the ledger lacks again. The proof of the
        committed head, where that is a block of this epoch. Raises ``ValueError`` when the journal lacks its own
        committed head."""
        for stored, proof in recovered.commits:
            self._out.effects.append(Commit(block=block_of(stored.header), body=stored.body, proof=proof))
        blocks = [(block_of(stored.header), stored.body) for stored in recovered.blocks]
        blocks = [(block, body) for block, body in blocks if block.header.epoch == self._epoch.epoch]
        is_new = recovered.committed_id is None or recovered.committed_id == self._epoch.genesis.block_id
        if not is_new:
            heads = [block for block, _ in blocks if block.id == recovered.committed_id]
            if not heads:
                raise ValueError("the journal lacks its own committed head")
            head = heads[0].header
            self.is_over = bool(head.next_validators_hash)
            self.tree = BlockTree(
                Root(id=heads[0].id, height=head.height, view=head.view, timestamp_ms=head.timestamp_ms)
            )
        for block, body in sorted(blocks, key=lambda known: known[0].header.height):
            entry = self.tree.insert(block, body)
            if entry is not None:
                entry.checked = entry.recorded = True
        return None if is_new else recovered.head_proof

    def stored(self, block_id: BlockId) -> StoredBlock | None:
        """An uncommitted block that peers may be given: its body was checked."""
        entry = self.tree.get(block_id)
        if entry is None or not entry.checked:
            return None
        return StoredBlock(header=entry.block.header, body=memoryview(entry.body))

    def insert(
        self, block: Block, body: bytes | memoryview, source: PeerId | None, high_qc: Certificate
    ) -> Entry | None:
        """Take a block. When views failed for so long that the tree is full, only what the highest certificate, the
        goal and this block stand on is kept: a full tree must not stop the chain for good."""
        entry = self.tree.insert(block, body, source)
        if entry is None and block.header.height > self.tree.root.height:
            goal = () if self._goal is None else (self._goal.block_id,)
            self.tree.make_room(high_qc.block_id, block.header.parent, *goal)
            entry = self.tree.insert(block, body, source)
        return entry

    def record(self, path: Sequence[Entry]) -> None:
        """Make every block of ``path`` durable with this step, once."""
        for entry in path:
            if not entry.recorded:
                entry.recorded = True
                self._out.records.append(BlockRecord(entry.block, entry.body))

    def keep(self, proof: msgspec.Struct | None) -> None:
        """Keep a proof that the signature of this step relies on, for forensics."""
        if proof is not None:
            self._out.records.append(TranscriptRecord(encode(proof)))

    def may_follow(self, path: Sequence[Entry]) -> bool:
        """Whether the last block of ``path``, a proposed one, may stand on the others. What is wrong is its proposer's
        fault, said once; the block is refused for good, and whatever payload it has is not looked at."""
        if not path or path[-1].refused:
            return False
        if path[-1].follows:
            return True
        parent_timestamp_ms = path[-2].block.header.timestamp_ms if len(path) > 1 else self.tree.root.timestamp_ms
        fault = succession_fault(path, parent_timestamp_ms)
        if fault is None:
            path[-1].follows = True
            return True
        path[-1].refused = True
        proposer = self._epoch.validators.peer_of(path[-1].block.header.proposer)
        self._out.reject(proposer, f"proposal: {fault}")
        return False

    def all_checked(self, path: Sequence[Entry], *, full_check_of_last: bool) -> bool:
        """True when every body of ``path`` was checked; asks for the checks that are missing. All but the last block
        are certified by their children, the last one too unless it needs the full check that comes before a vote. That
        one waits for the others: a false body that some peer gave of an ancestor must not speak against it."""
        ready = True
        for position, entry in enumerate(path):
            if entry.checked:
                continue
            if entry.block.header.payload_root == CLOSING_PAYLOAD_ROOT and not entry.body:
                entry.checked = True  # its place was judged with its header; another body than none is found out below
                continue
            full = full_check_of_last and position == len(path) - 1
            if full and not ready:
                break
            ready = False
            if entry.check_pending if full else entry.certified_check_pending:
                continue
            if full:
                entry.check_pending = True
            else:
                entry.certified_check_pending = True
            ancestors = tuple((ancestor.block, ancestor.body) for ancestor in path[:position]) if full else ()
            self._out.effects.append(
                CheckPayload(block=entry.block, body=entry.body, path=ancestors, certified=not full)
            )
        return ready

    def on_verdict(self, verdict: PayloadVerdict) -> None:
        """A body was judged."""
        entry = self.tree.get(verdict.block_id)
        if entry is None:
            return
        if verdict.valid:
            entry.checked = True
        if not verdict.certified:
            entry.check_pending = False
            if not entry.checked:
                entry.refused = True
                proposer = self._epoch.validators.peer_of(entry.block.header.proposer)
                self._out.reject(proposer, f"payload: {verdict.reason}")
            return
        entry.certified_check_pending = False
        if not entry.checked:
            self.tree.discard(verdict.block_id)  # not the body that the quorum saw: fetched again, from another peer
            if entry.source is not None:
                self._out.reject(entry.source, "a certified block with a body that is not the one its header names")

    def consider(self, certificate: Certificate) -> None:
        """A verified certificate may commit something."""
        target = self._rule.commit_target(certificate, self.tree)
        if target is not None:
            self._prefer(Goal(block_id=target.block.id, height=target.height, shown_by=certificate))

    def reconsider(self, high_qc: Certificate) -> None:
        """Blocks arrived after the certificates that commit them: look down the chain of the highest one once more."""
        path = self.tree.path(high_qc.block_id)
        if path is None:
            return
        for certificate in (high_qc, *(entry.block.header.justify for entry in reversed(path))):
            if self._rule.commit_target(certificate, self.tree) is not None:
                if self._checker.check(certificate) is None:
                    self.consider(certificate)
                return

    def take(
        self, blocks: Sequence[tuple[Block, memoryview]], proof: CommitProof | None, peer: PeerId, high_qc: Certificate
    ) -> None:
        """Block sync fetched hash-linked blocks of ``peer``, oldest first; with a proof, the last is committed."""
        for block, body in blocks:
            self.insert(block, body, peer, high_qc)
        if proof is None or not blocks:
            return
        head = blocks[-1][0]
        self.aim(head.id, head.header.height, proof)

    def aim(self, block_id: BlockId, height: Height, proof: CommitProof) -> None:
        """``proof``, which verified, shows that block committed; it may not be here yet."""
        if height > self.tree.root.height:
            self._prefer(Goal(block_id=block_id, height=height, shown_by=proof))

    def _prefer(self, goal: Goal) -> None:
        """The higher goal, but one whose ancestors are all here before one that is still far: a replica that is behind
        hears of new commits faster than it can fetch, and must commit what it fetched. The highest stays known: what
        showed it may never be said again."""
        if self._highest is None or goal.height > self._highest.height:
            self._highest = goal
        known = self._goal
        if known is not None:
            is_near = self.tree.path(goal.block_id) is not None
            was_near = self.tree.path(known.block_id) is not None
            if (goal.height <= known.height) if is_near == was_near else was_near:
                return
        self._goal = goal

    def try_commit(self) -> None:
        """Commit the goal, or the boundary below it, once everything up to there is here and checked."""
        goal = self._goal
        if goal is None or self.is_over:
            return
        if goal.height <= self.tree.root.height:
            self._aim_higher()
            return
        whole = self.tree.path(goal.block_id)
        if whole is None:
            return
        path = up_to_boundary(whole)
        if not self.all_checked(path, full_check_of_last=False):
            return
        proof = self._proof(path[-1], goal)
        if proof is None:  # a block above was discarded: found again by ``reconsider`` once it was fetched anew
            if self._highest is goal:
                self._highest = None
            self._goal = self._highest
            return
        self.record(path)
        for entry in path:
            own = proof if entry is path[-1] else None
            self._out.records.append(CommitRecord(entry.height, entry.block.id, own))
            self._out.effects.append(Commit(block=entry.block, body=entry.body, proof=own))
        self.tree.commit(path[-1])
        self.is_over = bool(path[-1].block.header.next_validators_hash)
        self._aim_higher()

    def _aim_higher(self) -> None:
        """The goal is committed: go on to the highest one."""
        if self._highest is not None and self._highest.height <= self.tree.root.height:
            self._highest = None
        self._goal = self._highest

    def fetch_missing(self, wanted: Sequence[tuple[BlockId, Height]], peer: PeerId | None) -> None:
        """Ask for the nearest missing ancestor of each wanted block and of the goal."""
        goal = self._goal
        targets = wanted if goal is None else (*wanted, (goal.block_id, goal.height))
        asked: list[BlockId] = []
        for block_id, height in targets:
            missing = self.tree.missing_ancestor(block_id, height)
            if missing is not None and missing[0] not in asked:
                asked.append(missing[0])
                self._out.effects.append(FetchBlocks(block_id=missing[0], height=missing[1], peer=peer))

    def _proof(self, target: Entry, goal: Goal) -> CommitProof | None:
        """What shows the goal, extended down to ``target``, which is the goal or lies below it."""
        proof, top = goal.shown_by, goal.block_id
        if isinstance(proof, Certificate):
            top = proof.block_id
            proof = CommitProof(epoch=self._epoch.epoch, headers=(), certificate=proof)
        path = self.tree.path(top)
        if path is None:
            return None
        return extend(proof, [entry.block.header for entry in path[target.height - self.tree.root.height :]])


def succession_fault(path: Sequence[Entry], parent_timestamp_ms: int) -> str | None:
    """None when the last block of ``path`` is later than its parent and, below a boundary, a closing block."""
    header = path[-1].block.header
    if header.timestamp_ms <= parent_timestamp_ms:
        return "its timestamp does not exceed its parent's"
    if closes(path[:-1]):
        if header.payload_root != CLOSING_PAYLOAD_ROOT or header.payload_size or header.next_validators_hash:
            return "after the block that ends the epoch, it has a payload or names validators"
    elif header.payload_root == CLOSING_PAYLOAD_ROOT:
        return "a closing block where no block ended the epoch"
    return None


def closes(path: Sequence[Entry]) -> bool:
    """True when what stands on the last block of ``path`` is a closing block: the boundary is on it."""
    return any(entry.block.header.next_validators_hash for entry in path)


def up_to_boundary(path: Sequence[Entry]) -> Sequence[Entry]:
    """The path up to and with the first block that names the next validators; all of it where none does."""
    for position, entry in enumerate(path):
        if entry.block.header.next_validators_hash:
            return path[: position + 1]
    return path
