"""The live page as a server sends it. How it looks was looked at in a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import msgspec

from consensus.engine import Commit
from consensus.genesis import LINKS_ROLLUP
from sequencer.body import assemble_payload
from sequencer.membership import PendingChange, PendingKind, ValidatorEntry
from tests.sequencer.api.fake_node import FakeAdapter, FakeDelivered, FakeNode, FakeStatus, chain_spec, served

VOID = {"meta", "link", "rect", "br", "input"}


class Balance(HTMLParser):
    """Sees whether every element is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"


def balanced(text: str) -> bool:
    parser = Balance()
    parser.feed(text)
    parser.close()
    return not parser.open


async def test_the_page_shows_the_node() -> None:
    async with served() as api:
        node = api.node
        node.adapters[3] = FakeAdapter()
        node.delivered[3] = FakeDelivered(1, bytes(range(32)))
        node.submit_batch(3, [(0, b"a"), (0, b"b")])
        await node.order()
        node.submit_batch(7, [(0, b"c")])
        node.connected = 1
        response = await api.http.get("/")
        text = response.text
        assert response.headers["content-type"].startswith("text/html")
        assert balanced(text)
        for validator in node.spec.validators:
            assert validator.name in text
        for words in ("not ready", "stake 2 of 4", "1 waiting", "up to 1", "000102030", "away", "leads"):
            assert words in text, words
        assert re.search(r'<b class="mono">3</b> 2</span>', text), "two transactions of rollup 3"


async def test_the_page_shows_what_is_final_and_which_blocks_carry_certificates() -> None:
    async with served() as api:
        node = api.node
        for _ in range(4):
            await node.order()
        await node.finalize(2)
        certificate = node.store.links[0]
        carried = assemble_payload((), [certificate])
        made, proof = node.next_block(carried)
        node.store.rows.append((made, carried.body))
        node.store.proofs.append(proof)
        await node.ledger.commit([Commit(block=made, body=memoryview(carried.body), proof=proof)])
        text = (await api.http.get("/")).text
        assert balanced(text)
        assert "3 behind; a checkpoint every 2" in text
        assert text.count('<span class="pill good">final</span>') == 2
        assert '<span class="chip">1 finality</span>' in text
        assert str(LINKS_ROLLUP) not in text, "it is no rollup"
    async with served(FakeNode(msgspec.structs.replace(chain_spec(), checkpoint_interval=0))) as api:
        text = (await api.http.get("/")).text
        assert "not on this chain" in text
        assert "a checkpoint every" not in text


async def test_a_refresh_is_the_live_part_only() -> None:
    async with served() as api:
        whole, part = (await api.http.get("/")).text, (await api.http.get("/?part=live")).text
        assert part in whole
        assert "<html" not in part
        assert balanced(part)


async def test_nothing_comes_from_elsewhere() -> None:
    async with served() as api:
        response = await api.http.get("/")
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert not re.search(r"https?://", response.text)
        assert "style=" not in response.text, "the policy would not let it through"
        for path in re.findall(r'(?:src|href)="(/assets/[^"]+)"', response.text):
            asset = await api.http.get(path)
            assert asset.status_code == 200
            assert not re.search(rb"https?://|@import", asset.content)
        assert (await api.http.get("/assets/..%2fpage.py")).status_code == 404


async def test_names_are_escaped() -> None:
    spec = chain_spec("<script>alert(1)</script>")
    first = msgspec.structs.replace(spec.validators[0], name="<img src=x>&'\"")
    async with served(FakeNode(msgspec.structs.replace(spec, validators=(first, *spec.validators[1:])))) as api:
        api.node.name = "<b>"
        text = (await api.http.get("/")).text
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "&lt;img src=x&gt;&amp;" in text
        assert balanced(text)


async def test_many_viewers_cost_one_rendering() -> None:
    async with served() as api:
        await api.node.order()
        asked = 0
        honest = api.node.block

        async def block(height: int) -> object:
            nonlocal asked
            asked += 1
            return await honest(height)

        api.node.block = block  # type: ignore[method-assign, assignment]  # the fake node answers so
        for _ in range(5):
            await api.http.get("/?part=live")
        assert asked == 1


async def test_pending_changes_of_the_validators_are_shown() -> None:
    async with served() as api:
        assert "Pending changes" not in (await api.http.get("/")).text
    node = FakeNode()
    await node.order()
    changes: tuple[tuple[PendingKind, str, int], ...] = (
        ("joins", "<anna>", 5),
        ("leaves", "validator-1", 0),
        ("rotates", "validator-2", 1),
    )
    for kind, name, stake in changes:
        node.pending_changes.append(
            PendingChange(
                kind=kind,
                name=name,
                operator=name,
                public_key=b"\x01" * 32,
                next_public_key=b"",
                stake=stake,
                effective_at=9,
            )
        )
    async with served(node) as api:
        text = (await api.http.get("/")).text
        assert balanced(text)
        assert "<td>&lt;anna&gt;</td><td>joins with stake 5</td>" in text
        assert "<td>validator-1</td><td>leaves</td>" in text
        assert "<td>validator-2</td><td>changes its key</td>" in text
        assert text.count("in 8 blocks") == 3


async def test_blocks_of_an_earlier_epoch_have_the_names_of_its_validators() -> None:
    """The node stands in epoch 1, whose validators have other names; its blocks are of epoch 0."""
    async with served() as api:
        node = api.node
        await node.order()
        honest = node.status

        def status() -> FakeStatus:
            now = honest()
            others = tuple(
                ValidatorEntry(
                    validator=msgspec.structs.replace(entry.validator, name=f"later-{number}"), operator="", address=""
                )
                for number, entry in enumerate(now.validators.validators)
            )
            return replace(now, validators=msgspec.structs.replace(now.validators, epoch=1, validators=others))

        node.status = status  # type: ignore[method-assign]  # the fake node answers so
        text = (await api.http.get("/")).text
        latest = text.partition("Latest blocks")[2]
        assert "validator-" in latest
        assert "later-" not in latest
        assert "epoch 1" in text
