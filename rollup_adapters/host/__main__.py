"""``python -m rollup_adapters.host``: one adapter's process, started by the node; its standard input is a socket."""

from rollup_adapters.host.child import main

main()
