"""States, receipts, blocks and sections over the real server, in both forms; health, readiness, metrics."""

from __future__ import annotations

import msgspec
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from consensus.epochs import EpochChange
from consensus.finality.proof import FinalityProof
from consensus.genesis import SYSTEM_ROLLUP
from consensus.reconfiguration import ChangeAccepted, ChangeIgnored, ChangeOutcome
from sequencer.api.limits import ApiLimits
from sequencer.block_summary import BlockSummary
from sequencer.body import EMPTY_PAYLOAD
from sequencer.epoch_changes import EpochChanges
from sequencer.membership import PendingChange
from sequencer.receipts import Receipt, Section, VerificationError
from sequencer.transactions import Level, Position, TransactionStatus, transaction_id
from tests.sequencer.api.fake_node import FakeAdapter, FakeNode, chain_spec, served

PACKED = {"accept": "application/msgpack"}


async def with_blocks() -> FakeNode:
    """Block 1 holds nothing, block 2 three transactions of rollup 3 and one of rollup 7."""
    node = FakeNode()
    await node.order()
    node.submit_batch(3, [(0, b"a"), (0, b"b"), (5, b"c")])
    node.submit_batch(7, [(0, b"z")])
    await node.order()
    return node


async def test_a_transaction_climbs_the_ladder() -> None:
    async with served() as api:
        identifier = transaction_id(3, 0, b"x").hex()
        path = f"/v1/transactions/{identifier}"
        assert (await api.http.get(path)).json() == {"transaction_id": identifier, "level": "unknown", "position": None}
        await api.submit(b"x")
        assert (await api.http.get(path, params={"proof": 1})).json()["level"] == "pending"
        await api.node.order()
        confirmed = (await api.http.get(f"/v1/transactions/0x{identifier}")).json()
        position = {"rollup_id": 3, "height": 1, "index": 0}
        assert confirmed == {"transaction_id": identifier, "level": "confirmed", "position": position}
        for _ in range(3):
            await api.node.order()
        await api.node.finalize(2)
        final = (await api.http.get(path)).json()
        assert final == {"transaction_id": identifier, "level": "final", "position": position}


async def test_a_receipt_verifies_in_both_forms() -> None:
    async with served(await with_blocks()) as api:
        path = f"/v1/transactions/{transaction_id(3, 5, b'c').hex()}?proof=1"
        plain = Receipt.from_json(msgspec.json.encode((await api.http.get(path)).json()["receipt"]))
        packed = Receipt.from_bytes(
            msgspec.msgpack.decode((await api.http.get(path, headers=PACKED)).content)["receipt"]
        )
        assert isinstance(plain, Receipt)
        assert plain == packed
        plain.verify(api.node.genesis)
        assert plain.position == msgspec.structs.replace(plain.position, height=2, index=2)


async def finalized() -> FakeNode:
    """As :func:`with_blocks`, up to height 4; final is 2."""
    node = await with_blocks()
    await node.order()
    await node.order()
    await node.finalize(2)
    return node


async def test_a_receipt_proves_finality_when_it_is_asked_to() -> None:
    async with served(await finalized()) as api:
        path = f"/v1/transactions/{transaction_id(3, 5, b'c').hex()}?proof="
        confirmed, final = [(await api.http.get(path + proof)).json() for proof in ("1", "final")]
        assert (confirmed["level"], final["level"]) == ("final", "final")
        assert confirmed["receipt"]["finality"] is None
        receipt = Receipt.from_json(msgspec.json.encode(final["receipt"]))
        packed = Receipt.from_bytes(
            msgspec.msgpack.decode((await api.http.get(path + "final", headers=PACKED)).content)["receipt"]
        )
        assert isinstance(receipt, Receipt)
        assert receipt == packed
        assert receipt.level == Level.FINAL
        receipt.verify(api.node.genesis)


