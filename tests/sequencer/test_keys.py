"""Key files: what comes back, who may read them, and what is said about a bad one."""

from __future__ import annotations

import copy
import json
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from consensus.crypto.registry import PRODUCTION_SCHEMES, scheme_named
from consensus.genesis import ChainSpec, Reconfiguration
from consensus.validators import Validator
from sequencer.keys import (
    ConsensusKey,
    KdfCost,
    KeyFileError,
    generate_consensus_key,
    generate_governor_key,
    generate_tls_identity,
    load_consensus_key,
    load_governor_key,
    load_node_keys,
    load_tls_identity,
    write_consensus_key,
    write_governor_key,
    write_tls_identity,
)
from sequencer.transport import TlsIdentity, peer_id_of

CHEAP = KdfCost(operations=1, memory_bytes=8192)
every_scheme = pytest.mark.parametrize("scheme", PRODUCTION_SCHEMES)


def new_key(scheme: str = "ed25519") -> ConsensusKey:
    return generate_consensus_key(scheme_named(scheme))


def document(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


def rewrite(file: Path, **changes: object) -> None:
    """Change fields of a key file; None removes one."""
    changed = {key: value for key, value in {**document(file), **changes}.items() if value is not None}
    file.write_text(json.dumps(changed))


def secret_of(identity: TlsIdentity) -> bytes:
    return identity.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


# --- round trips ---------------------------------------------------------------------------------------------


@every_scheme
@pytest.mark.parametrize("passphrase", [None, "correct horse", "пароль\n"])
def test_a_consensus_key_comes_back(tmp_path: Path, scheme: str, passphrase: str | None) -> None:
    file, key = tmp_path / "consensus.json", new_key(scheme)
    write_consensus_key(file, key, passphrase, cost=CHEAP)
    loaded = load_consensus_key(file, passphrase)
    assert loaded.scheme.name == scheme
    assert loaded.secret_key.export() == key.secret_key.export()
    assert loaded.secret_key.sign(b"x") == key.secret_key.sign(b"x")


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_a_tls_identity_comes_back(tmp_path: Path, passphrase: str | None) -> None:
    file, identity = tmp_path / "tls.json", generate_tls_identity("alice")
    write_tls_identity(file, identity, passphrase, cost=CHEAP)
    loaded = load_tls_identity(file, passphrase)
    assert loaded.peer == identity.peer == peer_id_of(identity.certificate.public_key())
    assert loaded.certificate == identity.certificate
    assert secret_of(loaded) == secret_of(identity)


def test_keys_are_new_each_time() -> None:
    assert new_key().secret_key.public_key != new_key().secret_key.public_key
    assert generate_tls_identity("a").peer != generate_tls_identity("a").peer


def test_the_default_cost_is_argon2ids_moderate_one(tmp_path: Path) -> None:
    file, key = tmp_path / "consensus.json", new_key()
    write_consensus_key(file, key, "correct horse")
    encrypted = document(file)["encrypted"]
    assert (encrypted["kdf"], encrypted["operations"], encrypted["memory_bytes"]) == ("argon2id", 3, 256 * 1024 * 1024)
    assert load_consensus_key(file, "correct horse").secret_key.public_key == key.secret_key.public_key


# --- secrecy -------------------------------------------------------------------------------------------------


def test_files_are_for_their_owner_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_consensus_key(tmp_path / "consensus.json", new_key())
    write_tls_identity(tmp_path / "tls.json", generate_tls_identity("alice"))
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {
        "consensus.json": 0o600,
        "tls.json": 0o600,
    }


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644, 0o777])
def test_a_file_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "my keys" / "consensus.json"
    file.parent.mkdir()
    write_consensus_key(file, new_key())
    file.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"mode {mode:04o}\); run: chmod 600 '.*my keys/consensus.json'$"):
        load_consensus_key(file)
    file.chmod(0o400)
    load_consensus_key(file)


def test_with_a_passphrase_the_secret_is_not_in_the_file(tmp_path: Path) -> None:
    key, identity = new_key(), generate_tls_identity("alice")
    write_consensus_key(tmp_path / "consensus.json", key, "correct horse", cost=CHEAP)
    write_tls_identity(tmp_path / "tls.json", identity, "correct horse", cost=CHEAP)
    assert key.secret_key.export().hex() not in (tmp_path / "consensus.json").read_text()
    assert secret_of(identity).hex() not in (tmp_path / "tls.json").read_text()


def test_keys_show_no_secret(tmp_path: Path) -> None:
    key, identity = new_key(), generate_tls_identity("alice")
    shown = f"{key!r} {identity!r}"
    assert key.secret_key.export().hex() not in shown
    assert repr(key.secret_key.export())[2:-1] not in shown
    assert secret_of(identity).hex()[-64:] not in shown


