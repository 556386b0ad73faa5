"""``sequencer validator``: who validates a running chain, and changing that."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from consensus.crypto.scheme import SecretKey
from consensus.genesis import ChainSpec
from consensus.reconfiguration import (
    LIFETIME_HEIGHTS_MAX,
    AddValidator,
    ChangeStake,
    RemoveValidator,
    RotateKey,
    SystemTransaction,
)
from consensus.validators import STAKE_MAX
from rollup_adapters.base import JsonValue
from sequencer.cli.change_files import write_change
from sequencer.cli.changes import (
    LIFETIME_HEIGHTS,
    Cluster,
    Listed,
    Ordered,
    ValidatorsStatus,
    by_governors,
    by_validator,
    carry_out,
    open_cluster,
    own_key,
    result_document,
)
from sequencer.cli.console import NO, UNUSABLE, CommandError, err, failures, out, print_json, read_secret
from sequencer.config import Config
from sequencer.homes import read_registration
from sequencer.keys import CONSENSUS_KEYS_MAX, generate_consensus_key, load_consensus_key, write_consensus_key
from sequencer.toml_text import toml_value

Node = Annotated[str, typer.Argument(metavar="NODE", help="A home, or the address of an API (http://...).")]
Name = Annotated[str, typer.Argument(help="The validator's name.")]
Governors = Annotated[
    list[Path] | None,
    typer.Option(
        "--governor", metavar="KEYFILE", help="A governor's key; once for each that signs.", show_default=False
    ),
]
GenesisFile = Annotated[Path | None, typer.Option(help="The chain's genesis.json; a home has its own.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="The passphrase of the key files, in this file's first line.")
]
AskPassphrase = Annotated[bool, typer.Option("--ask-passphrase", help="Ask for it at the terminal.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Until the change is in effect, not only ordered.")]
Timeout = Annotated[float, typer.Option("--timeout", help="How long to wait for that, in seconds.", min=0.1)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ExpiresIn = Annotated[
    int,
    typer.Option(
        "--expires-in", help="Blocks from now until which it can be ordered.", min=1, max=LIFETIME_HEIGHTS_MAX // 2
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Submit nothing: write the change to this file, for other governors (validator sign) or for later "
        "(validator submit).",
    ),
]
TIMEOUT_DEFAULT_S: Final = 900.0
_CONSENSUS_LINE: Final = re.compile(r'^consensus[ \t]*=[ \t]*("[^"\n]*"|\[[^\]\n]*\])[ \t]*(#.*)?$', re.MULTILINE)


def list_command(node: Node, genesis: GenesisFile = None, as_json: AsJson = False) -> None:
    """Show the validators of the present epoch, and what will change."""
    with failures(), open_cluster(node, genesis) as cluster:
        status = cluster.status()
        if as_json:
            print_json(_list_document(cluster, status))
            return
        console = out()
        console.print(
            f"Chain [bold]{escape(status.chain_id)}[/], height {status.ledger_height}, epoch {status.epoch}"
            + (f" since height {status.epoch_began_after}" if status.epoch else "")
        )
        table = Table("validator", "operator", "stake", "share", "connection", "address", "public key", box=None)
        total = sum(validator.stake for validator in status.validators)
        for validator in status.validators:
            table.add_row(
                escape(validator.name),
                escape(validator.operator),
                str(validator.stake),
                f"{100 * validator.stake / total:.1f} %",
                _connection(validator),
                escape(validator.address or "unknown here"),
                validator.public_key[:16],
            )
        console.print(table)
        for change in status.pending_changes:
            words = {
                "joins": f"joins with stake {change.stake}",
                "leaves": "leaves",
                "rotates": f"changes its key to {change.next_public_key[:16]}",
                "stake": f"changes to stake {change.stake}",
            }
            blocks = max(0, change.effective_at - status.ledger_height)
            console.print(
                f"Pending: {escape(change.name)} {words.get(change.kind, change.kind)} after height "
                f"{change.effective_at}, in {blocks} blocks"
            )


def add_command(
    node: Node,
    registration: Annotated[
        Path, typer.Argument(help="The registration.json of the new validator's home (sequencer init --join).")
    ],
    governor: Governors = None,
    stake: Annotated[int | None, typer.Option(help="Its stake; by default the registration's.", min=1)] = None,
    genesis: GenesisFile = None,
    passphrase_file: PassphraseFile = None,
    ask_passphrase: AskPassphrase = False,
    expires_in: ExpiresIn = LIFETIME_HEIGHTS,
    out_file: OutFile = None,
    wait: Wait = True,
    timeout_s: Timeout = TIMEOUT_DEFAULT_S,
    as_json: AsJson = False,
) -> None:
    """Add a validator: it is served at once, catches up, and votes from the epoch on that begins after the change.

    Start its node first, so that it has caught up by then.
    """
    with failures(), open_cluster(node, genesis) as cluster:
        found = read_registration(registration)
        validator = found.validator
        if stake is not None and stake > STAKE_MAX:
            raise CommandError(f"--stake: at most {STAKE_MAX}", 2)
        status = cluster.status()
        change = AddValidator(
            name=validator.name,
            operator=found.operator,
            stake=stake or validator.stake,
            public_key=validator.public_key,
            possession_proof=validator.possession_proof,
            peer=validator.peer,
            address=found.address,
            expires_at=status.ledger_height + expires_in,
        )
        passphrase = read_secret(passphrase_file, ask_passphrase, confirm=False)
        transaction = by_governors(cluster, change, governor or [], passphrase, enough=out_file is None)
        _hand_over(
            cluster,
            transaction,
            out_file,
            wait=wait,
            timeout_s=timeout_s,
            as_json=as_json,
            say=lambda _, after: _unless_connected(after, validator.peer.hex()),
        )


def remove_command(
    node: Node,
    name: Name,
    governor: Governors = None,
    key: Annotated[
        Path | None, typer.Option(help="Instead of governors: the validator's own consensus key, for its exit.")
    ] = None,
    genesis: GenesisFile = None,
    passphrase_file: PassphraseFile = None,
    ask_passphrase: AskPassphrase = False,
    expires_in: ExpiresIn = LIFETIME_HEIGHTS,
    out_file: OutFile = None,
    wait: Wait = True,
    timeout_s: Timeout = TIMEOUT_DEFAULT_S,
    as_json: AsJson = False,
) -> None:
    """Remove a validator. It votes until the change is in effect, and for finality a little longer: keep its node
    running until the final height that is then said."""
    with failures(), open_cluster(node, genesis) as cluster:
        if (key is None) == (not governor):
            raise CommandError("give either --governor (once for each that signs) or --key", 2)
        status = cluster.status()
        public_key = status.named(name)
        change = RemoveValidator(public_key=bytes.fromhex(public_key), expires_at=status.ledger_height + expires_in)
        passphrase = read_secret(passphrase_file, ask_passphrase, confirm=False)
        if key is None:
            transaction = by_governors(cluster, change, governor or [], passphrase, enough=out_file is None)
        else:
            secret = own_key(cluster, key, passphrase)
            if secret.public_key.hex() != public_key:
                raise CommandError(f"{key}: {name!r} signs with {public_key}, not with this key", UNUSABLE)
            transaction = by_validator(cluster, change, secret)
        _hand_over(
            cluster,
            transaction,
            out_file,
            wait=wait,
            timeout_s=timeout_s,
            as_json=as_json,
            say=lambda ordered, _: escape(_about_who_left(name, ordered.effective_at, cluster.genesis.spec)),
        )


def stake_command(
    node: Node,
    name: Name,
    stake: Annotated[int, typer.Argument(help="Its next stake.", min=1)],
    governor: Governors = None,
    genesis: GenesisFile = None,
    passphrase_file: PassphraseFile = None,
    ask_passphrase: AskPassphrase = False,
    expires_in: ExpiresIn = LIFETIME_HEIGHTS,
    out_file: OutFile = None,
    wait: Wait = True,
    timeout_s: Timeout = TIMEOUT_DEFAULT_S,
    as_json: AsJson = False,
) -> None:
    """Change a validator's stake."""
    with failures(), open_cluster(node, genesis) as cluster:
        if stake > STAKE_MAX:
            raise CommandError(f"STAKE: at most {STAKE_MAX}", 2)
        status = cluster.status()
        change = ChangeStake(
            public_key=bytes.fromhex(status.named(name)),
            stake=stake,
            expires_at=status.ledger_height + expires_in,
        )
        passphrase = read_secret(passphrase_file, ask_passphrase, confirm=False)
        transaction = by_governors(cluster, change, governor or [], passphrase, enough=out_file is None)
        _hand_over(cluster, transaction, out_file, wait=wait, timeout_s=timeout_s, as_json=as_json)


