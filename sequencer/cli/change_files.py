"""Changes of the validators that several governors sign, each on a machine of their own: a file goes from one to the
next, and the last one, or anybody, hands it to a node.

The file is JSON: what is asked for in words and fields, for people, and the transaction with the signatures so far, in
hexadecimal digits. Only the latter counts: whoever signs is shown what *it* says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from consensus.codec import Malformed, encode
from consensus.genesis import ChainSpec
from consensus.reconfiguration import (
    AddValidator,
    ByGovernors,
    SystemTransaction,
    approved_by_governors,
    system_transactions,
)
from rollup_adapters.base import JsonValue
from sequencer.api.representation import plain
from sequencer.cli.changes import carry_out, governors_signatures, open_cluster, result_document
from sequencer.cli.console import UNUSABLE, CommandError, err, failures, print_json, read_secret
from sequencer.cli.target import genesis_in
from sequencer.tables import KeyPathError, Table

FILE_SIZE_MAX: Final = 64 * 1024


def write_change(file: Path, spec: ChainSpec, transaction: SystemTransaction, *, new: bool = False) -> None:
    """Write a change with the signatures it has. A ``new`` file replaces none: others may have signed that. Raises
    :class:`CommandError`."""
    document: dict[str, JsonValue] = {
        "chain_id": spec.chain_id,
        "genesis_hash": spec.hash.hex(),
        **change_document(transaction),
        "signed_by": _signed_by(spec, transaction),
        "transaction": encode(transaction).hex(),
    }
    try:
        with file.open("x" if new else "w") as opened:
            opened.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    except FileExistsError:
        raise CommandError(
            f"--out: {file} exists; name another file, or add a signature to it: sequencer validator sign", UNUSABLE
        ) from None
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", UNUSABLE) from None


def read_change(file: Path, spec: ChainSpec) -> SystemTransaction:
    """What :func:`write_change` wrote, of this chain. Raises :class:`CommandError`."""
    try:
        with file.open("rb") as source:
            text = source.read(FILE_SIZE_MAX + 1)
        if len(text) > FILE_SIZE_MAX:
            raise CommandError(f"{file}: larger than {FILE_SIZE_MAX} bytes, so no change of validators", UNUSABLE)
        table = Table(json.loads(text))
        genesis_hash, data = table.hexadecimal("genesis_hash"), table.hexadecimal("transaction")
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", UNUSABLE) from None
    except (KeyPathError, ValueError) as error:
        raise CommandError(f"{file}: not a change of validators: {error}", UNUSABLE) from None
    if genesis_hash != spec.hash:
        raise CommandError(
            f"{file}: is for the chain with genesis {genesis_hash.hex()}, not for {spec.chain_id!r}, {spec.hash.hex()}",
            UNUSABLE,
        )
    transaction = system_transactions.decode(data)
    if isinstance(transaction, Malformed):
        raise CommandError(f"{file}: not a change of validators: {transaction.reason}", UNUSABLE)
    return transaction


def change_document(transaction: SystemTransaction) -> dict[str, JsonValue]:
    """What a change asks for, every field."""
    change = transaction.change
    shown = {name: plain(getattr(change, name)) for name in change.__struct_fields__}
    document: JsonValue = json.loads(json.dumps(shown))
    return {"asks_for": type(change).__name__, "fields": document}


def sign_command(
    file: Annotated[Path, typer.Argument(help="A change that --out wrote; the signature is added to it.")],
    genesis: Annotated[Path, typer.Option(help="The chain's genesis.json.")],
    governor: Annotated[list[Path], typer.Option("--governor", metavar="KEYFILE", help="A governor's key.")],
    passphrase_file: Annotated[
        Path | None, typer.Option(help="The passphrase of the key files, in this file's first line.")
    ] = None,
    ask_passphrase: Annotated[bool, typer.Option("--ask-passphrase", help="Ask for it at the terminal.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to sign.")] = False,
) -> None:
    """Add a governor's signature to a change, offline. Shows what is asked for first."""
    with failures():
        spec = genesis_in(genesis).spec
        transaction = read_change(file, spec)
        if not isinstance(transaction.approval, ByGovernors):
            raise CommandError(f"{file}: approved by the validator itself; governors have no part in it", UNUSABLE)
        print_json({"chain_id": spec.chain_id, **_named_in(spec, transaction), **change_document(transaction)})
        if not yes and not typer.confirm("Sign this?", err=True):
            raise typer.Exit(1)
        passphrase = read_secret(passphrase_file, ask_passphrase, confirm=False)
        signatures = governors_signatures(spec, transaction.change, governor, passphrase)
        signed = approved_by_governors(transaction.change, (*transaction.approval.signatures, *signatures))
        write_change(file, spec, signed)
        _say_signed(spec, signed)


def submit_command(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A home, or the address of an API (http://...).")],
    file: Annotated[Path, typer.Argument(help="A change that --out wrote, with all signatures it needs.")],
    genesis: Annotated[Path | None, typer.Option(help="The chain's genesis.json; a home has its own.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Until the change is in effect, not only ordered.")
    ] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", help="How long to wait for that, in seconds.")] = 900.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Hand a signed change to a node, and wait."""
    with failures(), open_cluster(node, genesis) as cluster:
        transaction = read_change(file, cluster.genesis.spec)
        ordered, after = carry_out(cluster, transaction, wait=wait, timeout_s=timeout_s)
        if as_json:
            print_json(result_document(ordered, after))


def _named_in(spec: ChainSpec, transaction: SystemTransaction) -> dict[str, JsonValue]:
    """Whom a change of a present validator is about, as far as that can be known offline: its fields hold the key."""
    change = transaction.change
    if isinstance(change, AddValidator):
        return {}
    names = {validator.public_key: f"{validator.name}, by genesis.json" for validator in spec.validators}
    unknown = "none of genesis.json: compare the key with sequencer validator list --json"
    return {"validator": names.get(change.public_key, unknown)}


def _signed_by(spec: ChainSpec, transaction: SystemTransaction) -> list[JsonValue]:
    approval, rules = transaction.approval, spec.reconfiguration
    if not isinstance(approval, ByGovernors) or rules is None:
        return []
    return [rules.governors[signature.governor].hex() for signature in approval.signatures]


def _say_signed(spec: ChainSpec, transaction: SystemTransaction) -> None:
    assert spec.reconfiguration is not None
    needed, count = spec.reconfiguration.governors_needed, len(_signed_by(spec, transaction))
    then = "submit it: sequencer validator submit NODE FILE" if count >= needed else "pass it on to the next governor"
    err().print(f"signed by {count} of the {needed} governors that are needed; {then}", soft_wrap=True)