@every_scheme
def test_errors_about_a_damaged_secret_do_not_quote_it(tmp_path: Path, scheme: str) -> None:
    file, key = tmp_path / "consensus.json", new_key(scheme)
    write_consensus_key(file, key)
    secret = key.secret_key.export().hex()
    for damaged in (secret[:-2], secret[:-1] + "g", secret + "00", "f" * 64 + "0"):
        rewrite(file, secret=damaged)
        with pytest.raises(KeyFileError, match="restore the file from a backup") as caught:
            load_consensus_key(file)
        assert secret[:16] not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_a_tls_secret_that_is_no_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tls.json"
    write_tls_identity(file, generate_tls_identity("alice"))
    rewrite(file, secret=document(file)["secret"][:-2])
    with pytest.raises(KeyFileError, match="restore the file from a backup"):
        load_tls_identity(file)


# --- refusals ------------------------------------------------------------------------------------------------


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    file, key = tmp_path / "consensus.json", new_key()
    write_consensus_key(file, key)
    with pytest.raises(KeyFileError, match="exists already and is not overwritten"):
        write_consensus_key(file, new_key())
    with pytest.raises(KeyFileError, match="exists already and is not overwritten"):
        write_tls_identity(file, generate_tls_identity("alice"))
    assert load_consensus_key(file).secret_key.public_key == key.secret_key.public_key
    assert list(tmp_path.iterdir()) == [file]


def test_passphrases_are_asked_for_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "consensus.json"
    with pytest.raises(ValueError, match="passphrase is empty"):
        write_consensus_key(file, new_key(), "")
    write_consensus_key(file, new_key(), "correct horse", cost=CHEAP)
    for absent in (None, ""):
        with pytest.raises(KeyFileError, match="is encrypted; give its passphrase"):
            load_consensus_key(file, absent)
    with pytest.raises(KeyFileError, match=r"consensus\.json: wrong passphrase"):
        load_consensus_key(file, "Correct horse")


@pytest.mark.parametrize("field", ["salt", "secretbox"])
def test_a_damaged_encrypted_secret_is_refused(tmp_path: Path, field: str) -> None:
    file = tmp_path / "consensus.json"
    write_consensus_key(file, new_key(), "correct horse", cost=CHEAP)
    intact = document(file)["encrypted"]
    last = "0" if intact[field][-1] != "0" else "1"
    for damaged, message in [
        (intact[field][:-1] + last, "wrong passphrase"),
        (intact[field][:20], "cut short"),
        ("xyz", f"encrypted.{field}: not hexadecimal"),
    ]:
        rewrite(file, encrypted={**intact, field: damaged})
        with pytest.raises(KeyFileError, match=message):
            load_consensus_key(file, "correct horse")


def test_a_file_cannot_ask_for_any_amount_of_memory_or_time(tmp_path: Path) -> None:
    file = tmp_path / "consensus.json"
    write_consensus_key(file, new_key(), "correct horse", cost=CHEAP)
    intact = document(file)["encrypted"]
    for change in ({"memory_bytes": 2**40}, {"operations": 10**9}, {"memory_bytes": 0}, {"kdf": "scrypt"}):
        rewrite(file, encrypted={**intact, **change})
        with pytest.raises(KeyFileError, match=f"not a key file: .*encrypted.{next(iter(change))}"):
            load_consensus_key(file, "correct horse")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "format version 2; this release reads 1"),
        ({"kind": "tls"}, "holds a tls key, and a consensus key is wanted"),
        ({"kind": "other"}, "not a key file"),
        ({"scheme": "rsa"}, "scheme: 'rsa' is unknown"),
        ({"scheme": "simulated"}, "scheme: 'simulated' can be forged"),
        ({"public_key": "00" * 32}, "names public key 0000.*, but its secret belongs to "),
        ({"secret": None}, "exactly one of secret and encrypted"),
        ({"surprise": 1}, "not a key file: .*surprise"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    file = tmp_path / "consensus.json"
    write_consensus_key(file, new_key())
    rewrite(file, **changes)
    with pytest.raises(KeyFileError, match=message):
        load_consensus_key(file)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 5000, b" " * 70_000])
def test_junk_is_no_key_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tls.json"
    file.write_bytes(content)
    file.chmod(0o600)
    problem = "larger than 65536 bytes, so no key file" if len(content) > 65536 else "not a key file"
    with pytest.raises(KeyFileError, match=rf"tls\.json: {problem}"):
        load_tls_identity(file)


def test_a_peer_id_of_another_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tls.json"
    write_tls_identity(file, generate_tls_identity("alice"))
    rewrite(file, public_key="00" * 32)
    with pytest.raises(KeyFileError, match=r"names public key 0000.*, but its secret belongs to "):
        load_tls_identity(file)


