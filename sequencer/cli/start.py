"""``sequencer start``: one node with its API, until a signal.

SIGTERM or SIGINT drains: the API stops accepting and finishes what is in work, then the node closes its adapters, its
connections and its files, and the process ends with 0. A second signal ends it at once, which loses nothing either:
what was acknowledged is durable.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer

from sequencer.api.server import serve_api
from sequencer.cli.console import STOPPED, UNUSABLE, CommandError, failures, read_secret
from sequencer.config import Config, ConfigError, LogLevel, address_text
from sequencer.keys import KeyFileError
from sequencer.ledger import OlderCopy
from sequencer.node import Node, open_node
from sequencer.signer.remote import SigningRefused
from sequencer.storage import InUseError, StorageError

logger = logging.getLogger(__name__)


def command(
    home: Annotated[Path | None, typer.Option(help="The node's home, which holds node.toml.")] = None,
    config: Annotated[Path | None, typer.Option(help="The node's configuration file, instead of a home.")] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="The passphrase of encrypted key files, in this file's first line.")
    ] = None,
    ask_passphrase: Annotated[bool, typer.Option("--ask-passphrase", help="Ask for it at the terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say where it listens as one line of JSON.")] = False,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", hidden=True, help="Stop when standard input ends.")
    ] = False,
) -> None:
    """Run a node with its API until SIGTERM or Ctrl-C, which drain it. Logs go to standard error.

    Exits with 0 after a signal, with 3 when it cannot start, with 5 when its disk, journal or core failed.
    """
    with failures():
        file = config if home is None else home / "node.toml"
        if file is None or (home is not None and config is not None):
            raise CommandError("give either --home or --config", 2)
        loaded = Config.load(file)
        log_to_stderr(loaded.log_level)
        passphrase = read_secret(passphrase_file, ask_passphrase, confirm=False)
        say = partial(_say, config=loaded, as_json=as_json)
        try:
            trio.run(partial(run, loaded, passphrase=passphrase, say=say, with_parent=with_parent))
        except (Exception, KeyboardInterrupt) as error:
            raise _ending(error) from error


@dataclass(slots=True)
class Stop:
    """What a signal does: before the node serves, everything is cancelled; after that it drains."""

    act: Callable[[], None]


async def run(
    config: Config, *, passphrase: str | None, say: Callable[[Node, int], None], with_parent: bool = False
) -> None:
    """Run the node until a signal. ``say`` is told when it serves, with the API's port. Raises what
    :func:`~sequencer.node.open_node` and :func:`~sequencer.api.server.serve_api` raise, in exception groups."""
    async with trio.open_nursery() as nursery:
        stop = Stop(nursery.cancel_scope.cancel)
        await nursery.start(until_signal, stop)
        if with_parent:
            nursery.start_soon(until_end_of_input, stop)
        async with open_node(config, passphrase=passphrase) as node, trio.open_nursery() as serving:
            port = await serving.start(partial(serve_api, node, config.api))
            stop.act = serving.cancel_scope.cancel
            say(node, port)
        logger.info("stopped")
        nursery.cancel_scope.cancel()


async def until_signal(stop: Stop, task_status: trio.TaskStatus[None]) -> None:
    """Act on the first SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        task_status.started()
        async for number in received:
            logger.info("%s: draining", signal.Signals(number).name)
            stop.act()
            break
    # From here on the signals do what they did before: the next one ends the process.


async def until_end_of_input(stop: Stop) -> None:
    """Act when standard input ends: whoever started this process is gone."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        while await stream.receive_some(1024):
            pass
    logger.info("standard input ended: draining")
    stop.act()


def _say(node: Node, port: int, *, config: Config, as_json: bool) -> None:
    api = f"http://{address_text((config.api.listen[0], port))}"
    listen = None if config.network.listen is None else address_text(config.network.listen)
    if as_json:
        line = {"name": node.name, "role": node.role, "api": api, "peers": listen, "process_id": os.getpid()}
        print(json.dumps(line), flush=True)
        return
    peers = "" if listen is None else f", peers at {listen}"
    print(f"{node.role} {node.name} of chain {node.spec.chain_id!r}: API at {api}{peers}. Ctrl-C stops it.", flush=True)


def log_to_stderr(level: LogLevel) -> None:
    """Everything logged goes to standard error."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )


def _ending(error: BaseException) -> BaseException:
    """What to raise for a node that ended with ``error``: something with a message and an exit code."""
    leaves = list(leaves_of(error))
    for leaf in leaves:
        match leaf:
            case KeyFileError() | ConfigError() | CommandError():
                return leaf
            case OlderCopy() | InUseError():
                return CommandError(str(leaf), UNUSABLE)
            case StorageError() | SigningRefused():
                return CommandError(f"the node stopped: {leaf}", STOPPED)
            case OSError(errno=errno.EADDRINUSE | errno.EADDRNOTAVAIL | errno.EACCES):
                return CommandError(
                    f"{leaf}: choose other addresses under [network] and [api] of the configuration", UNUSABLE
                )
            case KeyboardInterrupt():
                return leaf
            case _:
                pass
    logger.critical("the node stopped on a fault of its own", exc_info=error)
    reasons = "; ".join(f"{type(leaf).__name__}: {leaf}" for leaf in leaves[:4])
    return CommandError(f"the node stopped: {reasons}. Please report this, with the log above", STOPPED)


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, or the one itself."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves_of(each)
    else:
        yield error
