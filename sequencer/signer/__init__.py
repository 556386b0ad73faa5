"""The signing process: keys and the memory of what they signed, apart from the node (docs/signer.md).

``rules.py`` decides, purely; ``authority.py`` records and signs; ``server.py`` answers on a local socket; ``remote.py``
is the node's side of it; ``messages.py`` is what they say; ``config.py`` and ``process.py`` put the process together.
"""
