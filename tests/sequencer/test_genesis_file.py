"""The genesis file: a chain spec comes back from its text, and every slip is named by its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.crypto.ed25519 import Ed25519
from consensus.genesis import ChainSpec, Pacing, Reconfiguration
from consensus.validators import Validator
from sequencer.genesis import genesis_of
from sequencer.genesis_file import (
    FILE_SIZE_MAX,
    chain_spec_from_json,
    chain_spec_to_json,
    read_chain_spec,
)
from sequencer.tables import KeyPathError

KEY = Ed25519().generate(bytes(32))
VALIDATOR = Validator(
    name="validator-0", stake=3, public_key=KEY.public_key, possession_proof=KEY.prove_possession(), peer=b"\xaa" * 32
)
SPEC = ChainSpec(
    chain_id="testnet-1",
    genesis_time_ms=1_767_225_600_000,
    protocol="jolteon",
    scheme="ed25519",
    validators=(VALIDATOR,),
    rollups=(1, 7, 2**64 - 3),
    election="stake-weighted",
    pacing=Pacing(view_timeout_ms=900, idle_interval_ms=300, views_per_leader=4, exponent_max=0),
    payload_size_max=1_000_000,
    timestamp_drift_ms=50,
    checkpoint_interval=0,
    reconfiguration=Reconfiguration(
        epoch_heights=9, exit_heights=7, governors=(KEY.public_key,), concentration_percent=100
    ),
)


def changed(**changes: object) -> str:
    """The text of :data:`SPEC` with fields changed, ``...`` to remove one, and without its hash."""
    document = {**json.loads(chain_spec_to_json(SPEC)), "genesis_hash": ..., **changes}
    return json.dumps({key: value for key, value in document.items() if value is not ...})


def test_a_chain_spec_comes_back_with_its_hash() -> None:
    text = chain_spec_to_json(SPEC)
    assert chain_spec_from_json(text) == SPEC
    assert json.loads(text)["genesis_hash"] == SPEC.hash.hex()


@given(
    st.builds(
        ChainSpec,
        chain_id=st.text(min_size=1, max_size=64),
        genesis_time_ms=st.integers(0, 2**63 - 1),
        protocol=st.just("jolteon"),
        scheme=st.just("bls"),
        validators=st.lists(
            st.builds(
                Validator,
                name=st.text(min_size=1, max_size=64),
                stake=st.integers(1, 2**53),
                public_key=st.binary(min_size=1, max_size=48),
                possession_proof=st.binary(min_size=1, max_size=96),
                peer=st.binary(min_size=32, max_size=32),
            ),
            min_size=1,
            max_size=3,
        ).map(tuple),
        rollups=st.lists(st.integers(0, 2**64 - 3), max_size=4).map(tuple),
        payload_size_max=st.integers(1, 2**53),
        deduplication_heights=st.integers(1, 2**53),
        checkpoint_interval=st.integers(0, 2**63 - 1),
        reconfiguration=st.none()
        | st.builds(
            Reconfiguration,
            epoch_heights=st.integers(1, 2**53),
            activation_heights=st.integers(0, 2**53),
            exit_heights=st.integers(0, 2**53),
            governors=st.lists(st.binary(min_size=32, max_size=32), max_size=3).map(tuple),
            governors_needed=st.integers(1, 64),
            concentration_percent=st.integers(1, 100),
        ),
    )
)
def test_every_chain_spec_comes_back(spec: ChainSpec) -> None:
    assert chain_spec_from_json(chain_spec_to_json(spec)) == spec


def test_what_has_a_default_may_be_left_out() -> None:
    optional = ("election", "pacing", "payload_size_max", "transaction_size_max", "deduplication_heights")
    spec = chain_spec_from_json(
        changed(**dict.fromkeys(optional, ...), timestamp_drift_ms=..., checkpoint_interval=..., reconfiguration=...)
    )
    assert spec == ChainSpec(
        chain_id=SPEC.chain_id,
        genesis_time_ms=SPEC.genesis_time_ms,
        protocol=SPEC.protocol,
        scheme=SPEC.scheme,
        validators=SPEC.validators,
        rollups=SPEC.rollups,
    )


def test_a_changed_file_is_noticed_by_its_hash() -> None:
    with pytest.raises(
        KeyPathError, match=r"genesis_hash: this names .*, but the content hashes to .* delete this line"
    ):
        chain_spec_from_json(changed(genesis_hash=SPEC.hash.hex(), timestamp_drift_ms=51))


ENTRY = json.loads(chain_spec_to_json(SPEC))["validators"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chain_id": ...}, "^chain_id: missing"),
        ({"chain_id": ""}, "^chain_id: expected a text"),
        ({"chain_id": "x" * 65}, "^chain_id: longer than 64"),
        ({"genesis_time_ms": "now"}, "^genesis_time_ms: expected a whole number, not 'now'"),
        ({"genesis_time_ms": 1.5}, "^genesis_time_ms: expected a whole number"),
        ({"genesis_time_ms": 2**63}, "^genesis_time_ms: must be from 0 to"),
        ({"rollups": 7}, "^rollups: expected a list"),
        ({"rollups": [1, True]}, r"^rollups\[1\]: expected a rollup id"),
        ({"rollups": [-1]}, r"^rollups\[0\]: expected a rollup id"),
        ({"rollups": [2**64 - 2]}, r"^rollups\[0\]: expected a rollup id"),
        ({"checkpoint_interval": -1}, "^checkpoint_interval: must be from 0 to"),
        ({"reconfiguration": None}, "^reconfiguration: missing"),
        ({"reconfiguration": []}, "^reconfiguration: expected a table, not a list"),
        ({"reconfiguration": {"epoch_heights": 0}}, "^reconfiguration.epoch_heights: must be from 1 to"),
        ({"reconfiguration": {"activation_heights": 2**53 + 1}}, "^reconfiguration.activation_heights: must be"),
        ({"reconfiguration": {"exit_heights": -1}}, "^reconfiguration.exit_heights: must be from 0 to"),
        ({"reconfiguration": {"governors_needed": 65}}, "^reconfiguration.governors_needed: must be from 1 to 64"),
        ({"reconfiguration": {"concentration_percent": 0}}, "^reconfiguration.concentration_percent: must be from 1"),
        ({"reconfiguration": {"governors": "ab"}}, "^reconfiguration.governors: expected a list"),
        ({"reconfiguration": {"governors": ["ab"]}}, r"^reconfiguration.governors\[0\]: must have 32 bytes"),
        ({"reconfiguration": {"governors": [5]}}, r"^reconfiguration.governors\[0\]: expected lower-case hex"),
        ({"reconfiguration": {"governors": ["ab" * 32] * 65}}, "^reconfiguration.governors: 65 of them, more than 64"),
        ({"reconfiguration": {"epochs": 1}}, "^reconfiguration.epochs: unknown key; known here are activation_heights"),
        ({"rollups": list(range(4097))}, "^the document: not a chain spec: .*4096"),
        ({"pacing": {"view_timeout": 5}}, "^pacing.view_timeout: unknown key; known here are exponent_max, "),
        ({"pacing": {"view_timeout_ms": 0}}, "^pacing.view_timeout_ms: must be from 1"),
        ({"pacing": {"exponent_max": 65}}, "^pacing.exponent_max: must be from 0 to 64"),
        ({"pacing": []}, "^pacing: expected a table, not a list"),
        ({"payload_size_max": 0}, "^payload_size_max: must be from 1"),
        ({"colour": "red"}, "^colour: unknown key"),
        ({"validators": []}, "^the document: not a chain spec"),
        ({"validators": [ENTRY, 5]}, r"^validators\[1\]: expected a table, not 5"),
        ({"validators": [{**ENTRY, "stake": 0}]}, r"^validators\[0\].stake: must be from 1"),
        ({"validators": [{**ENTRY, "peer": "ab"}]}, r"^validators\[0\].peer: must have 32 bytes \(64 digits\), not 1"),
        ({"validators": [{**ENTRY, "public_key": "0xab"}]}, r"^validators\[0\].public_key: expected lower-case hex"),
        ({"validators": [{**ENTRY, "public_key": "AB"}]}, r"^validators\[0\].public_key: expected lower-case hex"),
        ({"validators": [{**ENTRY, "public_key": "ab" * 49}]}, "^the document: not a chain spec: .*48"),
        ({"validators": [{**ENTRY, "vote": 1}]}, r"^validators\[0\].vote: unknown key"),
        ({"genesis_hash": "ab"}, "^genesis_hash: must have 32 bytes"),
    ],
)
def test_errors_name_the_key(changes: dict[str, object], message: str) -> None:
    with pytest.raises(KeyPathError, match=message):
        chain_spec_from_json(changed(**changes))


@pytest.mark.parametrize("text", ["", "{", "[1]", "nonsense", "[" * 100_000, b"\xff\xff"])
def test_what_is_no_table_is_refused(text: str | bytes) -> None:
    with pytest.raises(KeyPathError, match=r"^the document: "):
        chain_spec_from_json(text)


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    file = tmp_path / "genesis.json"
    file.write_text(chain_spec_to_json(SPEC))
    assert read_chain_spec(file) == SPEC
    file.write_bytes(b" " * (FILE_SIZE_MAX + 1))
    with pytest.raises(KeyPathError, match=f"larger than {FILE_SIZE_MAX} bytes"):
        read_chain_spec(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "paxos"}, "protocol: 'paxos' is unknown"),
        ({"scheme": "simulated"}, "scheme: 'simulated' can be forged"),
        ({"election": "lottery"}, "election: 'lottery'"),
        ({"rollups": [2, 1]}, "rollups: ids must be ascending"),
        ({"reconfiguration": {"governors": ["00" * 32]}}, r"reconfiguration.governors\[0\]: 0000.* is no Ed25519"),
        ({"reconfiguration": {"concentration_percent": 99}}, r"validators\[0\] \(validator-0\): holds 3 of 3 stake"),
        ({"validators": [{**ENTRY, "possession_proof": "00" * 64}]}, r"validators\[0\] \(validator-0\): public key or"),
    ],
)
def test_content_that_cannot_run_is_refused(changes: dict[str, Any], message: str) -> None:
    genesis_of(SPEC)
    with pytest.raises(ValueError, match=message):
        genesis_of(chain_spec_from_json(changed(**changes)))