async def test_waiting_for_final_answers_when_it_is() -> None:
    async with served(await with_blocks()) as api:
        path = f"/v1/transactions/{transaction_id(3, 5, b'c').hex()}?wait=final&timeout_ms="
        waiting = await api.http.get(path + "1")
        assert (waiting.status_code, waiting.json()["level"]) == (202, "confirmed")
        await api.node.order()
        await api.node.order()
        await api.node.finalize(2)
        answered = await api.http.get(path + "1000")
        assert (answered.status_code, answered.json()["level"]) == (200, "final")
        refused = await api.http.get(path.replace("final", "settled") + "1")
        assert (refused.status_code, refused.json()["error"]["where"]) == (400, "wait")
    spec = msgspec.structs.replace(chain_spec(), checkpoint_interval=0)
    async with served(FakeNode(spec)) as api:
        await api.submit(b"x")
        await api.node.order()
        never = await api.http.get(f"/v1/transactions/{transaction_id(3, 0, b'x').hex()}?wait=final")
        assert (never.status_code, never.json()["error"]["code"]) == (422, "no_checkpoints")


async def test_no_rung_is_claimed_that_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients take a node that says ``confirmed`` and shows no receipt for a liar. It is confirmed just when somebody
    asks."""
    async with served() as api:
        original = api.node.receipt

        async def just_before(transaction: bytes, level: Level = Level.CONFIRMED) -> Receipt | None:
            found = await original(transaction, level)
            await api.node.order()
            return found

        monkeypatch.setattr(api.node, "receipt", just_before)
        for data, proof in ((b"x", "1"), (b"y", "final")):
            await api.submit(data)
            path = f"/v1/transactions/{transaction_id(3, 0, data).hex()}"
            shown = (await api.http.get(path, params={"proof": proof})).json()
            assert shown["level"] == "pending" or "receipt" in shown


async def test_what_is_confirmed_as_the_wait_ends_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receipt was still being read."""
    async with served() as api:

        async def slow(transaction: bytes, level: Level = Level.CONFIRMED) -> Receipt:
            await trio.sleep_forever()
            raise AssertionError

        monkeypatch.setattr(api.node, "wait", slow)
        await api.submit(b"x")
        path = f"/v1/transactions/{transaction_id(3, 0, b'x').hex()}"
        early = await api.http.get(path, params={"wait": "confirmed", "timeout_ms": 1})
        assert (early.status_code, early.json()["level"], "receipt" in early.json()) == (202, "pending", False)
        await api.node.order()
        for rung, status in (("confirmed", 200), ("final", 202)):
            answered = await api.http.get(path, params={"wait": rung, "timeout_ms": 1})
            assert (answered.status_code, "receipt" in answered.json()) == (status, status == 200)


async def test_the_proof_that_a_block_is_final() -> None:
    async with served(await finalized()) as api:
        blocks = (await api.http.get("/v1/blocks")).json()
        assert [block["level"] for block in blocks] == ["final", "final", "confirmed", "confirmed"]
        answered = await api.http.get("/v1/finality/1", headers=PACKED)
        proof = msgspec.msgpack.decode(answered.content, type=FinalityProof)
        header = (await api.node.block(1)).header
        assert api.node.genesis.verify_finality(proof, header) is None
        refused = await api.http.get("/v1/finality/3")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_final")
        assert "final are those up to 2" in refused.json()["error"]["message"]
        assert "sequencer_final_height 2.0" in (await api.http.get("/metrics")).text


async def test_a_section_verifies_in_both_forms() -> None:
    async with served(await with_blocks()) as api:
        for rollup_id, expected in ((3, (b"a", b"b", b"c")), (7, (b"z",)), (2**64 - 3, ())):
            path = f"/v1/rollups/{rollup_id}/sections/2"
            plain = Section.from_json((await api.http.get(path)).content)
            packed = Section.from_bytes((await api.http.get(path, headers=PACKED)).content)
            assert isinstance(plain, Section)
            assert plain == packed
            plain.verify(api.node.genesis)
            assert plain.transactions == expected


async def test_blocks_name_their_sections() -> None:
    async with served(await with_blocks()) as api:
        one = (await api.http.get("/v1/blocks/2")).json()
        assert one["header"]["height"] == 2
        assert [(leaf["rollup_id"], leaf["count"]) for leaf in one["sections"]] == [(3, 3), (7, 1)]
        packed = BlockSummary.from_bytes((await api.http.get("/v1/blocks/2", headers=PACKED)).content)
        assert isinstance(packed, BlockSummary)
        packed.verify(api.node.genesis)
        assert packed.block_id.hex() == one["block_id"]
        with pytest.raises(VerificationError, match="sections"):
            msgspec.structs.replace(packed, sections=packed.sections[:1]).verify(api.node.genesis)


