"""Schemes by name: a node gets real ones only."""

from __future__ import annotations

import pytest

from consensus.crypto.registry import PRODUCTION_SCHEMES, SIMULATED_SCHEME, scheme_named


@pytest.mark.parametrize("name", PRODUCTION_SCHEMES)
def test_production_schemes_are_found_by_their_name(name: str) -> None:
    scheme = scheme_named(name)
    assert scheme.name == name
    assert not scheme.for_simulation


def test_the_simulated_scheme_is_given_to_a_simulation_only() -> None:
    with pytest.raises(ValueError, match=r"scheme: 'simulated' can be forged.*ed25519, bls"):
        scheme_named(SIMULATED_SCHEME)
    assert scheme_named(SIMULATED_SCHEME, allow_simulated=True).name == SIMULATED_SCHEME


@pytest.mark.parametrize("name", ["", "Ed25519", "rsa"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"scheme: '\w*' is unknown; choose one of ed25519, bls"):
        scheme_named(name, allow_simulated=True)