def rotate_command(
    node: Node,
    key: Annotated[
        Path | None, typer.Option(help="The consensus key of now; by default the home's that validates.")
    ] = None,
    next_key: Annotated[
        Path | None, typer.Option(help="The next one; by default the home's other key, made where there is none.")
    ] = None,
    genesis: GenesisFile = None,
    passphrase_file: PassphraseFile = None,
    ask_passphrase: AskPassphrase = False,
    expires_in: ExpiresIn = LIFETIME_HEIGHTS,
    wait: Wait = True,
    timeout_s: Timeout = TIMEOUT_DEFAULT_S,
    as_json: AsJson = False,
) -> None:
    """Change a validator's consensus key. NODE is its own node.

    In two steps. The first makes a new key in the home and names it in node.toml; restart the node, so that it holds
    both. The second, the same command again, asks the chain for the change.
    """
    with failures(), open_cluster(node, genesis) as cluster:
        passphrase = read_secret(passphrase_file, ask_passphrase, confirm=False)
        status = cluster.status()
        if key is None and next_key is None:
            found = _keys_of_home(cluster, node, status, passphrase)
            if found is None:
                _prepare(cluster, Path(node), passphrase, as_json)
                return
            old, new = found
        elif key is not None and next_key is not None:
            old, new = own_key(cluster, key, passphrase), own_key(cluster, next_key, passphrase)
        else:
            raise CommandError("give both --key and --next-key, or neither", 2)
        _check_held(cluster, status, old, new)
        change = RotateKey(
            public_key=old.public_key,
            next_public_key=new.public_key,
            next_possession_proof=new.prove_possession(),
            next_peer=b"",
            expires_at=status.ledger_height + expires_in,
        )
        ordered, after = carry_out(cluster, by_validator(cluster, change, old), wait=wait, timeout_s=timeout_s)
        if after is not None:
            err().print(_about_the_old_key(old, ordered.effective_at, cluster.genesis.spec), soft_wrap=True)
        if as_json:
            print_json({"stage": "rotated", **result_document(ordered, after)})