@pytest.mark.parametrize(
    ("query", "heights"),
    [
        ("", [1, 2]),
        ("?limit=1", [2]),
        ("?from=1&limit=1", [1]),
        ("?from=0", [1, 2]),
        ("?from=2", [2]),
        ("?from=3", []),
        ("?limit=0", []),
    ],
)
async def test_a_run_of_blocks(query: str, heights: list[int]) -> None:
    async with served(await with_blocks()) as api:
        response = await api.http.get(f"/v1/blocks{query}")
        assert [each["header"]["height"] for each in response.json()] == heights


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/blocks/1", 410, "pruned"),
        ("/v1/blocks?from=1", 410, "pruned"),
        ("/v1/rollups/3/sections/1", 410, "pruned"),
        ("/v1/rollups/3/stream?from_height=1", 410, "pruned"),
        ("/v1/blocks/1100", 404, "not_available"),
        ("/v1/rollups/4/sections/2", 404, "unknown_rollup"),
        ("/v1/rollups/4/stream", 404, "unknown_rollup"),
        ("/v1/blocks/x", 400, "bad_parameter"),
        ("/v1/blocks?limit=101", 400, "bad_parameter"),
        ("/v1/transactions/00", 400, "bad_parameter"),
        (f"/v1/transactions/{'00' * 32}?proof=yes", 400, "bad_parameter"),
        (f"/v1/transactions/{'zz' * 32}", 400, "bad_parameter"),
        ("/v1/rollups/3/stream?encoding=xml", 400, "bad_parameter"),
        ("/nothing", 404, "no_route"),
        ("/health", 405, "method_not_allowed"),
    ],
)
async def test_refusals_have_one_shape(path: str, status: int, code: str) -> None:
    node = FakeNode()
    for _ in range(1030):  # more than the ledger keeps in memory
        node.store.rows.append((node.next_block_cheaply(), b""))
    await node.ledger.restore()
    node.store.pruned_below = 2
    async with served(node) as api:
        send = api.http.delete if status == 405 else api.http.get
        response = await send(path)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert set(response.json()) == {"error"}
        if code == "pruned":
            assert "pruned below 2" in response.json()["error"]["message"]


async def test_the_chain_and_the_status_speak_for_the_node() -> None:
    async with served(await with_blocks()) as api:
        chain = (await api.http.get("/v1/chain")).json()
        assert chain["genesis_hash"] == api.node.spec.hash.hex()
        assert chain["spec"]["rollups"][-1] == 2**64 - 3
        api.node.adapters[3] = FakeAdapter()
        api.node.connected = 2
        status = (await api.http.get("/v1/status")).json()
        assert (status["name"], status["role"], status["ledger_height"]) == ("validator-0", "validator", 2)
        assert [each.get("connected") for each in status["validators"]] == [None, True, True, False]
        assert status["validators"][3]["last_reason"] == "timed out"
        assert status["adapters"][0]["adapter"] == "fake"
        assert [rung["level"] for rung in status["ladder"] if rung["given"]] == ["pending", "confirmed", "final"]


async def test_ready_looks_at_what_was_seen_and_never_at_what_stale_peers_applied() -> None:
    async with served(limits=ApiLimits(ready_lag_heights_max=5)) as api:
        node = api.node
        assert (await api.http.get("/ready")).status_code == 200
        node.seen_ahead = 5
        assert (await api.http.get("/ready")).status_code == 200
        node.seen_ahead = 6
        response = await api.http.get("/ready")
        assert response.status_code == 503
        assert "6 was seen" in response.json()["reasons"][0]
        node.seen_ahead, node.connected = 0, 1
        assert "stake 2 of 4, 3 are needed" in (await api.http.get("/ready")).json()["reasons"][0]
        node.connected, node.pruned_below = 3, 40
        assert "nothing below 40" in (await api.http.get("/ready")).json()["reasons"][0]
        assert (await api.http.get("/health")).json() == {"status": "alive", "name": "validator-0"}
        assert not (await api.http.get("/v1/status")).json()["ready"]


async def test_ready_says_what_is_pruned() -> None:
    node = await with_blocks()
    node.store.pruned_below = 2
    async with served(node) as api:
        response = await api.http.get("/ready")
        assert (response.status_code, response.json()["history"]) == (200, "pruned below 2")


