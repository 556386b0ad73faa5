"""An adapter proves itself, in its author's own pytest::

    from hypothesis import strategies as st
    from rollup_adapters.testkit import conformance

    test_counter = conformance(Counter, transactions=st.binary(max_size=16))

pytest collects one test per aspect (``test_counter[crash]`` and so on). Each failure names what was broken and how it
is usually mended. The tests run the adapter in this process and drive trio themselves, so they need no plug-in and no
``trio_mode``; ``kill`` alone runs it in a real host process and needs a class at the top level of a module.

==============  ========================================================================================================
``contract``    version, fresh cursor, unknown settings refused, ``check`` answers for each, ``close`` and reopen
``order``       one block at a time or in runs, empty heights named or jumped over: same state; order is committed to
``determinism`` two fresh instances agree on every commitment and every outcome
``idempotence`` delivering any suffix again changes nothing and repeats the stored outcomes
``crash``       a copy of the directory at *every change on disk* during every delivery is opened as if after a crash
``poison``      empty, random, truncated, bit-flipped, duplicated and huge transactions never stop the rollup
``settle``      levels never move backwards and never move the state
``query``       unknown methods and unfit parameters are refused by value; answers are JSON, bounded; cancellable
``kill``        SIGKILL of the host process in the middle of deliveries; resumed, it agrees with a run in this process
==============  ========================================================================================================

What it cannot see: loss of power (SIGKILL keeps the kernel's page cache, so a missing fsync goes unnoticed).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import pytest
from hypothesis.strategies import SearchStrategy

from rollup_adapters.base import Height, JsonValue, RollupAdapter
from rollup_adapters.testkit import checks, crash, kill
from rollup_adapters.testkit.subject import ConformanceError, StuckError, Subject, fail

__all__ = ["ConformanceError", "conformance"]

ASPECTS: Final = MappingProxyType(
    {
        "contract": checks.contract,
        "order": checks.order,
        "determinism": checks.determinism,
        "idempotence": checks.idempotence,
        "crash": crash.crash,
        "poison": checks.poison,
        "settle": checks.settle,
        "query": checks.query,
        "kill": kill.kill,
    }
)


def conformance(
    adapter: type[RollupAdapter],
    *,
    transactions: SearchStrategy[bytes],
    settings: Mapping[str, JsonValue] | None = None,
    rollup_id: int = 1,
    queries: Sequence[tuple[str, JsonValue]] = (),
    settled: Callable[[RollupAdapter], Awaitable[tuple[Height, Height]]] | None = None,
    commutative: bool = False,
    examples: int = 15,
    timeout_s: float = 30.0,
) -> Callable[[str], None]:
    """A parametrized pytest function that holds ``adapter`` to the contract; bind it to a name ``test_...``.

    ``transactions`` draws mostly well-formed transactions. ``queries`` are reads that should work after any delivery.
    ``settled`` reads back the (soft, firm) heights, where the adapter can show them. ``commutative`` declares that the
    state does not depend on the order of transactions, which is otherwise taken for a fault. ``examples`` is the number
    of histories per aspect, ``timeout_s`` the longest that one may take. Failures raise :class:`ConformanceError`.
    """
    subject = Subject(
        adapter=adapter,
        transactions=transactions,
        settings=dict(settings or {}),
        rollup_id=rollup_id,
        queries=tuple(queries),
        settled=settled,
        commutative=commutative,
        examples=examples,
        timeout_s=timeout_s,
    )

    @pytest.mark.parametrize("aspect", list(ASPECTS))
    def test(aspect: str) -> None:
        try:
            ASPECTS[aspect](subject)
        except StuckError as error:
            mend = "bound every loop and every wait by the input; where it is honest work, raise timeout_s"
            fail("every call comes back", str(error), mend)

    return test
