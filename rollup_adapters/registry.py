"""Adapters by name: entry-point group ``shared_sequencer.adapters``, loaded only when a configuration asks for them.

A third party's package becomes an adapter with two lines of its ``pyproject.toml``::

    [project.entry-points."shared_sequencer.adapters"]
    counter = "their_package.counter:Counter"

Nothing is imported but the one class that was named: an installed package that no configuration names never runs.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from rollup_adapters.base import API_VERSION, ENTRY_POINT_GROUP, RollupAdapter

REQUIRED_METHODS: Final = ("check", "deliver", "last_delivered", "settle", "query", "close")


class AdapterLoadError(Exception):
    """A name in the configuration does not lead to a usable adapter class. The message says why and what to do."""


def known_adapters() -> tuple[str, ...]:
    """The names that :func:`load_adapter` would find, sorted. Imports none of them."""
    return tuple(sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)}))


def load_adapter(name: str) -> type[RollupAdapter]:
    """Import and return the adapter class registered as ``name``.

    Raises :class:`AdapterLoadError` when the name is unknown or claimed twice, when its module does not import, or when
    the class does not fit the contract (``api_version``, the methods of :class:`~rollup_adapters.base.RollupAdapter`).
    """
    point = _find(name)
    try:
        loaded: object = point.load()
    except Exception as error:
        raise AdapterLoadError(f"{_describe(point)} does not import: {type(error).__name__}: {error}") from error
    return _checked(loaded, point)


def _find(name: str) -> EntryPoint:
    found = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    # The same package seen twice on sys.path (a checkout and its installed copy) names the same class: no conflict.
    if len({point.value for point in found}) > 1:
        claims = "; ".join(sorted(_describe(point) for point in found))
        raise AdapterLoadError(f"the adapter name {name!r} is claimed more than once: {claims}. Uninstall all but one.")
    if not found:
        known = ", ".join(known_adapters()) or "none is installed"
        raise AdapterLoadError(
            f"no adapter is called {name!r} (known: {known}). Correct the name, or install a package that declares it "
            f"in entry-point group {ENTRY_POINT_GROUP!r}."
        )
    return found[0]


def _checked(loaded: object, point: EntryPoint) -> type[RollupAdapter]:
    if not isinstance(loaded, type):
        raise AdapterLoadError(f"{_describe(point)} is not a class but {type(loaded).__name__}; name the adapter class")
    version = getattr(loaded, "api_version", None)
    if version != API_VERSION:
        raise AdapterLoadError(
            f"{_describe(point)} declares api_version {version!r}, this release speaks {API_VERSION}. "
            "Install matching versions of the adapter and of shared-sequencer."
        )
    missing = [method for method in REQUIRED_METHODS if not callable(getattr(loaded, method, None))]
    if missing:
        raise AdapterLoadError(f"{_describe(point)} lacks {', '.join(missing)}; see rollup_adapters.base.RollupAdapter")
    return cast("type[RollupAdapter]", loaded)


def _describe(point: EntryPoint) -> str:
    origin = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unnamed distribution"
    return f"adapter {point.name!r} ({point.value}, from {origin})"
