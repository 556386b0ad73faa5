"""``python -m sequencer.cli`` is ``sequencer``."""

from sequencer.cli import main

main()