def _hand_over(
    cluster: Cluster,
    transaction: SystemTransaction,
    out_file: Path | None,
    *,
    wait: bool,
    timeout_s: float,
    as_json: bool,
    say: Callable[[Ordered, ValidatorsStatus], str] = lambda _ordered, _after: "",
) -> None:
    """Write the change to ``out_file``, or have it ordered; ``say`` tells what the operator must know once it is in
    effect."""
    if out_file is not None:
        write_change(out_file, cluster.genesis.spec, transaction, new=True)
        return
    ordered, after = carry_out(cluster, transaction, wait=wait, timeout_s=timeout_s)
    said = "" if after is None else say(ordered, after)
    if said:
        err().print(said, soft_wrap=True)
    if as_json:
        print_json(result_document(ordered, after))


def _about_who_left(name: str, boundary: int, spec: ChainSpec) -> str:
    interval = spec.checkpoint_interval
    if not interval:
        return f"{name} does not vote any more: its node observes now, and can be stopped"
    return (
        f"{name} takes no part in consensus any more, but finality needs it for the hand-over: keep its node running "
        f"until sequencer status of the others shows a final height above {boundary + interval}"
    )


def _about_the_old_key(old: SecretKey, boundary: int, spec: ChainSpec) -> str:
    """Votes of finality need it until the hand-over stands in the chain: a checkpoint beyond the boundary is enough."""
    interval = spec.checkpoint_interval
    when = f"when sequencer status shows a final height above {boundary + interval}, " if interval else ""
    return (
        f"the old key {old.public_key.hex()} takes no part in consensus any more"
        + (", but finality needs it for the hand-over" if interval else "")
        + f": {when}take its file out of keys.consensus in node.toml. Where a signing process holds it, do so in "
        "signer.toml, and take the key out of signer.public_keys in node.toml"
    )


# --- rotation: keys in a home ------------------------------------------------------------------------------------


def _keys_of_home(
    cluster: Cluster, node: str, status: ValidatorsStatus, passphrase: str | None
) -> tuple[SecretKey, SecretKey] | None:
    """The key that validates and the other one; None where there is no other yet."""
    file = Path(node) / "node.toml"
    if not file.is_file():
        raise CommandError("NODE is no home: give --key and --next-key", 2)
    config = Config.load(file)
    if config.signer is not None:
        raise CommandError(
            f"{node}: a signing process holds its keys. Give both files with --key and --next-key, and name the next "
            "one in the signing process's file and in signer.public_keys",
            UNUSABLE,
        )
    present = [validator.public_key for validator in status.validators]
    old, others = None, []
    for key_file in config.consensus_key_files:
        key = own_key(cluster, key_file, passphrase)
        if key.public_key.hex() in present:
            old = key
        else:
            others.append(key)
    if old is None:
        raise CommandError(f"{node}: none of its consensus keys is a present validator's: nothing to rotate", UNUSABLE)
    if len(others) > 1:
        raise CommandError(f"{node}: it has {len(others)} other keys; choose with --key and --next-key", UNUSABLE)
    return (old, others[0]) if others else None


