"""Consensus protocols as plug-ins; only this folder knows one by name."""
