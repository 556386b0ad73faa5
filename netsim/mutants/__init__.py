"""Protocols broken on purpose, one line each, to show that the simulator would notice. Outside production code: nothing
but the simulator and its tests imports this."""
