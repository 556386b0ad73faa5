"""Reads nested tables (TOML or JSON, already parsed) key by key, so that every error carries the path of its key and an
unknown key is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from rollup_adapters.base import JsonValue

_DEPTH_MAX: Final = 64


class KeyPathError(ValueError):
    """What is wrong with the value at one key; the message begins with the key's path, such as ``api.listen: ``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class Table:
    """One table and the path that leads to it. Each reader raises :class:`KeyPathError` for a value of another kind,
    and for an absent one unless it is given a default. End with :meth:`finish`."""

    __slots__ = ("_path", "_read", "_values")

    def __init__(self, values: object, path: str = "") -> None:
        if not isinstance(values, Mapping):
            raise KeyPathError(path or "the document", f"expected a table, not {_shown(values)}")
        self._values = cast("Mapping[str, object]", values)
        self._path = path
        self._read: list[str] = []

    def path(self, key: str) -> str:
        """The full path of ``key``."""
        return f"{self._path}.{key}" if self._path else key

    def error(self, key: str, problem: str) -> KeyPathError:
        """An error about the value at ``key``, to be raised by the caller."""
        return KeyPathError(self.path(key), problem)

    def names(self) -> tuple[str, ...]:
        """Every key, in the order of the document; for tables whose keys are names."""
        return tuple(self._values)

    def has(self, key: str) -> bool:
        self._note(key)
        return key in self._values

    def is_list(self, key: str) -> bool:
        """Whether the value at ``key`` is a list, where another kind may stand as well."""
        return isinstance(self._values.get(key), list)

    def text(self, key: str, *, default: str | None = None) -> str:
        """A string that is not empty."""
        value = self._get(key, default)
        if not isinstance(value, str) or not value:
            raise self.error(key, f"expected a text, not {_shown(value)}")
        return value

    def integer(self, key: str, low: int, high: int, *, default: int | None = None) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, f"expected a whole number, not {_shown(value)}")
        if not low <= value <= high:
            raise self.error(key, f"must be from {low} to {high}, not {value}")
        return value

    def hexadecimal(self, key: str, size: int | None = None) -> bytes:
        """Bytes in lower-case hexadecimal digits without a prefix; exactly ``size`` of them unless None."""
        return hexadecimal(self.text(key), self.path(key), size)

    def table(self, key: str) -> Table:
        """The table at ``key``; an empty one when it is absent."""
        return Table(self._get(key, {}), self.path(key))

    def list_at(self, key: str) -> list[object]:
        """The list at ``key``; an empty one when it is absent."""
        value = self._get(key, [])
        if not isinstance(value, list):
            raise self.error(key, f"expected a list, not {_shown(value)}")
        return value

    def tables(self, key: str) -> list[Table]:
        """The list of tables at ``key``; empty when it is absent."""
        return [Table(value, f"{self.path(key)}[{index}]") for index, value in enumerate(self.list_at(key))]

    def verbatim(self, key: str) -> dict[str, JsonValue]:
        """The table at ``key`` as it stands, for someone else to check; dates, which JSON cannot say, are refused."""
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, f"expected a table, not {_shown(value)}")
        return {str(name): _json(inner, f"{self.path(key)}.{name}", _DEPTH_MAX) for name, inner in value.items()}

    def finish(self) -> None:
        """Refuse every key that nothing read."""
        for key in self._values:
            if key not in self._read:
                raise self.error(key, f"unknown key; known here are {', '.join(sorted(self._read))}")

    def _get(self, key: str, default: object) -> object:
        self._note(key)
        value = self._values.get(key, default)
        if value is None:
            raise self.error(key, "missing")
        return value

    def _note(self, key: str) -> None:
        if key not in self._read:
            self._read.append(key)


def hexadecimal(value: object, path: str, size: int | None = None) -> bytes:
    """Bytes from lower-case hexadecimal digits without a prefix. Raises :class:`KeyPathError` naming ``path``."""
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else None
    except ValueError:
        data = None
    if data is None or data.hex() != value:
        raise KeyPathError(path, f"expected lower-case hexadecimal digits, not {_shown(value)}")
    if size is not None and len(data) != size:
        raise KeyPathError(path, f"must have {size} bytes ({2 * size} digits), not {len(data)}")
    return data


def _json(value: object, path: str, depth: int) -> JsonValue:
    if depth == 0:
        raise KeyPathError(path, f"nested deeper than {_DEPTH_MAX} tables")
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_json(inner, f"{path}[{index}]", depth - 1) for index, inner in enumerate(value)]
        case dict():
            return {str(name): _json(inner, f"{path}.{name}", depth - 1) for name, inner in value.items()}
        case _:
            raise KeyPathError(path, f"expected a text, number, truth value, list or table, not {_shown(value)}")


def _shown(value: object) -> str:
    kinds: dict[type, str] = {bool: "a truth value", dict: "a table", list: "a list"}
    text = kinds.get(type(value)) or repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
