"""Adapters in processes of their own: ``wire`` has the frames, ``child`` runs there, ``supervisor`` on this side."""

from rollup_adapters.host.connection import AdapterUnavailable
from rollup_adapters.host.supervisor import AdapterHost, AdapterSpec, HostLimits

__all__ = ["AdapterHost", "AdapterSpec", "AdapterUnavailable", "HostLimits"]
