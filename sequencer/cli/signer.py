"""``sequencer signer run | init | separate``: a signing process, its empty memory, and a node's keys moved to one."""

from __future__ import annotations

import json
import logging
import os
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer

from sequencer.cli.console import STOPPED, UNUSABLE, CommandError, failures, out, read_secret
from sequencer.cli.create import AskPassphrase
from sequencer.cli.start import Stop, leaves_of, log_to_stderr, until_end_of_input, until_signal
from sequencer.config import ConfigError
from sequencer.homes import HomeError
from sequencer.keys import KeyFileError
from sequencer.signer.config import SignerConfig
from sequencer.signer.homes import SIGNER_FILE, separate
from sequencer.signer.process import make_database, open_signer
from sequencer.signer.server import SocketError
from sequencer.storage import InUseError, StorageError
from sequencer.storage.signing_store import NoMemoryError, PartialMemoryError

Home = Annotated[Path | None, typer.Option(help="The signing process's home, which holds signer.toml.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Its configuration file, instead of a home.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="The passphrase of encrypted key files, in this file's first line.")
]

_logger = logging.getLogger(__name__)


def run_command(
    home: Home = None,
    config: ConfigFile = None,
    passphrase_file: PassphraseFile = None,
    ask_passphrase: AskPassphrase = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say where it listens as one line of JSON.")] = False,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", hidden=True, help="Stop when standard input ends.")
    ] = False,
) -> None:
    """Hold the keys, and sign for the nodes that signer.toml names, until SIGTERM or Ctrl-C. Logs go to standard error.

    Whatever nodes ask, no key ever signs two things that contradict each other: each signature is recorded, synced, and
    then made. Nodes wait while this process is away. Exits with 0 after a signal, with 3 when it cannot start, with 5
    when its disk failed.
    """
    with failures():
        loaded = _load(home, config)
        log_to_stderr(loaded.log_level)
        passphrase = read_secret(passphrase_file, ask_passphrase, confirm=False)
        try:
            trio.run(partial(_run, loaded, passphrase, as_json=as_json, with_parent=with_parent))
        except (Exception, KeyboardInterrupt) as error:
            raise _ending(error, loaded) from error


def init_command(home: Home = None, config: ConfigFile = None) -> None:
    """Make the empty protection database of keys that never signed anything.

    A signing process does not start without its database, and does not make one by itself: keys that have signed must
    never meet an empty one.
    """
    with failures():
        loaded = _load(home, config)
        try:
            make_database(loaded)
        except StorageError as error:
            raise CommandError(str(error), UNUSABLE) from None
        out().print(f"Made {loaded.database}. Next: sequencer signer run --home {loaded.file.parent}", soft_wrap=True)


def separate_command(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="The home of a stopped validator.")],
    signer_home: Annotated[Path, typer.Argument(metavar="SIGNER_HOME", help="Directory to make.")],
    passphrase_file: PassphraseFile = None,
    ask_passphrase: AskPassphrase = False,
) -> None:
    """Move the consensus keys of HOME, and the memory of what they signed last, to a signing process in SIGNER_HOME.

    HOME's node.toml then names the signing process, and no key is left in HOME but the TLS key. Start both.
    """
    with failures():
        passphrase = read_secret(passphrase_file, ask_passphrase, confirm=False)
        try:
            taken = separate(home, signer_home, passphrase=passphrase)
        except OSError as error:
            place = error.filename or signer_home
            raise CommandError(f"{place}: {error.strerror}; choose another place", UNUSABLE) from None
        except StorageError as error:
            raise CommandError(str(error), UNUSABLE) from None
        out().print(
            f"Moved the keys of {home} to {signer_home}, with {taken} kinds of subjects that they signed. Next: "
            f"sequencer signer run --home {signer_home}, and sequencer start --home {home}",
            soft_wrap=True,
        )


def _load(home: Path | None, config: Path | None) -> SignerConfig:
    file = config if home is None else home / SIGNER_FILE
    if file is None or (home is not None and config is not None):
        raise CommandError("give either --home or --config", 2)
    return SignerConfig.load(file)


async def _run(config: SignerConfig, passphrase: str | None, *, as_json: bool, with_parent: bool) -> None:
    async with trio.open_nursery() as nursery:
        stop = Stop(nursery.cancel_scope.cancel)
        await nursery.start(until_signal, stop)
        if with_parent:
            nursery.start_soon(until_end_of_input, stop)
        async with open_signer(config, passphrase=passphrase) as authority:
            keys = [key.hex() for key in authority.public_keys]
            if as_json:
                line = {"socket": str(config.socket), "public_keys": keys, "process_id": os.getpid()}
                print(json.dumps(line), flush=True)
            else:
                print(f"signing at {config.socket} with {', '.join(keys)}. Ctrl-C stops it.", flush=True)
            await trio.sleep_forever()


def _ending(error: BaseException, config: SignerConfig) -> BaseException:
    """What to raise for a process that ended with ``error``: something with a message and an exit code."""
    for leaf in leaves_of(error):
        match leaf:
            case KeyFileError() | ConfigError() | CommandError() | HomeError() | KeyboardInterrupt():
                return leaf
            case InUseError():
                return CommandError(
                    f"{config.database}: a running signing process has it open. Stop that process first.", UNUSABLE
                )
            case SocketError() | NoMemoryError() | PartialMemoryError():
                return CommandError(str(leaf), UNUSABLE)
            case StorageError():
                return CommandError(f"the signing process stopped: {leaf}", STOPPED)
            case _:
                pass
    _logger.critical("the signing process stopped on a fault of its own", exc_info=error)
    return CommandError(f"the signing process stopped: {error!r}. Please report this, with the log above", STOPPED)
