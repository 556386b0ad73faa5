"""Adapters: how a rollup receives, executes and answers for the transactions that were ordered for it.

This room imports no other room. An adapter sees confirmed blocks of one rollup and nothing of consensus.
"""
