"""``sequencer init`` and ``sequencer testnet``: write homes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from consensus.crypto.registry import PRODUCTION_SCHEMES
from consensus.protocols.registry import DEFAULT_PROTOCOL, protocol_named, protocol_names
from rollup_adapters.base import JsonValue
from rollup_adapters.registry import known_adapters
from sequencer.cli.console import UNUSABLE, CommandError, failures, out, print_json, read_secret
from sequencer.config import Config, ConfigError, RollupConfig, address_text
from sequencer.homes import ChainPlan, HomeError, registration_text, write_home, write_testnet

PassphraseFile = Annotated[
    Path | None, typer.Option(help="Encrypt the key files with the passphrase in this file's first line.")
]
AskPassphrase = Annotated[bool, typer.Option("--ask-passphrase", help="Ask for the passphrase at the terminal.")]
SchemeName = Annotated[str, typer.Option(help=f"Signatures: {' or '.join(PRODUCTION_SCHEMES)}.")]
ProtocolName = Annotated[str, typer.Option(help=f"Consensus: {', '.join(protocol_names())}.")]


def check_scheme(name: str) -> None:
    """Raises :class:`CommandError` naming the schemes there are."""
    if name not in PRODUCTION_SCHEMES:
        raise CommandError(f"--scheme: {name!r} is unknown; choose one of {', '.join(PRODUCTION_SCHEMES)}", 2)


def check_protocol(name: str) -> None:
    """Raises :class:`CommandError` naming the protocols there are."""
    try:
        protocol_named(name)
    except ValueError as error:
        raise CommandError(f"--{error}", 2) from None


def init(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="Directory to make.")],
    name: Annotated[str | None, typer.Option(help="The validator's name; by default the directory's.")] = None,
    scheme: SchemeName = PRODUCTION_SCHEMES[0],
    passphrase_file: PassphraseFile = None,
    ask_passphrase: AskPassphrase = False,
) -> None:
    """Make a validator's home: new keys and a node.toml to complete.

    Prints the validator's entry for the chain's genesis.json, which the founders exchange.
    """
    with failures():
        check_scheme(scheme)
        passphrase = read_secret(passphrase_file, ask_passphrase, confirm=True)
        name = name or home.resolve().name
        if len(name) > 64:
            raise CommandError("--name: at most 64 characters", 2)
        with _writing(home):
            validator = write_home(home, name=name, scheme=scheme, passphrase=passphrase)
        out().print(registration_text(validator), soft_wrap=True, markup=False)
        typer.echo(
            f"Made {home}. Next: put this entry into 'validators' of the chain's genesis.json with those of the other "
            f"founders, copy that file to {home / 'genesis.json'}, fill in the addresses in {home / 'node.toml'}, and "
            f"run: sequencer start --home {home}",
            err=True,
        )


def make_testnet(
    directory: Annotated[Path, typer.Argument(help="Where to make the homes.")] = Path("testnet"),
    validators: Annotated[int, typer.Option("-n", "--validators", min=1, max=200)] = 4,
    observers: Annotated[int, typer.Option(min=0, max=200)] = 0,
    protocol: ProtocolName = DEFAULT_PROTOCOL,
    scheme: SchemeName = PRODUCTION_SCHEMES[0],
    rollup: Annotated[
        list[str] | None,
        typer.Option(help="ID=ADAPTER[,KEY=VALUE...], once per rollup; by default 1=raw.", show_default=False),
    ] = None,
    chain_id: Annotated[str, typer.Option(help="The chain's name, in every signature.")] = "testnet",
    base_port: Annotated[
        int, typer.Option(help="First of two ports per home; 0 takes free ones.", min=0, max=65000)
    ] = 26600,
    passphrase_file: PassphraseFile = None,
    ask_passphrase: AskPassphrase = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write the homes of a whole chain on this machine, ready to start."""
    with failures():
        check_scheme(scheme)
        check_protocol(protocol)
        plan = ChainPlan(
            protocol=protocol,
            scheme=scheme,
            rollups=[parse_rollup(text) for text in rollup or ["1=raw"]],
            validators=validators,
            observers=observers,
            base_port=base_port,
            chain_id=chain_id,
        )
        passphrase = read_secret(passphrase_file, ask_passphrase, confirm=True)
        with _writing(directory):
            homes = write_testnet(directory, plan, passphrase=passphrase)
        configs = [load_written(home) for home in homes]
        if as_json:
            print_json(_homes_json(homes, configs))
            return
        console = out()
        console.print(f"Wrote {len(homes)} homes of chain [bold]{escape(chain_id)}[/] ({configs[0].spec.hash.hex()}):")
        for home, config in zip(homes, configs, strict=True):
            console.print(f"  sequencer start --home {home}    # API http://{address_text(config.api.listen)}")


def load_written(home: Path) -> Config:
    """The configuration of a home just written: what the arguments made of it is judged here."""
    try:
        return Config.load(home / "node.toml")
    except ConfigError as error:
        raise CommandError(f"the homes were written but cannot be used: {error}", UNUSABLE) from None


def parse_rollup(text: str) -> RollupConfig:
    """``ID=ADAPTER[,KEY=VALUE...]``; a value is a JSON one, or a text. Raises :class:`CommandError`."""
    first, *settings = text.split(",")
    number, separator, adapter = first.partition("=")
    if not separator or not number.isascii() or not number.isdecimal() or int(number) >= 2**64:
        raise CommandError(f"--rollup: expected ID=ADAPTER such as 7=raw, not {text!r}", 2)
    if adapter not in known_adapters():
        raise CommandError(f"--rollup: no adapter {adapter!r}; installed are {', '.join(known_adapters())}", 2)
    values: dict[str, JsonValue] = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not key or not separator:
            raise CommandError(f"--rollup: expected KEY=VALUE, not {setting!r}", 2)
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return RollupConfig(id=int(number), adapter=adapter, settings=values)


def _homes_json(homes: list[Path], configs: list[Config]) -> JsonValue:
    spec = configs[0].spec
    return {
        "chain_id": spec.chain_id,
        "genesis_hash": spec.hash.hex(),
        "protocol": spec.protocol,
        "scheme": spec.scheme,
        "rollups": list(spec.rollups),
        "homes": [
            {
                "home": str(home),
                "role": "validator" if config.consensus_key_files else "observer",
                "api": f"http://{address_text(config.api.listen)}",
            }
            for home, config in zip(homes, configs, strict=True)
        ],
    }


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Says where writing failed."""
    try:
        yield
    except OSError as error:
        raise HomeError(f"{error.filename or place}: {error.strerror}; choose another place") from None
    except ValueError as error:
        raise HomeError(str(error)) from None
