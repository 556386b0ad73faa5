"""Keys and their files: a node's consensus keys, which sign votes (two while one follows the other), its TLS key, which
names it to its peers, and the governors' keys, which approve changes of the validators and belong on no node.

A key file is one JSON object, readable by its owner alone (mode 0600), written once and never overwritten::

    {
      "version": 1,
      "kind": "consensus",            or "tls", or "governor"
      "scheme": "ed25519",            the signature scheme; always this for governors; for kind tls: "x509"
      "public_key": "…",              hexadecimal; for kind tls: the peer id
      "certificate": "-----BEGIN …",  kind tls only: the self-signed certificate, PEM
      "secret": "…"                   hexadecimal: what SecretKey.export gives; for kind tls the PKCS #8 key, DER
    }

With a passphrase, ``secret`` gives way to ``encrypted``: the same bytes in a libsodium secretbox (XSalsa20-Poly1305,
nonce first) under the key that argon2id derives from the passphrase in UTF-8::

      "encrypted": {"kdf": "argon2id", "operations": 3, "memory_bytes": 268435456, "salt": "…", "secretbox": "…"}

The public half is not secret and not trusted: a file whose secret belongs to another public key is refused.
"""

from __future__ import annotations

import datetime
import os
import secrets
import shlex
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from msgspec import Meta
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.secret import SecretBox

from consensus.crypto.ed25519 import Ed25519
from consensus.crypto.registry import scheme_named
from consensus.crypto.scheme import Scheme, SecretKey
from consensus.genesis import ChainSpec
from sequencer.durable import sync_directory
from sequencer.transport import TlsIdentity

FORMAT_VERSION: Final = 1
FILE_SIZE_MAX: Final = 64 * 1024
CONSENSUS_KEYS_MAX: Final = 8
"""Consensus keys of one node: one, and while keys change the next."""
_X509: Final = "x509"
_Kind: TypeAlias = Literal["consensus", "tls", "governor"]


class KeyFileError(Exception):
    """A key file cannot be used. The message names the file, the reason, and what to do; never a secret."""

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file}: {problem}")


@dataclass(frozen=True)
class ConsensusKey:
    """A validator's key and the scheme it is for."""

    scheme: Scheme
    secret_key: SecretKey


@dataclass(frozen=True, kw_only=True)
class NodeKeys:
    """What a node starts with. An observer has no consensus key. Which of several keys signs, if any, is said by the
    validators of the epoch. ``remote`` are the public keys that a signing process holds for this node."""

    tls: TlsIdentity
    consensus: tuple[ConsensusKey, ...]
    remote: tuple[bytes, ...] = ()

    @property
    def public_keys(self) -> tuple[bytes, ...]:
        """Of the consensus keys, wherever they are."""
        return (*(key.secret_key.public_key for key in self.consensus), *self.remote)


class KdfCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one guess at a passphrase costs: argon2id's passes and bytes of memory."""

    operations: Annotated[int, Meta(ge=1, le=16)] = argon2id.OPSLIMIT_MODERATE
    memory_bytes: Annotated[int, Meta(ge=8192, le=2**30)] = argon2id.MEMLIMIT_MODERATE


class _Encrypted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kdf: Literal["argon2id"]
    operations: Annotated[int, Meta(ge=1, le=16)]
    memory_bytes: Annotated[int, Meta(ge=8192, le=2**30)]
    salt: str
    secretbox: str


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    version: int
    kind: _Kind
    scheme: str
    public_key: str
    certificate: str | None = None
    secret: str | None = None
    encrypted: _Encrypted | None = None

    def __repr__(self) -> str:
        return f"_Document(kind={self.kind}, public_key={self.public_key})"


# --- making keys ---------------------------------------------------------------------------------------------


def generate_consensus_key(scheme: Scheme) -> ConsensusKey:
    """A new key from the system's entropy."""
    return ConsensusKey(scheme, scheme.generate(secrets.token_bytes(32)))


def generate_governor_key() -> SecretKey:
    """A new Ed25519 key from the system's entropy."""
    return Ed25519().generate(secrets.token_bytes(32))


def generate_tls_identity(name: str) -> TlsIdentity:
    """A new Ed25519 key and a self-signed certificate that shows it under ``name`` (at most 64 characters).

    The certificate never expires: peers pin the key and read nothing else.
    """
    key = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))  # RFC 5280, 4.1.2.5: no well-defined end
        .sign(key, None)
    )
    return TlsIdentity(certificate, key)


# --- files ---------------------------------------------------------------------------------------------------


def write_consensus_key(
    file: Path, key: ConsensusKey, passphrase: str | None = None, *, cost: KdfCost | None = None
) -> None:
    """Write ``key`` to a new file, encrypted when a passphrase is given. Raises :class:`KeyFileError` when the file
    exists, ``OSError`` when it cannot be written."""
    _write_key(file, "consensus", key, passphrase, cost)


