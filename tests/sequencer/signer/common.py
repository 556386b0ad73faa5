"""A chain with keys, a signing authority over a real file, and its server on a real socket."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import cast

import msgspec
import trio

from consensus.codec import encode
from consensus.crypto.scheme import SecretKey
from consensus.signing import SigningDomain
from consensus.types import Subject
from sequencer.genesis import Genesis, genesis_of
from sequencer.signer.authority import Request, SigningAuthority
from sequencer.signer.remote import RemoteSigner, SignerEndpoint
from sequencer.signer.server import SignerServer, open_listener
from sequencer.storage.signing_store import SigningStore
from tests.sequencer.transport.common import identity
from tests.support.committee import Committee, committee

SIGNER_IDENTITY, NODE_IDENTITY, STRANGER_IDENTITY = identity(100), identity(1), identity(66)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One validator's chain. ``path`` is the protection database."""

    members: Committee
    path: Path

    @cached_property
    def genesis(self) -> Genesis:
        return genesis_of(self.members.spec)

    @property
    def key(self) -> SecretKey:
        return self.members.keys[0]

    @property
    def domain(self) -> SigningDomain:
        return self.members.epoch.domain

    def request(self, subject: Subject, *, validators_hash: bytes | None = None) -> Request:
        return Request(
            public_key=self.key.public_key,
            validators_hash=self.domain.validators_hash if validators_hash is None else validators_hash,
            subject=encode(cast("msgspec.Struct", subject)),
        )

    def verifies(self, signature: bytes, subject: Subject) -> bool:
        domain = msgspec.structs.replace(self.domain, epoch=subject.epoch)
        return self.members.scheme.verify(self.key.public_key, domain.bytes_to_sign(subject), signature)

    def create(self) -> None:
        SigningStore(self.path, self.members.spec.hash, create=True).close()

    @contextlib.contextmanager
    def authority(self) -> Iterator[SigningAuthority]:
        """The authority, as after a restart."""
        with SigningStore(self.path, self.members.spec.hash) as store:
            yield SigningAuthority(self.genesis, self.members.keys[:1], store)


def chain(directory: Path, protocol: str = "jolteon", scheme: str = "ed25519") -> Chain:
    """A chain whose first validator's key has an empty memory."""
    made = Chain(members=committee(4, protocol=protocol, scheme=scheme), path=directory / "protection.db")
    made.create()
    return made


@contextlib.contextmanager
def socket_path() -> Iterator[Path]:
    """A path short enough for a Unix socket, wherever the tests' own directories lie."""
    with tempfile.TemporaryDirectory(prefix="signer-") as directory:
        yield Path(directory) / "run" / "signer.sock"


@contextlib.asynccontextmanager
async def serving(authority: SigningAuthority, path: Path) -> AsyncIterator[None]:
    """The server of one node, while the block runs."""
    async with trio.open_nursery() as nursery:
        server = SignerServer(authority, SIGNER_IDENTITY, frozenset({NODE_IDENTITY.peer}))
        await nursery.start(server.serve, open_listener(path))
        yield
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def remote(of: Chain, path: Path, own: int = 1) -> AsyncIterator[RemoteSigner]:
    """A node's side, while the block runs."""
    endpoint = SignerEndpoint(socket=path, peer=SIGNER_IDENTITY.peer, public_keys=(of.key.public_key,))
    signer = RemoteSigner(endpoint, identity(own), of.members.spec, Random(own))
    async with trio.open_nursery() as nursery:
        await nursery.start(signer.run)
        yield signer
        nursery.cancel_scope.cancel()
