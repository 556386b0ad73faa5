"""The tables of the chain store, and the statements over them. Each function runs inside a transaction of its caller
on the database's thread; none waits for anything but SQLite.

``number`` is a block's row, given in the order of arrival.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import apsw
import msgspec

from consensus import codec
from consensus.engine import (
    TRANSCRIPT_PROOFS_MAX,
    BlockRecord,
    CommitRecord,
    EpochRecord,
    LinkRecord,
    SafetyRecord,
    TranscriptRecord,
)
from consensus.epochs import EpochChange
from consensus.epochs import epoch_changes as epoch_changes_codec
from consensus.finality.types import FFG, LinkCertificate, link_certificates
from consensus.types import PATH_LENGTH_MAX, Block, BlockHeader, BlockId, CommitProof, Epoch, Height
from sequencer.storage.database import DamagedError, Layout, StorageError

CHAIN_LAYOUT: Final = Layout(
    name="safety journal and block archive",
    version=3,
    synchronous="FULL",
    repair=(
        "A validator must not go on with an empty or older file: it could contradict what it has signed. Keep this one "
        "for inspection and start in an empty directory as an observer, or with a new key that replaced the old one."
    ),
    statements=(
        "CREATE TABLE safety (kind TEXT PRIMARY KEY, subject BLOB NOT NULL, state BLOB NOT NULL, digest BLOB NOT NULL)"
        " STRICT, WITHOUT ROWID",
        "CREATE TABLE blocks (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, header BLOB NOT NULL,"
        " body BLOB NOT NULL) STRICT",
        # Blocks that no commit names. A flag in `blocks` would rewrite the whole row, body included, at the commit.
        "CREATE TABLE undecided (height INTEGER, number INTEGER, PRIMARY KEY (height, number)) STRICT, WITHOUT ROWID",
        "CREATE TABLE commits (height INTEGER PRIMARY KEY, number INTEGER NOT NULL, proof BLOB) STRICT",
        "CREATE TABLE transcript (digest BLOB NOT NULL UNIQUE, proof BLOB NOT NULL) STRICT",
        "CREATE TABLE epochs (epoch INTEGER PRIMARY KEY, change BLOB NOT NULL, digest BLOB NOT NULL) STRICT",
        "CREATE TABLE links (target INTEGER, source INTEGER, certificate BLOB NOT NULL, digest BLOB NOT NULL,"
        " PRIMARY KEY (target, source)) STRICT, WITHOUT ROWID",
        "INSERT INTO meta VALUES ('pruned below', 1)",
    ),
)


class Head(NamedTuple):
    """The committed head; height 0 and no id before the first commit."""

    height: Height
    id: BlockId | None


BlockRow = tuple[Block, memoryview]
"""A block and its body."""


# --- writing -------------------------------------------------------------------------------------------------


def put_block(connection: apsw.Connection, record: BlockRecord) -> None:
    """Store a block, once."""
    block = record.block
    connection.execute(
        "INSERT INTO blocks (id, header, body) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (block.id, codec.encode(block.header), record.body),
    )
    if connection.changes():
        connection.execute("INSERT INTO undecided VALUES (?, ?)", (block.header.height, connection.last_insert_rowid()))


def put_safety(connection: apsw.Connection, record: SafetyRecord) -> None:
    """Replace the decision of the same kind. Nobody else could notice a changed bit in it, hence the digest."""
    connection.execute(
        "INSERT OR REPLACE INTO safety VALUES (?, ?, ?, ?)",
        (record.kind, record.subject, record.state, codec.digest(record)),
    )


def put_transcript(connection: apsw.Connection, record: TranscriptRecord) -> None:
    """Store a proof, once; the oldest beyond ``TRANSCRIPT_PROOFS_MAX`` goes."""
    connection.execute(
        "INSERT INTO transcript (digest, proof) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING",
        (hashlib.sha256(record.proof).digest(), record.proof),
    )
    if connection.changes():
        oldest = connection.last_insert_rowid() - TRANSCRIPT_PROOFS_MAX
        connection.execute("DELETE FROM transcript WHERE rowid <= ?", (oldest,))


def put_commit(connection: apsw.Connection, record: CommitRecord) -> None:
    """Note that a stored block is committed on top of the committed head. Again for the same block, it adds a missing
    proof and nothing else. Raises :class:`StorageError` for anything that would make the archive contradict itself."""
    head = head_of(connection)
    proof = None if record.proof is None else codec.encode(record.proof)
    if record.height <= head.height:
        _again(connection, record, proof)
        return
    if record.height != head.height + 1:
        raise StorageError(f"commit of height {record.height} on a committed head at {head.height}: a gap")
    number = connection.execute("SELECT number FROM blocks WHERE id = ?", (record.block_id,)).get
    if number is None:
        raise StorageError(f"commit of block {record.block_id.hex()} at height {record.height}, which was not stored")
    connection.execute("DELETE FROM undecided WHERE height = ? AND number = ?", (record.height, number))
    if connection.changes() != 1:
        raise StorageError(f"commit of block {record.block_id.hex()} at height {record.height}, which is not its own")
    connection.execute("INSERT INTO commits VALUES (?, ?, ?)", (record.height, number, proof))


def _again(connection: apsw.Connection, record: CommitRecord, proof: bytes | None) -> None:
    if record.height < pruned_below_of(connection):
        return
    stored = connection.execute(
        "SELECT id FROM commits JOIN blocks USING (number) WHERE height = ?", (record.height,)
    ).get
    if stored != record.block_id:
        raise StorageError(
            f"two blocks committed at height {record.height}: {'none' if stored is None else stored.hex()} before, "
            f"{record.block_id.hex()} now"
        )
    if proof is not None:
        connection.execute("UPDATE commits SET proof = ? WHERE height = ? AND proof IS NULL", (proof, record.height))


def put_epoch(connection: apsw.Connection, record: EpochRecord) -> None:
    """Begin an epoch: store how it follows the one before, and forget what was signed in that one."""
    change = codec.encode(record.change)
    connection.execute(
        "INSERT INTO epochs VALUES (?, ?, ?)", (record.change.epoch, change, hashlib.sha256(change).digest())
    )
    connection.execute("DELETE FROM safety WHERE kind <> ?", (FFG,))


def put_link(connection: apsw.Connection, record: LinkRecord) -> None:
    """Store a finality certificate of this chain, once for its two checkpoints."""
    certificate = codec.encode(record.certificate)
    connection.execute(
        "INSERT INTO links VALUES (?, ?, ?, ?) ON CONFLICT (target, source) DO NOTHING",
        (
            record.certificate.target.height,
            record.certificate.source.height,
            certificate,
            hashlib.sha256(certificate).digest(),
        ),
    )


def collect_garbage(connection: apsw.Connection, blocks_max: int) -> None:
    """Delete up to ``blocks_max`` of the blocks that lost, oldest first."""
    lost = connection.execute(
        "SELECT height, number FROM undecided WHERE height <= ? ORDER BY height, number LIMIT ?",
        (head_of(connection).height, blocks_max),
    ).fetchall()
    for height, number in lost:
        connection.execute("DELETE FROM undecided WHERE height = ? AND number = ?", (height, number))
        connection.execute("DELETE FROM blocks WHERE number = ?", (number,))


def prune_below(connection: apsw.Connection, height: Height, blocks_max: int) -> Height:
    """Delete up to ``blocks_max`` of the committed blocks below ``height``, and remember it. Returns the lowest height
    still there."""
    lowest = pruned_below_of(connection)
    upper = min(height, lowest + blocks_max)
    if upper <= lowest:
        return lowest
    connection.execute("DELETE FROM blocks WHERE number IN (SELECT number FROM commits WHERE height < ?)", (upper,))
    connection.execute("DELETE FROM commits WHERE height < ?", (upper,))
    connection.execute("DELETE FROM links WHERE target < ?", (upper,))
    connection.execute("UPDATE meta SET value = ? WHERE key = 'pruned below'", (upper,))
    return upper


# --- reading -------------------------------------------------------------------------------------------------


def head_of(connection: apsw.Connection) -> Head:
    """The committed head."""
    row = connection.execute(
        "SELECT height, id FROM commits LEFT JOIN blocks USING (number) ORDER BY height DESC LIMIT 1"
    ).get
    if row is None:
        return Head(0, None)
    height, block_id = row
    if not isinstance(block_id, bytes):
        raise DamagedError(f"the block committed at height {height} is missing")
    return Head(height, block_id)


def pruned_below_of(connection: apsw.Connection) -> Height:
    """The lowest committed height that is kept."""
    value = connection.execute("SELECT value FROM meta WHERE key = 'pruned below'").get
    if not isinstance(value, int):
        raise DamagedError("meta: no height in 'pruned below'")
    return value


def safety_of(connection: apsw.Connection) -> tuple[SafetyRecord, ...]:
    """The last decision of each kind, by kind."""
    records = []
    for kind, subject, state, digest in connection.execute("SELECT * FROM safety ORDER BY kind"):
        record = SafetyRecord(kind=kind, subject=subject, state=state)
        if codec.digest(record) != digest:
            raise DamagedError(f"the safety record of kind {kind!r} does not match its digest")
        records.append(record)
    return tuple(records)


def transcript_of(connection: apsw.Connection) -> tuple[bytes, ...]:
    """The proofs that are kept, oldest first."""
    proofs = []
    for digest, proof in connection.execute("SELECT digest, proof FROM transcript ORDER BY rowid"):
        if hashlib.sha256(proof).digest() != digest:
            raise DamagedError("a proof of the transcript does not match its digest")
        proofs.append(proof)
    return tuple(proofs)


def newest_links(connection: apsw.Connection, count: int) -> tuple[LinkCertificate, ...]:
    """The finality certificates with the highest targets, ascending."""
    rows = connection.execute(
        "SELECT target, certificate, digest FROM links ORDER BY target DESC, source DESC LIMIT ?", (count,)
    ).fetchall()
    return tuple(_checked_link(*row) for row in reversed(rows))


def links_above(connection: apsw.Connection, height: Height, count: int) -> tuple[LinkCertificate, ...]:
    """The finality certificates with the lowest targets above a height, ascending."""
    rows = connection.execute(
        "SELECT target, certificate, digest FROM links WHERE target > ? ORDER BY target, source LIMIT ?",
        (height, count),
    )
    return tuple(_checked_link(*row) for row in rows)


def epoch_changes(connection: apsw.Connection, from_epoch: Epoch, limit: int) -> tuple[EpochChange, ...]:
    """How epochs followed the one before, ascending, from ``from_epoch`` (at least 1) on, at most ``limit``. They are
    never pruned."""
    rows = connection.execute(
        "SELECT epoch, change, digest FROM epochs WHERE epoch >= ? ORDER BY epoch LIMIT ?", (from_epoch, limit)
    ).fetchall()
    if [row[0] for row in rows] != list(range(from_epoch, from_epoch + len(rows))):
        raise DamagedError(f"the epochs {[row[0] for row in rows]} do not follow from each other")
    return tuple(_checked_change(*row) for row in rows)


def newest_epoch(connection: apsw.Connection) -> Epoch:
    """The epoch that began last; 0 for the first one."""
    newest = connection.execute("SELECT max(epoch) FROM epochs").get
    return newest if isinstance(newest, int) else 0


def last_epoch_changes(connection: apsw.Connection, count: int) -> tuple[EpochChange, ...]:
    """How the last epochs began, ascending; none for the first one."""
    rows = connection.execute(
        "SELECT epoch, change, digest FROM epochs ORDER BY epoch DESC LIMIT ?", (count,)
    ).fetchall()
    return tuple(_checked_change(*row) for row in reversed(rows))


def block_by_id(connection: apsw.Connection, block_id: BlockId) -> BlockRow | None:
    """A stored block, committed or not."""
    row = connection.execute("SELECT header, body FROM blocks WHERE id = ?", (block_id,)).get
    return None if row is None else checked_block(block_id, *row)


def undecided_blocks(connection: apsw.Connection, above_height: Height) -> Iterator[BlockRow]:
    """The stored blocks above a height that no commit names."""
    rows = connection.execute(
        "SELECT height, id, header, body FROM undecided LEFT JOIN blocks USING (number) WHERE height > ?"
        " ORDER BY height, number",
        (above_height,),
    )
    for height, block_id, header, body in rows:
        if block_id is None:
            raise DamagedError(f"an undecided block of height {height} is missing")
        yield checked_block(block_id, header, body)


def committed_blocks(connection: apsw.Connection, from_height: Height) -> Iterator[BlockRow]:
    """Committed blocks, oldest first, from exactly ``from_height`` on. None when that one is pruned or not there
    yet."""
    rows = connection.execute(
        "SELECT height, id, header, body FROM commits LEFT JOIN blocks USING (number) WHERE height >= ?"
        " ORDER BY height",
        (from_height,),
    )
    expected = from_height
    for height, block_id, header, body in rows:
        if height != expected:
            if expected == from_height and from_height < pruned_below_of(connection):
                return
            raise DamagedError(f"no commit of height {expected}, but one of {height}")
        if block_id is None:
            raise DamagedError(f"the block committed at height {height} is missing")
        block, body = checked_block(block_id, header, body)
        if block.header.height != height:
            raise DamagedError(f"block {block.id.hex()} of height {block.header.height} is committed at {height}")
        yield block, body
        expected += 1


def proof_at(connection: apsw.Connection, height: Height) -> CommitProof | None:
    """The proof that was stored for a committed height, if it was the last of its commit."""
    proof = connection.execute("SELECT proof FROM commits WHERE height = ?", (height,)).get
    return None if proof is None else _checked_proof(height, proof)


def proof_for(connection: apsw.Connection, height: Height) -> CommitProof | None:
    """The proof of a committed height: that of the next height that has one, with the headers between put before its
    own. None when the height is pruned or not committed, or when the path would exceed ``PATH_LENGTH_MAX``."""
    row = connection.execute(
        "SELECT height, proof FROM commits WHERE height BETWEEN ? AND ? AND proof IS NOT NULL ORDER BY height LIMIT 1",
        (height, height + PATH_LENGTH_MAX),
    ).get
    if row is None or height < pruned_below_of(connection):
        return None
    proven, encoded = row
    proof = _checked_proof(proven, encoded)
    if proven == height:
        return proof
    if proven - height + len(proof.headers) > PATH_LENGTH_MAX:
        return None
    between = connection.execute(
        "SELECT id, header FROM commits JOIN blocks USING (number) WHERE height > ? AND height <= ? ORDER BY height",
        (height, proven),
    )
    headers = tuple(checked_header(block_id, header).header for block_id, header in between)
    if len(headers) != proven - height:
        raise DamagedError(f"a block committed above height {height} and up to {proven} is missing")
    return msgspec.structs.replace(proof, headers=headers + proof.headers)


def headers_between(connection: apsw.Connection, low: Height, high: Height) -> tuple[BlockHeader, ...]:
    """The committed headers of these heights, both included; none when one is not here."""
    rows = connection.execute(
        "SELECT id, header FROM commits JOIN blocks USING (number) WHERE height BETWEEN ? AND ? ORDER BY height",
        (low, high),
    )
    headers = tuple(checked_header(block_id, header).header for block_id, header in rows)
    return headers if len(headers) == high - low + 1 else ()


def proven_height_up_to(connection: apsw.Connection, from_height: Height, to_height: Height) -> Height | None:
    """The highest height between the two, both included, whose proof is stored."""
    height = connection.execute(
        "SELECT height FROM commits WHERE height BETWEEN ? AND ? AND proof IS NOT NULL ORDER BY height DESC LIMIT 1",
        (from_height, to_height),
    ).get
    return height if isinstance(height, int) else None


def checked_header(block_id: object, header: object) -> Block:
    """Decode a header that hashes to its id. Raises :class:`DamagedError`."""
    if not isinstance(block_id, bytes) or not isinstance(header, bytes):
        raise DamagedError("a block without id or header")  # a changed type byte
    decoded = codec.headers.decode(header)
    if isinstance(decoded, codec.Malformed):
        raise DamagedError(f"header of block {block_id.hex()}: {decoded.reason}")
    if hashlib.sha256(header).digest() != block_id:
        raise DamagedError(f"header of block {block_id.hex()} hashes to another id")
    return Block(decoded, block_id)


def checked_block(block_id: object, header: object, body: object) -> BlockRow:
    """Decode a header that hashes to its id, with a body of its size. Raises :class:`DamagedError`."""
    block = checked_header(block_id, header)
    if not isinstance(body, bytes) or len(body) != block.header.payload_size:
        raise DamagedError(f"body of block {block.id.hex()} is not {block.header.payload_size} bytes")
    return block, memoryview(body)


def _checked_proof(height: Height, proof: object) -> CommitProof:
    if not isinstance(proof, bytes):
        raise DamagedError(f"commit proof of height {height} is not bytes")
    decoded = codec.commit_proofs.decode(proof)
    if isinstance(decoded, codec.Malformed):
        raise DamagedError(f"commit proof of height {height}: {decoded.reason}")
    return decoded


def _checked_link(target: object, certificate: object, digest: object) -> LinkCertificate:
    if not isinstance(certificate, bytes) or hashlib.sha256(certificate).digest() != digest:
        raise DamagedError(f"the finality certificate for height {target} does not match its digest")
    decoded = link_certificates.decode(certificate)
    if isinstance(decoded, codec.Malformed):
        raise DamagedError(f"the finality certificate for height {target}: {decoded.reason}")
    return decoded


def _checked_change(epoch: object, change: object, digest: object) -> EpochChange:
    if not isinstance(change, bytes) or hashlib.sha256(change).digest() != digest:
        raise DamagedError(f"the change to epoch {epoch} does not match its digest")
    decoded = epoch_changes_codec.decode(change)
    if isinstance(decoded, codec.Malformed):
        raise DamagedError(f"the change to epoch {epoch}: {decoded.reason}")
    if decoded.epoch != epoch:
        raise DamagedError(f"the change to epoch {decoded.epoch} stands in the place of that to {epoch}")
    return decoded
