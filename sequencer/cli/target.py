"""Which node a command talks to: its home, or the address of its API."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import msgspec

from sequencer.cli.console import UNREACHABLE, UNUSABLE, CommandError
from sequencer.config import Config, address_text
from sequencer.genesis import Genesis, genesis_of
from sequencer.genesis_file import read_chain_spec
from sequencer.tables import KeyPathError

TIMEOUT_S: Final = 10.0
WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""What a node that listens everywhere is asked at from here."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """``api`` is an address without a final slash; ``genesis`` None where only that is known."""

    name: str
    api: str
    genesis: Genesis | None


def target_of(text: str) -> Target:
    """The node that ``text`` names: ``http://host:port``, or a home. Raises :class:`CommandError` and
    ``ConfigError``."""
    if text.startswith(("http://", "https://")):
        return Target(name=text, api=text.rstrip("/"), genesis=None)
    home = Path(text)
    if not (home / "node.toml").is_file():
        raise CommandError(f"{text}: neither the address of an API (http://...) nor a home with a node.toml", UNUSABLE)
    config = Config.load(home / "node.toml")
    host, port = config.api.listen
    if port == 0:
        raise CommandError(f"{text}: its API takes any free port (api.listen); give the address it printed", UNUSABLE)
    address = address_text((WILDCARDS.get(host, host), port))
    return Target(name=home.resolve().name, api=f"http://{address}", genesis=genesis_of(config.spec))


def genesis_in(file: Path, option: str = "--genesis") -> Genesis:
    """The chain of a genesis file. Raises :class:`CommandError`, which names the option that named the file."""
    try:
        return genesis_of(read_chain_spec(file))
    except OSError as error:
        raise CommandError(f"{option}: {file}: {error.strerror}", UNUSABLE) from None
    except (KeyPathError, ValueError) as error:
        raise CommandError(f"{option}: {file}: {error}", UNUSABLE) from None


def reach(client: httpx.Client, request: httpx.Request) -> httpx.Response:
    """The answer, whatever its status. Raises :class:`CommandError` when there is none."""
    try:
        return client.send(request)
    except httpx.TransportError as error:
        raise CommandError(
            f"{request.url}: no answer ({error or type(error).__name__}). Is the node running, and is this the address "
            "that it printed?",
            UNREACHABLE,
        ) from None


class _Error(msgspec.Struct):
    code: str
    message: str


class _Refusal(msgspec.Struct):
    error: _Error


def refused(response: httpx.Response) -> CommandError:
    """What a node's refusal says, in JSON or in MessagePack."""
    packed = response.headers.get("content-type", "").startswith("application/msgpack")
    try:
        decode = msgspec.msgpack.decode if packed else msgspec.json.decode
        error = decode(response.content, type=_Refusal).error
    except msgspec.DecodeError:
        return CommandError(f"{response.url}: status {response.status_code}, and not a node's answer", UNREACHABLE)
    return CommandError(f"{response.url.host}:{response.url.port}: {error.code}: {error.message}", UNREACHABLE)
