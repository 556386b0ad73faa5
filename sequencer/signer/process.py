"""The signing process, wired: files, keys, memory and socket in one place."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from consensus.crypto.scheme import SecretKey
from sequencer.genesis import Genesis, genesis_of
from sequencer.keys import KeyFileError, load_consensus_key, load_tls_identity
from sequencer.signer.authority import SigningAuthority
from sequencer.signer.config import SignerConfig
from sequencer.signer.server import SignerServer, open_listener
from sequencer.storage.signing_store import SigningStore

_logger = logging.getLogger(__name__)


def make_database(config: SignerConfig) -> None:
    """Make the empty database of keys that never signed anything. Raises ``StorageError`` when there is one."""
    SigningStore(config.database, config.spec.hash, create=True).close()


@asynccontextmanager
async def open_signer(config: SignerConfig, *, passphrase: str | None = None) -> AsyncIterator[SigningAuthority]:
    """Hold the keys and answer on the socket while the block runs.

    Raises ``KeyFileError``, ``StorageError`` (there is no database, it cannot be relied on, or another process has it),
    and ``SocketError``.
    """
    genesis = genesis_of(config.spec)
    keys = _load_keys(config, genesis, passphrase)
    identity = load_tls_identity(config.tls_key_file, passphrase)
    with SigningStore(config.database, config.spec.hash) as store:
        authority = SigningAuthority(genesis, keys, store)
        listener = open_listener(config.socket)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(SignerServer(authority, identity, config.nodes).serve, listener)
                yield authority
                nursery.cancel_scope.cancel()
        finally:
            config.socket.unlink(missing_ok=True)


def _load_keys(config: SignerConfig, genesis: Genesis, passphrase: str | None) -> list[SecretKey]:
    keys: list[SecretKey] = []
    for file in config.consensus_key_files:
        key = load_consensus_key(file, passphrase)
        if key.scheme.name != genesis.scheme.name:
            raise KeyFileError(file, f"holds a {key.scheme.name} key, and the chain signs with {genesis.scheme.name}")
        if any(key.secret_key.public_key == other.public_key for other in keys):
            raise KeyFileError(file, "holds a key that another file of this configuration holds as well")
        keys.append(key.secret_key)
    return keys