def write_governor_key(
    file: Path, key: SecretKey, passphrase: str | None = None, *, cost: KdfCost | None = None
) -> None:
    """Write a governor's ``key`` to a new file, as :func:`write_consensus_key` does."""
    _write_key(file, "governor", ConsensusKey(Ed25519(), key), passphrase, cost)


def _write_key(file: Path, kind: _Kind, key: ConsensusKey, passphrase: str | None, cost: KdfCost | None) -> None:
    document = _Document(
        version=FORMAT_VERSION, kind=kind, scheme=key.scheme.name, public_key=key.secret_key.public_key.hex()
    )
    _write(file, _with_secret(document, key.secret_key.export(), passphrase, cost or KdfCost()))


def write_tls_identity(
    file: Path, identity: TlsIdentity, passphrase: str | None = None, *, cost: KdfCost | None = None
) -> None:
    """Write ``identity`` to a new file, as :func:`write_consensus_key` does."""
    document = _Document(
        version=FORMAT_VERSION,
        kind="tls",
        scheme=_X509,
        public_key=identity.peer.hex(),
        certificate=identity.certificate.public_bytes(Encoding.PEM).decode(),
    )
    secret = identity.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    _write(file, _with_secret(document, secret, passphrase, cost or KdfCost()))


def load_consensus_key(file: Path, passphrase: str | None = None) -> ConsensusKey:
    """The key in ``file``. Raises :class:`KeyFileError`, and ``OSError`` when it cannot be read."""
    return _load_key(file, "consensus", passphrase)


def load_governor_key(file: Path, passphrase: str | None = None) -> SecretKey:
    """The governor's key in ``file``. Raises as :func:`load_consensus_key` does."""
    key = _load_key(file, "governor", passphrase)
    if key.scheme.name != Ed25519.name:
        raise KeyFileError(file, f"a governor signs with {Ed25519.name}, and this key is for {key.scheme.name}")
    return key.secret_key


def _load_key(file: Path, kind: _Kind, passphrase: str | None) -> ConsensusKey:
    document = _read(file, kind)
    try:
        scheme = scheme_named(document.scheme)
    except ValueError as error:
        raise KeyFileError(file, str(error)) from None
    try:
        key = scheme.load(_secret_of(file, document, passphrase))
    except ValueError as error:  # says what is wrong with the secret, not what it is
        raise KeyFileError(file, f"{error}; restore the file from a backup") from None
    _check_public(file, document, key.public_key)
    return ConsensusKey(scheme, key)


def load_tls_identity(file: Path, passphrase: str | None = None) -> TlsIdentity:
    """The identity in ``file``. Raises :class:`KeyFileError`, and ``OSError`` when it cannot be read."""
    document = _read(file, "tls")
    secret = _secret_of(file, document, passphrase)
    try:
        key = load_der_private_key(secret, None)
        if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
            raise ValueError("the TLS key must be an Ed25519 or an elliptic curve key")
        identity = TlsIdentity(x509.load_pem_x509_certificate((document.certificate or "").encode()), key)
    except (ValueError, TypeError) as error:
        raise KeyFileError(file, f"{error}; restore the file from a backup") from None
    _check_public(file, document, identity.peer)
    return identity


def load_node_keys(
    spec: ChainSpec,
    *,
    tls_file: Path,
    consensus_files: Sequence[Path] = (),
    remote_keys: tuple[bytes, ...] = (),
    passphrase: str | None = None,
) -> NodeKeys:
    """All keys of a node; ``remote_keys`` are public ones, held by its signing process. Where the validators never
    change they must be those of one entry of the chain spec; where they do, a key may be that of a validator to come.

    Raises :class:`KeyFileError`, and ``OSError`` when a file cannot be read.
    """
    tls = load_tls_identity(tls_file, passphrase)
    keys: dict[bytes, ConsensusKey] = {}
    for file in consensus_files:
        key = load_consensus_key(file, passphrase)
        public_key = key.secret_key.public_key
        if key.scheme.name != spec.scheme:
            raise KeyFileError(
                file, f"holds a {key.scheme.name} key, and chain {spec.chain_id!r} signs with {spec.scheme}"
            )
        if public_key in keys:
            raise KeyFileError(file, f"holds key {public_key.hex()}, as another file in keys.consensus does; name one")
        keys[public_key] = key
    if spec.reconfiguration is None:
        _check_fixed(spec, tls, tls_file, (*keys, *remote_keys), consensus_files)
    return NodeKeys(tls=tls, consensus=tuple(keys.values()), remote=remote_keys)