def test_a_certificate_of_another_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tls.json"
    write_tls_identity(file, generate_tls_identity("alice"))
    other = generate_tls_identity("bob").certificate.public_bytes(Encoding.PEM).decode()
    for certificate, message in ((other, "shows another key"), ("no certificate", "restore the file")):
        rewrite(file, certificate=certificate)
        with pytest.raises(KeyFileError, match=message):
            load_tls_identity(file)


# --- both keys against the chain -------------------------------------------------------------------------------


def chain_of(*members: tuple[ConsensusKey, TlsIdentity]) -> ChainSpec:
    return ChainSpec(
        chain_id="test",
        genesis_time_ms=0,
        protocol="jolteon",
        scheme="ed25519",
        rollups=(),
        validators=tuple(
            Validator(
                name=f"validator-{index}",
                stake=1,
                public_key=key.secret_key.public_key,
                possession_proof=key.secret_key.prove_possession(),
                peer=identity.peer,
            )
            for index, (key, identity) in enumerate(members)
        ),
    )


def test_a_nodes_keys_are_held_against_the_chain(tmp_path: Path) -> None:
    members = [(new_key(), generate_tls_identity(f"validator-{index}")) for index in range(2)]
    files = []
    for index, (key, identity) in enumerate(members):
        files.append((tmp_path / f"tls-{index}.json", tmp_path / f"consensus-{index}.json"))
        write_tls_identity(files[-1][0], identity)
        write_consensus_key(files[-1][1], key)
    spec = chain_of(*members)

    keys = load_node_keys(spec, tls_file=files[1][0], consensus_files=files[1][1:])
    assert keys.public_keys == (spec.validators[1].public_key,)

    with pytest.raises(KeyFileError, match=r"consensus-0.json: holds ed25519 key .* validator 'validator-1'"):
        load_node_keys(spec, tls_file=files[1][0], consensus_files=files[0][1:])
    with pytest.raises(
        KeyFileError, match=r"tls-1.json: is the TLS key of validator 'validator-1'; name its consensus"
    ):
        load_node_keys(spec, tls_file=files[1][0])
    with pytest.raises(KeyFileError, match=r"no validator of chain 'test' has the peer id"):
        load_node_keys(chain_of(members[0]), tls_file=files[1][0], consensus_files=files[1][1:])
    assert load_node_keys(chain_of(members[0]), tls_file=files[1][0]).consensus == ()


def test_where_validators_change_a_key_may_be_that_of_one_to_come(tmp_path: Path) -> None:
    tls_file, files = tmp_path / "tls.json", [tmp_path / "one.json", tmp_path / "two.json", tmp_path / "bls.json"]
    founder, keys = new_key(), [new_key(), new_key()]
    write_tls_identity(tls_file, generate_tls_identity("joiner"))
    for file, key in zip(files, [*keys, generate_consensus_key(scheme_named("bls"))], strict=True):
        write_consensus_key(file, key)
    spec = msgspec.structs.replace(
        chain_of((founder, generate_tls_identity("founder"))), reconfiguration=Reconfiguration()
    )
    loaded = load_node_keys(spec, tls_file=tls_file, consensus_files=files[:2])
    assert loaded.public_keys == tuple(key.secret_key.public_key for key in keys)
    with pytest.raises(KeyFileError, match=r"bls.json: holds a bls key, and chain 'test' signs with ed25519"):
        load_node_keys(spec, tls_file=tls_file, consensus_files=files)
    with pytest.raises(KeyFileError, match=r"two.json: holds key .*, as another file in keys.consensus does"):
        load_node_keys(spec, tls_file=tls_file, consensus_files=[files[1], files[1]])


def test_a_governors_key_is_no_nodes_key(tmp_path: Path) -> None:
    file, key = tmp_path / "governor.json", generate_governor_key()
    write_governor_key(file, key, "correct horse", cost=CHEAP)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_governor_key(file, "correct horse").public_key == key.public_key
    with pytest.raises(KeyFileError, match="wrong passphrase"):
        load_governor_key(file, "battery staple")
    with pytest.raises(KeyFileError, match="holds a governor key, and a consensus key is wanted"):
        load_consensus_key(file, "correct horse")
    write_consensus_key(tmp_path / "consensus.json", new_key())
    with pytest.raises(KeyFileError, match="holds a consensus key, and a governor key is wanted"):
        load_governor_key(tmp_path / "consensus.json")


def test_a_loaded_key_is_not_copied() -> None:
    with pytest.raises(TypeError, match="neither copied nor pickled"):
        copy.deepcopy(new_key())
