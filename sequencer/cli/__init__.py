"""The command line, ``sequencer``: thin uses of the library's public calls.

``sequencer COMMAND --help`` describes each command; the exit codes stand in :mod:`sequencer.cli.console`.
"""

from __future__ import annotations

import typer

from sequencer.cli import (
    bench,
    change_files,
    create,
    demo,
    evidence,
    signer,
    slashing,
    start,
    status,
    submit,
    validator,
    verify,
)

EPILOG = (
    "Exit codes: 0 yes or done, 1 no (a disagreement, something missing), 2 wrong usage, 3 an unusable file or "
    "setting, 4 a node unreachable or unwilling, 5 a node that had to stop, 130 interrupted."
)

app = typer.Typer(
    name="sequencer",
    help="A shared sequencer: validators order transactions for many rollups.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("init")(create.init)
app.command("testnet")(create.make_testnet)
app.command("demo")(demo.command)
app.command("bench")(bench.command)
app.command("start")(start.command)
app.command("status")(status.command)
app.command("submit")(submit.command)
app.command("verify")(verify.command)

signing = typer.Typer(
    name="signer",
    help="A process that holds keys, and what they signed, so that they never contradict it.",
    no_args_is_help=True,
)
signing.command("run")(signer.run_command)
signing.command("init")(signer.init_command)
signing.command("separate")(signer.separate_command)
signing.command("import")(slashing.import_command)
signing.command("export")(slashing.export_command)
app.add_typer(signing)

validators = typer.Typer(
    name="validator", help="Who validates a running chain, and changing that.", no_args_is_help=True
)
validators.command("list")(validator.list_command)
validators.command("add")(validator.add_command)
validators.command("remove")(validator.remove_command)
validators.command("rotate")(validator.rotate_command)
validators.command("stake")(validator.stake_command)
validators.command("sign")(change_files.sign_command)
validators.command("submit")(change_files.submit_command)
app.add_typer(validators)

guilt = typer.Typer(name="evidence", help="Proof of who broke the protocol, from files alone.", no_args_is_help=True)
guilt.command("verify")(evidence.verify_command)
guilt.command("extract")(evidence.extract_command)
app.add_typer(guilt)


def main() -> None:
    """The entry point of the ``sequencer`` script and of ``python -m sequencer.cli``."""
    app()
