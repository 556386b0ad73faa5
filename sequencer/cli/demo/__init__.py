"""``sequencer demo``: real processes, real TLS, real fsync, one SIGKILL, and proof that everybody agrees.

Validators and an observer run as processes on this machine; users send signed transactions and blobs through the
public API; halfway one validator is killed and restarted. Some transactions are followed until they are final. In the
end ``verify`` judges the homes, and every position that a user was given a receipt for is looked up in the archives.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import httpx
import trio
import typer

from consensus.crypto.registry import PRODUCTION_SCHEMES
from consensus.protocols.registry import DEFAULT_PROTOCOL
from sequencer.cli.console import NO, STOPPED, CommandError, err, failures, out, print_json
from sequencer.cli.create import ProtocolName, SchemeName, check_protocol, check_scheme
from sequencer.cli.demo.feeder import Feeder
from sequencer.cli.demo.plan import DemoOptions, write_demo
from sequencer.cli.demo.probe import FinalityProbe
from sequencer.cli.demo.processes import Fleet, NodeFailed, NodeProcess, interrupted_by_sigterm, open_fleet
from sequencer.cli.demo.report import Crash, DemoResult, Reported, result_json, show
from sequencer.cli.demo.screen import POLL_S, Screen, Watcher
from sequencer.cli.demo.sender import Ledgers, Sender, TrafficFailed, api_client
from sequencer.cli.demo.users import Users
from sequencer.genesis import genesis_of
from sequencer.genesis_file import read_chain_spec
from sequencer.verify import home_of, verify

DOWN_S: Final = 2.0
CATCH_UP_TIMEOUT_S: Final = 60.0
DELIVERY_TIMEOUT_S: Final = 60.0


def command(
    validators: Annotated[int, typer.Option(min=4, max=32, help="At least four survive the loss of one.")] = 4,
    protocol: ProtocolName = DEFAULT_PROTOCOL,
    scheme: SchemeName = PRODUCTION_SCHEMES[0],
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long there is load.")] = 20.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result there; - is the output.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Go on until Ctrl-C, to look at it, and keep the homes.")
    ] = False,
) -> None:
    """Four validators, three rollups, one kill -9 - and everybody agrees. Takes less than a minute.

    Exits with 1 when anything disagrees or an acknowledged transaction is missing.
    """
    with failures():
        check_scheme(scheme)
        check_protocol(protocol)
        options = DemoOptions(validators=validators, protocol=protocol, scheme=scheme, seconds=seconds, keep=keep)
        directory = Path(tempfile.mkdtemp(prefix="sequencer-demo-"))
        result = None
        try:
            result = run(options, directory)
        finally:
            if result is not None and not result.problems and not keep:
                shutil.rmtree(directory)
            elif result is None:
                err().print(f"The homes and logs are in {directory}", soft_wrap=True)
        if json_file is not None and str(json_file) != "-":
            json_file.write_text(json.dumps(result_json(result), indent=2) + "\n")
        if str(json_file) == "-":
            print_json(result_json(result))
        else:
            show(result, out())
        if keep:
            out().print(f"The homes are in {directory}", soft_wrap=True)
        if result.problems:
            raise typer.Exit(NO)


def run(options: DemoOptions, directory: Path) -> DemoResult:
    """The whole demo, in ``directory``. Raises :class:`CommandError`; ``KeyboardInterrupt`` when it is told to end."""
    try:
        return trio.run(partial(_run, options, directory))
    except* (NodeFailed, TrafficFailed) as failed:
        leaf: BaseException = failed
        while isinstance(leaf, BaseExceptionGroup):
            leaf = leaf.exceptions[0]
        raise CommandError(str(leaf), STOPPED) from None
    except* KeyboardInterrupt:
        raise KeyboardInterrupt from None


async def _run(options: DemoOptions, directory: Path) -> DemoResult:
    async with trio.open_nursery() as nursery:
        await nursery.start(interrupted_by_sigterm)
        result = await _perform(options, directory)
        nursery.cancel_scope.cancel()
    return result


async def _perform(options: DemoOptions, directory: Path) -> DemoResult:
    homes = write_demo(directory, options)
    genesis = genesis_of(read_chain_spec(homes[0] / "genesis.json"))
    title = f"{options.validators} validators and an observer, {options.protocol}, {options.scheme}"
    async with open_fleet(homes) as fleet, api_client() as client:
        watcher = Watcher(fleet.nodes)
        screen = Screen(err(), watcher, title)
        async with screen.shown(), trio.open_nursery() as nursery:
            screen.say(f"starting {title}; homes and logs in {directory}")
            nursery.start_soon(_keep_looking, watcher, client)
            await fleet.start_all()
            screen.say("all serve; users begin to send")
            stopping = trio.Event()
            sender = Sender(fleet.nodes, genesis, client)
            screen.ledgers = sender.seen
            probe = FinalityProbe(fleet.nodes, genesis, client, sender, stopping)
            async with trio.open_nursery() as sending:
                sending.start_soon(probe.run)
                sending.start_soon(Users(sender, len(homes), stopping, screen.say).run)
                sending.start_soon(Feeder([node.api for node in fleet.nodes], genesis, sender.seen, stopping).run)
                crash = await _crash(options, fleet, watcher, sender.seen, screen.say)
                stopping.set()
            screen.say("users have stopped; waiting until every node has executed everything")
            await _executed(watcher, sender.seen)
            nursery.cancel_scope.cancel()
        if options.keep:
            await _until_interrupted(fleet, screen.say)
        await watcher.look_at_all(client)
        reported = _reported(watcher)
        screen.say("stopping all nodes")
        rough = await fleet.stop_all()
    screen.say("verifying the archives")
    verdict = await verify([home_of(home) for home in homes], acknowledged=sender.seen.positions)
    return DemoResult(
        options=options,
        ledgers=sender.seen,
        final_ms=tuple(probe.final_ms),
        verdict=verdict,
        reported=reported,
        crash=crash,
        rough=tuple(rough),
        directory=directory,
    )


async def _keep_looking(watcher: Watcher, client: httpx.AsyncClient) -> None:
    while True:
        await watcher.look_at_all(client)
        await trio.sleep(POLL_S)


async def _crash(
    options: DemoOptions, fleet: Fleet, watcher: Watcher, ledgers: Ledgers, say: Callable[[str], None]
) -> Crash:
    """Half of the load, a SIGKILL, a restart, the other half."""
    end = trio.current_time() + options.seconds
    victim = fleet.nodes[options.validators - 1]
    await trio.sleep(options.seconds / 2)
    say(f"kill -9 {victim.name} (process {victim.process_id}) at height {watcher.height()}")
    latencies_before = len(ledgers.latencies_ms)
    await victim.kill()
    killed_at = trio.current_time()
    await trio.sleep(min(DOWN_S, options.seconds / 8))
    began = trio.current_time()
    await fleet.start(victim)
    with trio.move_on_after(CATCH_UP_TIMEOUT_S):
        await _caught_up(victim, watcher)
        catch_up_s = trio.current_time() - began
        say(f"{victim.name} was down for {began - killed_at:.1f} s and has caught up in {catch_up_s:.1f} s")
        await trio.sleep_until(max(end, trio.current_time() + 1.0))
        return Crash(
            killed=victim.name, down_s=began - killed_at, catch_up_s=catch_up_s, latencies_before=latencies_before
        )
    raise NodeFailed(f"{victim.name} did not catch up within {CATCH_UP_TIMEOUT_S:g} s; its log is {victim.log}")


async def _caught_up(victim: NodeProcess, watcher: Watcher) -> None:
    """Until it has every height that the others had shown before it was asked."""
    async with api_client() as client:
        while True:
            target = watcher.height(besides=victim)
            state = await watcher.look(client, victim)
            if state is not None and 0 < target <= state.ledger_height:
                return
            await trio.sleep(POLL_S / 10)


async def _executed(watcher: Watcher, ledgers: Ledgers) -> None:
    """Until every node's adapters have been given every acknowledged transaction."""
    wanted = {rollup_id: count.last_height for rollup_id, count in ledgers.rollups.items()}
    with trio.move_on_after(DELIVERY_TIMEOUT_S):
        while True:
            states = [watcher.states.get(node.name) for node in watcher.nodes]
            if all(
                state is not None
                and all(adapter.delivered_height >= wanted[adapter.rollup_id] for adapter in state.adapters)
                for state in states
            ):
                return
            await trio.sleep(POLL_S / 2)
    raise NodeFailed(f"after {DELIVERY_TIMEOUT_S:g} s some node has not executed every acknowledged transaction")


def _reported(watcher: Watcher) -> tuple[Reported, ...]:
    return tuple(
        Reported(home=name, rollup_id=adapter.rollup_id, state_commitment=adapter.state_commitment)
        for name, state in sorted(watcher.states.items())
        for adapter in state.adapters
    )


async def _until_interrupted(fleet: Fleet, say: Callable[[str], None]) -> None:
    for node in fleet.nodes:
        say(f"{node.name}: {node.api}/")
    say("look at them in a browser; Ctrl-C ends the demo and verifies the homes")
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async for _ in received:
            return
