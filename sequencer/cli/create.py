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
from consensus.genesis import Reconfiguration
from consensus.protocols.registry import DEFAULT_PROTOCOL, protocol_named, protocol_names
from rollup_adapters.base import JsonValue
from rollup_adapters.registry import known_adapters
from sequencer.cli.console import UNUSABLE, CommandError, failures, out, print_json, read_secret
from sequencer.cli.join import RunningChain, chain_at
from sequencer.config import (
    API_LISTEN_DEFAULT,
    LISTEN_DEFAULT,
    Address,
    Config,
    ConfigError,
    RollupConfig,
    address_text,
    parse_address,
)
from sequencer.homes import (
    ChainPlan,
    HomeError,
    Registration,
    registration_text,
    write_home,
    write_registration,
    write_testnet,
)
from sequencer.signer.homes import separate_all
from sequencer.tables import KeyPathError

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
    scheme: Annotated[
        str | None,
        typer.Option(
            help=f"Signatures: {' or '.join(PRODUCTION_SCHEMES)}; by default the first, or the joined chain's."
        ),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            metavar="NODE",
            help="Join a running chain: the home or the API (http://...) of one of its nodes, or its genesis.json.",
        ),
    ] = None,
    listen: Annotated[str, typer.Option(help="host:port for peers.")] = LISTEN_DEFAULT,
    api: Annotated[str, typer.Option(help="host:port for the API.")] = API_LISTEN_DEFAULT,
    address: Annotated[
        str | None, typer.Option(help="With --join: where peers reach it, when that is not --listen.")
    ] = None,
    operator: Annotated[
        str | None, typer.Option(help="With --join: who runs it, for the concentration cap; by default the name.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    ask_passphrase: AskPassphrase = False,
) -> None:
    """Make a validator's home: new keys and a node.toml.

    Prints the validator's entry for the chain's genesis.json, which the founders exchange; with --join the registration
    that the governors of a running chain need, also in the home's registration.json.
    """
    with failures():
        name = name or home.resolve().name
        if len(name) > 64:
            raise CommandError("--name: at most 64 characters", 2)
        if join is None and (address is not None or operator is not None):
            raise CommandError("--address and --operator are of a validator that joins: give --join too", 2)
        places = (_place("--listen", listen), _place("--api", api))
        if join is None:
            _init_founder(home, name, scheme or PRODUCTION_SCHEMES[0], places, passphrase_file, ask_passphrase)
            return
        chain = chain_at(join)
        if scheme not in (None, chain.spec.scheme):
            raise CommandError(f"--scheme: chain {chain.spec.chain_id!r} signs with {chain.spec.scheme}", 2)
        reached_at = listen if address is None else address_text(_place("--address", address))
        passphrase = read_secret(passphrase_file, ask_passphrase, confirm=True)
        with _writing(home):
            validator = write_home(
                home,
                name=name,
                scheme=chain.spec.scheme,
                listen=places[0],
                api=places[1],
                spec=chain.spec,
                peers=chain.peers,
                rollups=chain.rollups,
                passphrase=passphrase,
            )
            registration = Registration(validator=validator, operator=operator or name, address=reached_at)
            write_registration(home / "registration.json", registration)
        typer.echo((home / "registration.json").read_text(), nl=False)
        typer.echo(_joining(home, chain), err=True)


def _init_founder(
    home: Path,
    name: str,
    scheme: str,
    places: tuple[Address, Address],
    passphrase_file: Path | None,
    ask_passphrase: bool,
) -> None:
    check_scheme(scheme)
    passphrase = read_secret(passphrase_file, ask_passphrase, confirm=True)
    with _writing(home):
        validator = write_home(home, name=name, scheme=scheme, listen=places[0], api=places[1], passphrase=passphrase)
    out().print(registration_text(validator), soft_wrap=True, markup=False)
    typer.echo(
        f"Made {home}. Next: put this entry into 'validators' of the chain's genesis.json with those of the other "
        f"founders, copy that file to {home / 'genesis.json'}, fill in the addresses in {home / 'node.toml'}, and "
        f"run: sequencer start --home {home}",
        err=True,
    )


def _joining(home: Path, chain: RunningChain) -> str:
    """What to do with a joiner's home next."""
    steps = [f"Made {home} for chain {chain.spec.chain_id!r}, genesis hash {chain.spec.hash.hex()}. Next:"]
    if not chain.trusted:
        steps.append("compare this hash with that of somebody you trust: it came over the network;")
    if not chain.peers:
        steps.append(f"fill in network.peers in {home / 'node.toml'};")
    steps.append(f"run: sequencer start --home {home} (peers turn it away until it is added);")
    steps.append(f"have it added: sequencer validator add NODE {home / 'registration.json'} --governor KEYFILE")
    return " ".join(steps)


def _place(option: str, text: str) -> Address:
    try:
        return parse_address(option, text, port_min=1)
    except KeyPathError as error:
        raise CommandError(str(error), 2) from None


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
    governors: Annotated[
        int, typer.Option(help="Keys that approve new validators; 0: the validators never change.", min=0, max=64)
    ] = 1,
    governors_needed: Annotated[int, typer.Option(help="How many of them must sign.", min=1, max=64)] = 1,
    epoch_heights: Annotated[int, typer.Option(help="Validators can change after each so many blocks.", min=1)] = 64,
    delay_heights: Annotated[
        int,
        typer.Option(help="Blocks from the order of a change until it is due: time for a new node to catch up.", min=0),
    ] = 16,
    concentration: Annotated[
        int, typer.Option(help="The largest share of the stake of one operator, in per cent.", min=1, max=100)
    ] = 100,
    signers: Annotated[
        bool, typer.Option("--signers", help="Leave each validator's key to a signing process with a home of its own.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    ask_passphrase: AskPassphrase = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write the homes of a whole chain on this machine, ready to start, and its governors' keys beside them."""
    with failures():
        reconfiguration = Reconfiguration(
            epoch_heights=epoch_heights,
            activation_heights=delay_heights,
            exit_heights=delay_heights,
            governors_needed=governors_needed,
            concentration_percent=concentration,
        )
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
            reconfiguration=reconfiguration if governors else None,
            governors=governors,
        )
        passphrase = read_secret(passphrase_file, ask_passphrase, confirm=True)
        with _writing(directory):
            homes = write_testnet(directory, plan, passphrase=passphrase)
            apart = separate_all(homes, passphrase=passphrase) if signers else []
        _say_written(homes, apart, _governor_files(directory, governors), as_json=as_json)


def _say_written(homes: list[Path], signers: list[Path], governors: list[Path], *, as_json: bool) -> None:
    configs = [load_written(home) for home in homes]
    spec = configs[0].spec
    if as_json:
        print_json({**_homes_json(homes, configs, governors), "signers": [str(home) for home in signers]})
        return
    console = out()
    console.print(f"Wrote {len(homes)} homes of chain [bold]{escape(spec.chain_id)}[/] ({spec.hash.hex()}):")
    for home in signers:
        console.print(f"  sequencer signer run --home {home}")
    for home, config in zip(homes, configs, strict=True):
        console.print(f"  sequencer start --home {home}    # API http://{address_text(config.api.listen)}")
    for file in governors:
        console.print(f"  {file}    # approves changes of the validators: keep it off the nodes")


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


def _governor_files(directory: Path, count: int) -> list[Path]:
    return [directory / f"governor-{index}.json" for index in range(count)]


def _homes_json(homes: list[Path], configs: list[Config], governors: list[Path]) -> dict[str, JsonValue]:
    spec = configs[0].spec
    return {
        "chain_id": spec.chain_id,
        "genesis_hash": spec.hash.hex(),
        "protocol": spec.protocol,
        "scheme": spec.scheme,
        "rollups": list(spec.rollups),
        "governors": [str(file) for file in governors],
        "homes": [
            {
                "home": str(home),
                "role": "validator" if config.consensus_key_files or config.signer else "observer",
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
