"""A node's public face over HTTP: REST, streams, Ethereum JSON-RPC, metrics and the live page.

``node_view`` says what it needs of a node, ``app`` has the routes, ``server`` serves them.
"""
