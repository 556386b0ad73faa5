"""Signature schemes by name. The chain spec names one; a production configuration cannot name the simulated one."""

from __future__ import annotations

from typing import Final

from consensus.crypto.scheme import Scheme

PRODUCTION_SCHEMES: Final = ("ed25519", "bls")
SIMULATED_SCHEME: Final = "simulated"


def scheme_named(name: str, *, allow_simulated: bool = False) -> Scheme:
    """The scheme called ``name``. Raises ``ValueError`` for an unknown name, and for the simulated scheme unless
    ``allow_simulated``, which only a simulation sets."""
    # Imported on demand: a node loads the library of its own scheme and of no other.
    match name:
        case "ed25519":
            from consensus.crypto.ed25519 import Ed25519

            return Ed25519()
        case "bls":
            from consensus.crypto.bls import Bls

            return Bls()
        case "simulated" if allow_simulated:
            from consensus.crypto.simulated import Simulated

            return Simulated()
        case "simulated":
            raise ValueError(f"scheme: 'simulated' can be forged by anyone; choose one of {_known()}")
        case _:
            raise ValueError(f"scheme: {name[:64]!r} is unknown; choose one of {_known()}")


def _known() -> str:
    return ", ".join(PRODUCTION_SCHEMES)