async def test_metrics_parse_and_count() -> None:
    async with served(await with_blocks()) as api:
        api.node.adapters[3] = FakeAdapter()
        await api.submit(b"x")
        await api.submit(b"x" * 5000)
        await api.http.get("/nothing")
        response = await api.http.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        values = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }
        assert values["sequencer_ledger_height",] == 2
        assert values["sequencer_mempool_transactions", "3"] == 1
        assert values["sequencer_api_transactions_total", "taken"] == 1
        assert values["sequencer_api_requests_total", "202", "submit"] == 1
        assert values["sequencer_api_requests_total", "413", "submit"] == 1
        assert values["sequencer_adapter_alive", "3", "fake"] == 1
        assert values["sequencer_peer_connected", "01" * 8, "validator"] == 1


# --- validators that change ------------------------------------------------------------------------------------------


def epoch_change(node: FakeNode, epoch: int) -> EpochChange:
    """Of the right shape; whether it proves anything is for verifiers."""
    made, proof = node.next_block(EMPTY_PAYLOAD)
    header = msgspec.structs.replace(made.header, epoch=epoch - 1)
    return EpochChange(boundary=header, validators=node.spec.validators, proof=proof)


async def test_changes_of_epochs_are_served_in_both_forms() -> None:
    async with served() as api:
        empty = EpochChanges.from_json((await api.http.get("/v1/epochs")).content)
        assert empty == EpochChanges(chain=api.node.spec.hash, newest=0, changes=())
        changes = api.node.changes = [epoch_change(api.node, epoch) for epoch in (1, 2, 3)]
        for query, expected in (("", changes), ("?from=0", changes), ("?from=3", changes[2:]), ("?from=4", [])):
            path = f"/v1/epochs{query}"
            plain = EpochChanges.from_json((await api.http.get(path)).content)
            packed = EpochChanges.from_bytes((await api.http.get(path, headers=PACKED)).content)
            assert isinstance(plain, EpochChanges)
            assert plain == packed
            assert (plain.newest, list(plain.changes)) == (3, expected)
        assert (await api.http.get("/v1/epochs?from=x")).json()["error"]["where"] == "from"


async def test_the_status_shows_the_validators_and_what_will_change() -> None:
    node = FakeNode()
    change = PendingChange(
        kind="joins",
        name="anna",
        operator="anna & co",
        public_key=b"\x01" * 32,
        next_public_key=b"",
        stake=5,
        effective_at=64,
    )
    node.pending_changes.append(change)
    async with served(node) as api:
        status = (await api.http.get("/v1/status")).json()
        assert (status["epoch"], status["epoch_began_after"], status["role"]) == (0, 0, "validator")
        assert [each["public_key"] for each in status["validators"]] == [
            each.public_key.hex() for each in node.spec.validators
        ]
        assert status["held_keys"] == [node.spec.validators[0].public_key.hex()]
        assert status["pending_changes"] == [
            {
                "kind": "joins",
                "name": "anna",
                "operator": "anna & co",
                "public_key": "01" * 32,
                "next_public_key": "",
                "stake": 5,
                "effective_at": 64,
            }
        ]
        families = {each.name: each for each in text_string_to_metric_families((await api.http.get("/metrics")).text)}
        values = {name: families[f"sequencer_{name}"].samples[0].value for name in ("validators", "validators_stake")}
        assert values == {"validators": 4, "validators_stake": 4}
        assert families["sequencer_validator_changes_pending"].samples[0].value == 1
        assert families["sequencer_validator"].samples[0].value == 1


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (ChangeAccepted(effective_at=64), {"accepted": True, "effective_at": 64}),
        (ChangeIgnored(reason="the name is taken"), {"accepted": False, "reason": "the name is taken"}),
    ],
)
async def test_what_became_of_a_change_is_part_of_its_state(
    outcome: ChangeOutcome, shown: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    position = Position(rollup_id=SYSTEM_ROLLUP, height=1, index=0)

    async with served() as api:

        async def ordered(_: bytes) -> TransactionStatus:
            return TransactionStatus(level=Level.CONFIRMED, position=position)

        monkeypatch.setattr(api.node, "status_of", ordered)
        api.node.outcomes[position] = outcome
        assert (await api.http.get(f"/v1/transactions/{'00' * 32}")).json()["change"] == shown
        del api.node.outcomes[position]
        assert "change" not in (await api.http.get(f"/v1/transactions/{'00' * 32}")).json()