def _check_fixed(
    spec: ChainSpec,
    tls: TlsIdentity,
    tls_file: Path,
    public_keys: Sequence[bytes],
    consensus_files: Sequence[Path],
) -> None:
    """Validators that never change: this node is one of them, or has no key."""
    validator = next((validator for validator in spec.validators if validator.peer == tls.peer), None)
    if validator is None:
        if public_keys:
            raise KeyFileError(tls_file, f"no validator of chain {spec.chain_id!r} has the peer id {tls.peer.hex()}")
        return
    if not public_keys:
        raise KeyFileError(
            tls_file,
            f"is the TLS key of validator {validator.name!r}; name its consensus key in keys.consensus, or its signing "
            "process in [signer]",
        )
    if validator.public_key not in public_keys:
        if not consensus_files:
            raise KeyFileError(
                tls_file,
                f"is the TLS key of validator {validator.name!r}, which signs with key {validator.public_key.hex()}; "
                "name that in signer.public_keys",
            )
        raise KeyFileError(
            consensus_files[0],
            f"holds {spec.scheme} key {public_keys[0].hex()}, but validator {validator.name!r} of chain "
            f"{spec.chain_id!r} signs with key {validator.public_key.hex()}",
        )


# --- the format ----------------------------------------------------------------------------------------------


def _with_secret(document: _Document, secret: bytes, passphrase: str | None, cost: KdfCost) -> _Document:
    if passphrase is None:
        return msgspec.structs.replace(document, secret=secret.hex())
    if not passphrase:
        raise ValueError("the passphrase is empty; give one, or None for a file that is not encrypted")
    salt = secrets.token_bytes(argon2id.SALTBYTES)
    box = SecretBox(_derive(passphrase, salt, cost.operations, cost.memory_bytes))
    encrypted = _Encrypted(
        kdf="argon2id",
        operations=cost.operations,
        memory_bytes=cost.memory_bytes,
        salt=salt.hex(),
        secretbox=bytes(box.encrypt(secret)).hex(),
    )
    return msgspec.structs.replace(document, encrypted=encrypted)


def _derive(passphrase: str, salt: bytes, operations: int, memory_bytes: int) -> bytes:
    return argon2id.kdf(SecretBox.KEY_SIZE, passphrase.encode(), salt, opslimit=operations, memlimit=memory_bytes)


def _secret_of(file: Path, document: _Document, passphrase: str | None) -> bytes:
    if document.encrypted is None:
        return _digits(file, "secret", document.secret or "")
    if not passphrase:
        raise KeyFileError(file, "the key is encrypted; give its passphrase")
    encrypted = document.encrypted
    salt = _digits(file, "encrypted.salt", encrypted.salt)
    sealed = _digits(file, "encrypted.secretbox", encrypted.secretbox)
    if len(salt) != argon2id.SALTBYTES or len(sealed) <= SecretBox.NONCE_SIZE + SecretBox.MACBYTES:
        raise KeyFileError(file, "the encrypted secret is cut short; restore the file from a backup")
    try:
        return SecretBox(_derive(passphrase, salt, encrypted.operations, encrypted.memory_bytes)).decrypt(sealed)
    except CryptoError:
        raise KeyFileError(file, "wrong passphrase (or the file is damaged)") from None


def _digits(file: Path, key: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:  # whose message would quote the text
        raise KeyFileError(file, f"{key}: not hexadecimal digits; restore the file from a backup") from None


def _check_public(file: Path, document: _Document, public_key: bytes) -> None:
    if document.public_key != public_key.hex():
        raise KeyFileError(
            file, f"names public key {document.public_key[:96]}, but its secret belongs to {public_key.hex()}"
        )


def _read(file: Path, kind: _Kind) -> _Document:
    with file.open("rb") as source:
        status = os.fstat(source.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(file, "not a file")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise KeyFileError(
                file, f"other users may read or write it (mode {mode:04o}); run: chmod 600 {shlex.quote(str(file))}"
            )
        text = source.read(FILE_SIZE_MAX + 1)
    if len(text) > FILE_SIZE_MAX:
        raise KeyFileError(file, f"larger than {FILE_SIZE_MAX} bytes, so no key file")
    try:
        document = msgspec.json.decode(text, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(file, f"not a key file: {error}") from None
    if document.version != FORMAT_VERSION:
        raise KeyFileError(file, f"has format version {document.version}; this release reads {FORMAT_VERSION}")
    if document.kind != kind:
        raise KeyFileError(file, f"holds a {document.kind} key, and a {kind} key is wanted")
    if (document.secret is None) == (document.encrypted is None):
        raise KeyFileError(file, "must have exactly one of secret and encrypted")
    return document


def _write(file: Path, document: _Document) -> None:
    """Durably, under its name only when complete, and never over another file: a key that is overwritten is lost."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    text = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as target:
            target.write(text)
            target.flush()
            os.fsync(target.fileno())
        os.link(temporary, file)  # unlike a rename it fails when the name is taken
    except FileExistsError:
        raise KeyFileError(file, "exists already and is not overwritten; move it away first") from None
    finally:
        temporary.unlink()
    sync_directory(file.parent)