def _prepare(cluster: Cluster, home: Path, passphrase: str | None, as_json: bool) -> None:
    """The first step: a new key beside the old one, in the same scheme and under the same passphrase."""
    config = Config.load(home / "node.toml")
    old = config.consensus_key_files[0]
    text = config.file.read_text()
    names = [str(file.relative_to(config.file.parent)) for file in config.consensus_key_files]
    new = next(
        (
            name
            for number in range(2, CONSENSUS_KEYS_MAX + 2)
            if not (name := old.with_name(f"consensus-{number}.json")).exists()
        ),
        None,
    )
    if new is None:
        raise CommandError(
            f"{old.parent}: too many consensus keys; move those away that sign nothing any more", UNUSABLE
        )
    listed = toml_value([*names, str(new.relative_to(config.file.parent))])
    changed, count = _CONSENSUS_LINE.subn(lambda _: f"consensus = {listed}", text)
    if count != 1:
        raise CommandError(
            f"{config.file}: its line 'consensus = ...' is not in a form that this command changes. Make the key list "
            f"{listed} there yourself, with a key made by: sequencer init",
            UNUSABLE,
        )
    write_consensus_key(new, generate_consensus_key(cluster.genesis.scheme), passphrase)
    config.file.write_text(changed)
    public_key = load_consensus_key(new, passphrase).secret_key.public_key.hex()
    document: dict[str, JsonValue] = {"stage": "prepared", "key_file": str(new), "public_key": public_key}
    if as_json:
        print_json(document)
    err().print(
        f"Made {escape(str(new))} with key {public_key} and named it in {escape(str(config.file))}. Next: restart the "
        "node, so that it holds both keys, and run this command again",
        soft_wrap=True,
    )


def _check_held(cluster: Cluster, status: ValidatorsStatus, old: SecretKey, new: SecretKey) -> None:
    """A validator that does not hold its next key falls silent with the next epoch."""
    own = next((validator for validator in status.validators if validator.public_key == old.public_key.hex()), None)
    if own is None:
        raise CommandError(f"key {old.public_key.hex()} is no present validator's", UNUSABLE)
    if not own.self_:
        raise CommandError(
            f"{cluster.target.name} is not the node of {own.name!r}: ask that one, which must hold both keys", UNUSABLE
        )
    if new.public_key.hex() not in status.held_keys:
        raise CommandError(
            f"the node does not hold key {new.public_key.hex()} yet: restart it, so that it reads keys.consensus "
            "again, and run this command again",
            NO,
        )


# --- what is printed ---------------------------------------------------------------------------------------------


def _list_document(cluster: Cluster, status: ValidatorsStatus) -> dict[str, JsonValue]:
    rules = cluster.reconfiguration
    return {
        "chain_id": status.chain_id,
        "height": status.ledger_height,
        "epoch": status.epoch,
        "epoch_began_after": status.epoch_began_after,
        "epoch_heights": rules.epoch_heights,
        "governors": [governor.hex() for governor in rules.governors],
        "governors_needed": rules.governors_needed,
        "validators": [
            {
                "name": validator.name,
                "operator": validator.operator,
                "stake": validator.stake,
                "public_key": validator.public_key,
                "peer": validator.peer,
                "address": validator.address,
                "connected": validator.connected or validator.self_,
            }
            for validator in status.validators
        ],
        "pending_changes": [
            {
                "kind": change.kind,
                "name": change.name,
                "public_key": change.public_key,
                "next_public_key": change.next_public_key,
                "stake": change.stake,
                "effective_at": change.effective_at,
            }
            for change in status.pending_changes
        ],
    }


def _connection(validator: Listed) -> str:
    if validator.self_:
        return "this node"
    return "[green]connected[/]" if validator.connected else "[yellow]away[/]"


def _unless_connected(status: ValidatorsStatus, peer: str) -> str:
    joined = next((validator for validator in status.validators if validator.peer == peer), None)
    if joined is None or joined.connected or joined.self_:
        return ""
    return (
        f"[yellow]{escape(joined.name)} is not connected to this node: start it (sequencer start --home HOME), its "
        "vote counts as missing until then[/]"
    )
