"""Writes a scenario: a genesis and sections of transactions that visit the corners of the virtual machine.

``python -m tests.rollup_adapters.evm.vectors.scenario SEED SECTIONS > scenario.json`` from the root of the repository.
Random programs are drawn with weights that keep the stack filled and the addresses known, so that most of them run for
a while.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from typing import Any, Final

from eth.vm.forks.cancun.constants import BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CONTRACT_CODE
from eth_utils.address import to_checksum_address

from rollup_adapters.evm.contracts import token
from rollup_adapters.evm.transactions import Transaction, decode
from tests.rollup_adapters.evm.common import CHAIN_ID, FEE_RECIPIENT, account, signed

GAS_LIMIT: Final = 12_000_000
SENDERS: Final = 6
TOO_LITTLE: Final = 3
"""A price in wei below any base fee here."""
SPECIAL: Final = {
    # Calls itself, delegates to itself, creates itself: as deep as the gas goes.
    0x5EC1: "5f5f5f5f5f305af100",
    0x5EC2: "5f5f5f5f305af400",
    0x5EC3: "385f5f39385f5ff000",
    # Logs the gas left, calls itself, logs it again, then destroys itself.
    0x5EC4: "5a5f5fa15f5f5f5f5f305af15a5f5fa133ff",
    # Clears three slots: a refund of more than a fifth of the gas.
    0x5EC5: "5f5f555f6001555f60025500",
    # Stores the hashes of the parent, the grandparent and (zero) the block itself.
    0x5EC6: "60014303405f556002430340600155434060025500",
}
BURNER: Final = 0xB0
"""Runs INVALID, which uses up all the gas it is given, at no cost in time."""
WITNESS: Final = 0xB1
"""Stores, in the slot of the block's number, the exclusive or of what it sees of its block: the parent's hash,
prevRandao, base fee, timestamp, and the beacon root contract's answer for the timestamp."""
WITNESS_CODE: Final = (
    "425f526020602060205f73" + BEACON_ROOTS_ADDRESS.hex() + "5afa602051186001430340184418481842184355" + "00"
)
WRONG: Final[tuple[Callable[[int], dict[str, Any]], ...]] = (
    lambda nonce: {"nonce": nonce + 1},
    lambda nonce: {"nonce": max(0, nonce - 1), "gas": 20_000},
    lambda nonce: {"value": 10**30},
    lambda nonce: {"gas": GAS_LIMIT + 1},
)
_TRANSFER: Final = bytes.fromhex("a9059cbb")
_BINARY: Final = (*range(0x01, 0x08), 0x0A, 0x0B, *range(0x10, 0x15), *range(0x16, 0x19), *range(0x1A, 0x1E))
_TERNARY: Final = (0x08, 0x09)
_UNARY: Final = (0x15, 0x19, 0x31, 0x35, 0x3B, 0x3F, 0x40, 0x49, 0x51, 0x54, 0x5C)
_SOURCES: Final = (0x30, 0x32, 0x33, 0x34, 0x36, 0x38, 0x3A, 0x3D, *range(0x41, 0x49), 0x4A, 0x58, 0x59, 0x5A, 0x5F)
_CALLS: Final = (0xF1, 0xF2, 0xF4, 0xFA)


def push(value: int) -> bytes:
    """PUSH of the shortest length."""
    data = value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")
    return bytes([0x5F + len(data)]) + data


class Programs:
    """Draws programs; remembers the addresses that they may call."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.addresses = [*range(1, 11), *(int(account(index).address, 16) for index in range(1, SENDERS + 2))]

    def _target(self) -> int:
        places: list[int] = [*self.addresses, *self.addresses, self.rng.getrandbits(160)]
        return self.rng.choice(places)

    def _value(self) -> bytes:
        rng = self.rng
        choices = (
            rng.randrange(4),
            rng.randrange(256),
            rng.randrange(2**16),
            2**256 - 1 - rng.randrange(3),
            self._target(),
        )
        return push(rng.choice(choices)) if rng.random() < 0.8 else bytes([rng.choice(_SOURCES)])

    def _memory(self) -> bytes:
        """Size below offset: what RETURN, LOG, KECCAK256 and the copies pop first."""
        return push(self.rng.choice((0, 1, 32, 64, 200))) + push(self.rng.choice((0, 5, 32, 96)))

    def _call(self) -> bytes:
        kind = self.rng.choice(_CALLS)
        body = self._memory() + self._memory()
        if kind in (0xF1, 0xF2):
            body += push(self.rng.choice((0, 0, 0, 1, 10**20)))
        gas = b"\x5a" if self.rng.random() < 0.6 else push(self.rng.choice((0, 700, 2_300, 30_000)))
        return body + push(self._target()) + gas + bytes([kind])

    def _create(self) -> bytes:
        """CREATE or CREATE2 of initialisation code that stores one word and returns some memory as code."""
        code = b"\x60\x07\x5f\x55" + push(self.rng.choice((0, 1, 32))) + b"\x5f\xf3"
        body = push(int.from_bytes(code, "big") << (8 * (32 - len(code)))) + b"\x5f\x52"
        body += push(self.rng.choice((0, 0, 1)))
        if self.rng.random() < 0.5:
            return body[:-2] + push(self.rng.randrange(3)) + push(len(code)) + b"\x5f" + push(0) + b"\xf5"
        return b"".join((body[:-2], push(len(code)), b"\x5f", push(self.rng.choice((0, 1))), b"\xf0"))

    def statement(self) -> bytes:
        """A few instructions that leave the stack as high or higher, mostly."""
        rng = self.rng
        kind = rng.randrange(17)
        if kind < 3:
            return self._value() + self._value() + bytes([rng.choice(_BINARY)])
        if kind == 3:
            return self._value() * 3 + bytes([rng.choice(_TERNARY)])
        if kind == 4:
            return self._value() + bytes([rng.choice(_UNARY)])
        if kind in (5, 6):
            return push(rng.choice((0, 0, 1, 2**200))) + push(rng.randrange(3)) + b"\x55"
        if kind == 7:
            return push(rng.randrange(9)) + push(rng.randrange(3)) + b"\x5d" + push(rng.randrange(3)) + b"\x5c"
        if kind == 8:
            topics = rng.randrange(5)
            return b"".join(self._value() for _ in range(topics)) + self._memory() + bytes([0xA0 + topics])
        if kind == 9:
            copy = rng.choice((0x37, 0x39, 0x5E, 0x3C))
            prefix = push(self._target()) if copy == 0x3C else b""
            return push(rng.randrange(70)) + self._memory()[:2] + push(rng.randrange(90)) + prefix + bytes([copy])
        if kind == 10:
            return self._memory() + b"\x20"
        if kind == 11:
            return self._value() + push(rng.randrange(130)) + bytes([rng.choice((0x52, 0x53))])
        if kind in (12, 13):
            return self._call()
        if kind == 14:
            return self._create()
        if kind == 15:
            return self._value() * 2 + bytes([rng.choice((0x80, 0x81, 0x90))])
        return self._memory()[:2] + push(0) + push(0) + b"\x3e" if rng.random() < 0.5 else b"\x50"

    def program(self) -> bytes:
        """Statements and an end: mostly sound, sometimes a revert, a self-destruct, an invalid instruction or none."""
        rng = self.rng
        body = b"".join(self.statement() for _ in range(rng.randrange(1, 14)))
        ends = (
            b"\x00",
            self._memory() + b"\xf3",
            self._memory() + b"\xfd",
            push(self._target()) + b"\xff",
            b"\xfe",
            b"",
        )
        return body + rng.choices(ends, (6, 4, 2, 2, 1, 1))[0]


def deployment(code: bytes) -> bytes:
    """Initialisation code that returns ``code``."""
    head = b"\x61" + len(code).to_bytes(2, "big") + b"\x80\x60\x0b\x5f\x39\x5f\xf3\x00"
    return head[:11] + code


def section(rng: random.Random, programs: Programs, nonces: dict[int, int]) -> list[bytes]:
    """One section: transactions of every type, some of which must be skipped."""
    transactions = []
    for _ in range(rng.randrange(1, 9)):
        index = rng.randrange(1, SENDERS + 1)
        fields: dict[str, Any] = {"nonce": nonces[index], "gas": rng.choice((60_000, 200_000, 900_000)), "value": 0}
        kind = rng.randrange(12)
        if kind < 4:
            code = programs.program()
            fields |= {"to": None, "data": deployment(code) if kind else code, "value": rng.choice((0, 0, 1_000))}
        elif kind < 9:
            data = rng.randbytes(rng.choice((0, 4, 36, 100)))
            fields |= {
                "to": "0x" + rng.choice(programs.addresses[10 + SENDERS :] or [9]).to_bytes(20, "big").hex(),
                "data": data,
            }
            fields["value"] = rng.choice((0, 0, 7, 10**15))
        elif kind == 9:
            fields |= {
                "to": account(rng.randrange(1, SENDERS + 2)).address,
                "gas": 21_000,
                "value": rng.randrange(10**17),
            }
        elif kind == 10:
            supply = token().bytecode + rng.getrandbits(90).to_bytes(32, "big")
            fields |= {"to": None, "data": supply, "gas": 800_000}
        else:
            fields |= rng.choice(WRONG)(nonces[index])
        price = rng.choices((2 * 10**9, 10**10, TOO_LITTLE), (6, 6, 1))[0]
        raw = sign(rng, index, fields, price, programs)
        transactions.append(raw)
        if kind != 11 and price != TOO_LITTLE and isinstance(decode(raw, CHAIN_ID, GAS_LIMIT), Transaction):
            nonces[index] += 1
    return transactions


def sign(rng: random.Random, index: int, fields: dict[str, Any], price: int, programs: Programs) -> bytes:
    """Signed as one of the four kinds."""
    if fields.get("to") is not None:
        fields["to"] = to_checksum_address(fields["to"])
    accessed = [f"0x{target:040x}" for target in rng.sample(programs.addresses, 2)]
    entries = [{"address": place, "storageKeys": [f"0x{rng.randrange(3):064x}"]} for place in accessed]
    match rng.randrange(4):
        case 0:
            return signed(account(index), gasPrice=price, **fields)
        case 1:
            return signed(account(index), gasPrice=price, **{**fields, "chainId": None})
        case 2:
            return signed(account(index), gasPrice=price, type=1, accessList=entries, **fields)
        case _:
            tip = min(price, rng.choice((0, 1, 10**9)))
            return signed(
                account(index), maxFeePerGas=price, maxPriorityFeePerGas=tip, accessList=entries[:1], **fields
            )


def rising(nonces: dict[int, int]) -> list[bytes]:
    """The first section: fills blocks, so that a fee of a gwei buys the first two and no third."""
    section = []

    def add(index: int, place: int, gas: int, price: int = 2 * 10**9, ahead: int = 0) -> None:
        to = to_checksum_address(f"0x{place:040x}")
        fields: dict[str, Any] = {"nonce": nonces[index] + ahead, "gas": gas, "gasPrice": price, "to": to, "value": 0}
        section.append(signed(account(index), **fields))
        nonces[index] += 1

    def add_wrong(index: int, place: int, gas: int, price: int = 2 * 10**9, ahead: int = 0) -> None:
        add(index, place, gas, price, ahead)
        nonces[index] -= 1

    add(1, BURNER, 11_000_000)
    add(2, WITNESS, 900_000)  # fits: the first block has a million left
    add(3, WITNESS, 1_000_000, price=10**9)  # does not fit any more
    add_wrong(4, WITNESS, GAS_LIMIT, ahead=1)  # would close the second block, but its nonce is wrong
    add_wrong(5, WITNESS, GAS_LIMIT + 1)
    add(1, BURNER, 11_800_000)
    add_wrong(3, WITNESS, 1_000_000, price=10**9)  # does not fit, and the third block is too dear
    add(2, WITNESS, 60_000)
    add(1, BURNER, GAS_LIMIT)  # fills the third block to the brim
    add(4, WITNESS, 70_000)
    add_wrong(3, WITNESS, 1_000_000, price=10**9)
    return section


def overflow(rng: random.Random, programs: Programs, nonces: dict[int, int]) -> list[bytes]:
    """A section with more gas than a block: transactions that use all their gas, some of it or next to none of it."""
    transactions = []
    burns = 0
    for _ in range(rng.randrange(6, 15)):
        index = rng.randrange(1, SENDERS + 1)
        place = rng.choice((BURNER, WITNESS, WITNESS, int(account(7).address, 16)))
        # A full block makes gas an eighth dearer: few enough that the other sections can still pay.
        burns += place == BURNER
        if burns > 4:
            place = WITNESS
        gas = rng.choice((200_000, 3_000_000, 7_000_000, GAS_LIMIT - rng.randrange(2_000_000), GAS_LIMIT))
        fields: dict[str, Any] = {"nonce": nonces[index], "gas": gas, "to": f"0x{place:040x}", "value": 0}
        is_wrong = rng.random() < 0.15
        if is_wrong:
            fields |= rng.choice(WRONG)(nonces[index])
        price = TOO_LITTLE if rng.random() < 0.1 else 10**10
        transactions.append(sign(rng, index, fields, price, programs))
        nonces[index] += not is_wrong and price != TOO_LITTLE
    return transactions


def special(count: int, nonces: dict[int, int]) -> bytes:
    """A call of one of the special contracts."""
    place = list(SPECIAL)[count % len(SPECIAL)]
    nonces[1] += 1
    to = to_checksum_address(f"0x{place:040x}")
    return signed(account(1), nonce=nonces[1] - 1, gas=GAS_LIMIT, gasPrice=2 * 10**9, to=to, value=0)


def genesis(rng: random.Random, programs: Programs) -> dict[str, Any]:
    """The accounts at the start: senders with funds, random contracts, and those with a purpose."""
    alloc: dict[str, Any] = {account(index).address: {"balance": str(10**20)} for index in range(1, SENDERS + 1)}
    for index in range(40):
        place = 0xC0DE_0000 + index
        programs.addresses.append(place)
    for place in programs.addresses[10 + SENDERS + 1 :]:
        alloc[f"0x{place:040x}"] = {
            "balance": str(rng.choice((0, 5, 10**18))),
            "code": "0x" + programs.program().hex(),
            "storage": {str(slot): rng.choice((0, 1, 2**60)) for slot in range(3)},
        }
    for place, code in SPECIAL.items():
        alloc[f"0x{place:040x}"] = {"balance": "0", "code": "0x" + code, "storage": {"0": 1, "1": 1, "2": 1}}
    alloc[f"0x{BURNER:040x}"] = {"balance": "0", "code": "0xfe"}
    alloc[f"0x{WITNESS:040x}"] = {"balance": "0", "code": "0x" + WITNESS_CODE}
    alloc["0x" + BEACON_ROOTS_ADDRESS.hex()] = {"balance": "0", "code": "0x" + BEACON_ROOTS_CONTRACT_CODE.hex()}
    return alloc


def scenario(seed: int, count: int) -> dict[str, Any]:
    """Settings and sections."""
    rng = random.Random(seed)
    programs = Programs(rng)
    alloc = genesis(rng, programs)
    nonces = dict.fromkeys(range(1, SENDERS + 1), 0)
    sections = []
    for number in range(1, count + 1):
        match number % 10:
            case 0:
                transactions = [special(number // 10, nonces)]
            case 1 if number == 1:
                transactions = rising(nonces)
            case 3 | 5:
                transactions = overflow(rng, programs, nonces)
            case _:
                transactions = section(rng, programs, nonces)
        sections.append(
            {
                "height": 3 * number,
                "timestamp_ms": 1_700_000_000_000 + 700 * number,
                "block_id": rng.randbytes(32).hex(),
                "transactions": [raw.hex() for raw in transactions],
            }
        )
    settings = {"chain_id": CHAIN_ID, "gas_limit": GAS_LIMIT, "fee_recipient": FEE_RECIPIENT, "alloc": alloc}
    return {"settings": settings, "sections": sections}


if __name__ == "__main__":
    json.dump(scenario(int(sys.argv[1]), int(sys.argv[2])), sys.stdout, indent=0)
