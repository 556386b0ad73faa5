"""The page and the plot of protocol costs, from the cells that were measured. A cell that is missing shows as such."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.protocol_runs import DELAY_MS, LAN, PARTITIONS_MS, PAYLOAD_BYTES, REGIONS_TIMEOUT_MS, VIEW_TIMEOUT_MS
from consensus.protocols.chained import BROADCAST_VOTES_MAX
from consensus.protocols.registry import protocol_named

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | float | int | bool | None"
Cells: TypeAlias = Mapping[str, Json]
"""By ``kind/name/n``: what the functions of ``protocol_runs`` and ``certificate_checks`` answered."""

NOTHING: Final = "not run"
VIEW_DELAYS: Final = VIEW_TIMEOUT_MS // DELAY_MS


@dataclass(frozen=True, slots=True)
class Expected:
    """Message delays to a commit at every replica, with votes broadcast and with votes to the next leader."""

    broadcast: int
    next_leader: int
    told: str
    why: str


EXPECTED: Final = {
    "hotstuff": Expected(
        6, 7, "7 / 6",
        "None. Three blocks of two delays each; votes to the next leader cost one more, because the last certificate "
        "reaches the others only in that leader's next message.",
    ),
    "jolteon": Expected(
        3, 5, "5 / 4, 3 with order votes",
        "None. The 4 of two chains is not seen: up to 50 validators the order votes are always there one delay before. "
        "Beyond there are none, and the last certificate takes the leader's own hop as in HotStuff.",
    ),
    "hotstuff2": Expected(
        4, 5, "5 / 4",
        "None. Two blocks of two delays each, and the leader's own hop where votes go to the next leader.",
    ),
    "simplex": Expected(3, 3, "3", "None. A block, its notarizes, its finalizes; all are broadcast at every n."),
    "tendermint": Expected(3, 3, "3", "None. A block, its prevotes, its precommits; all are broadcast at every n."),
    "streamlet": Expected(
        VIEW_DELAYS + 3, VIEW_DELAYS + 3, "at least 3 views",
        "The three views count from the first of the three adjacent blocks; a block is final as the second of them, so "
        f"from its own sending it takes one view by the clock ({VIEW_DELAYS} delays here), one delay for the word that "
        "the next view is due, one for the next block and one for its votes.",
    ),
}  # fmt: skip
"""The table of the design that the protocols were built from."""


@dataclass(frozen=True, slots=True)
class Results:
    """All cells, with access by path."""

    cells: Cells

    def at(self, kind: str, name: str, nodes: int, *path: str) -> Json:
        """What stands there, or None."""
        value: Json = self.cells.get(f"{kind}/{name}/{nodes}")
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        return value

    def number(self, kind: str, name: str, nodes: int, *path: str) -> float | None:
        value = self.at(kind, name, nodes, *path)
        return float(value) if isinstance(value, int | float) else None

    def names(self, kind: str) -> list[str]:
        """The protocols or schemes of a kind of cell, in the order in which they were asked for."""
        return list(dict.fromkeys(key.split("/")[1] for key in self.cells if key.startswith(f"{kind}/")))

    def sizes(self, kind: str) -> list[int]:
        return sorted({int(key.split("/")[2]) for key in self.cells if key.startswith(f"{kind}/")})

    def relative(self, protocol: str, nodes: int) -> float | None:
        """Commits per second with F silent, as a share of those without."""
        slow = self.number("silent", protocol, nodes, "blocks_per_s")
        calm = self.number("trace-ed25519", protocol, nodes, "blocks_per_s")
        return None if slow is None or calm is None else slow / calm

    def recovery(self, protocol: str, nodes: int, sides: str) -> list[float | None]:
        """View timeouts to the first commit after a partition, one per partition that was tried."""
        value = self.at(f"partition-{sides}", protocol, nodes, "view_timeouts")
        if not isinstance(value, Sequence) or isinstance(value, str):
            return []
        return [float(each) if isinstance(each, int | float) else None for each in value]


def short(value: float | None, scale: float = 1) -> str:
    """Three digits that matter, or that it was not run."""
    if value is None:
        return NOTHING
    scaled = value / scale
    return f"{scaled:,.0f}" if scaled >= 100 else f"{scaled:.3g}"


def worst(found: Sequence[float | None]) -> str:
    """The most of several, or that one of them never came."""
    numbers = [each for each in found if each is not None]
    if not found:
        return NOTHING
    return short(max(numbers)) if len(numbers) == len(found) else "never"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def spread_of(results: Results, protocol: str, nodes: int, what: str) -> str:
    """A delay, or the range where it is not always the same."""
    least, most = (results.number("trace-ed25519", protocol, nodes, what, end) for end in ("least", "most"))
    return short(least) if least == most else f"{short(least)} to {short(most)}"


def cost_rows(results: Results) -> list[list[str]]:
    """One row per protocol and number of validators."""
    rows = []
    for protocol in results.names("trace-ed25519"):
        for nodes in results.sizes("trace-ed25519"):
            rows.append([
                protocol,
                str(nodes),
                f"{spread_of(results, protocol, nodes, 'commit_delays')}",
                f"{spread_of(results, protocol, nodes, 'proposer_delays')}",
                short(results.number("trace-ed25519", protocol, nodes, "messages_per_block")),
                short(results.number("trace-ed25519", protocol, nodes, "bytes_per_block"), 1000),
                short(results.number("trace-bls", protocol, nodes, "bytes_per_block"), 1000),
                short(results.number("cpu", protocol, nodes, "cpu_ms_per_block")),
                short(results.number("network-lan", protocol, nodes, "commit_ms", "median")),
                short(results.number("network-regions", protocol, nodes, "commit_ms", "median")),
                short(results.relative(protocol, nodes)),
                worst(results.recovery(protocol, nodes, "minority")),
                worst(results.recovery(protocol, nodes, "half")),
            ])  # fmt: skip
    return rows


HEAD: Final = (
    "protocol", "n", "delays, last", "delays, proposer", "messages", "kB, ed25519", "kB, BLS", "CPU ms", "LAN ms",
    "regions ms", "F silent", "minority back", "halves back",
)  # fmt: skip


def delay_rows(results: Results) -> list[list[str]]:
    """Measured against the design, one row per protocol."""
    rows = []
    for protocol in results.names("trace-ed25519"):
        sizes = results.sizes("trace-ed25519")
        small = [nodes for nodes in sizes if nodes <= BROADCAST_VOTES_MAX]
        large = [nodes for nodes in sizes if nodes > BROADCAST_VOTES_MAX]
        expected = EXPECTED.get(protocol)
        declared = protocol_named(protocol).costs
        rows.append([
            protocol,
            "none" if expected is None else expected.told,
            f"{declared.commit_delays}" + ("" if declared.responsive else " and the clock"),
            _measured(results, protocol, small),
            _measured(results, protocol, large),
            _why(results, protocol, expected, small, large),
        ])  # fmt: skip
    return rows


def _measured(results: Results, protocol: str, sizes: Sequence[int]) -> str:
    told = dict.fromkeys(spread_of(results, protocol, nodes, "commit_delays") for nodes in sizes)
    told.pop(NOTHING, None)
    return ", ".join(told) or NOTHING


def _why(results: Results, protocol: str, expected: Expected | None, small: Sequence[int], large: Sequence[int]) -> str:
    """The sentence about the difference, if what was measured is what that sentence is about."""
    if expected is None:
        return "A protocol that the design does not list."
    for sizes, delays in ((small, expected.broadcast), (large, expected.next_leader)):
        if _measured(results, protocol, sizes) not in (NOTHING, short(delays)):
            return f"**Differs from the {delays} that the rules give, and nobody has said why.**"
    return expected.why


def check_rows(results: Results) -> list[list[str]]:
    """One row per scheme and number of validators."""
    rows = []
    for scheme in results.names("check"):
        for nodes in results.sizes("check"):
            groups = [
                results.number("check", scheme, nodes, "timeout_certificates", number, "check_us")
                for number in ("1", "4", "16")
            ]
            rows.append([
                scheme,
                str(nodes),
                short(results.number("check", scheme, nodes, "signers")),
                short(results.number("check", scheme, nodes, "check_us"), 1000),
                *("fewer signers" if us is None and index else short(us, 1000) for index, us in enumerate(groups)),
                short(most_products(results.at("check", scheme, nodes))),
            ])  # fmt: skip
    return rows


def most_products(cell: Json) -> float | None:
    """The most pairing products that one check of any certificate in a cell took."""
    if not isinstance(cell, Mapping):
        return None
    groups = cell.get("timeout_certificates")
    parts = [cell, *(groups.values() if isinstance(groups, Mapping) else ())]
    found = [part.get("products") for part in parts if isinstance(part, Mapping)]
    return max((float(each) for each in found if isinstance(each, int | float)), default=None)


CHECK_HEAD: Final = (
    "scheme", "n", "signers", "check, ms", "TC, 1 group, ms", "TC, 4 groups, ms", "TC, 16 groups, ms",
    "products, at most",
)  # fmt: skip


def page(results: Results, *, command: str, data: str, missing: Sequence[str], calibration: str, picture: str) -> str:
    """The whole page. ``missing`` names the cells of the full run that were not measured; ``data`` and ``picture`` the
    files beside the page."""
    gaps = (
        f"Of the full run, {len(missing)} cells are not measured yet; `{command} --resume` adds them.\n\n"
        if missing
        else ""
    )
    lines = [
        "# What the protocols cost", "",
        f"Written by `{command}`: run that instead of editing this page. The numbers, unrounded and with more detail, "
        f"are in `{data}` beside it. Everything is measured from the messages and commits of a run in the "
        "[simulator](netsim.md), nothing is taken from what a protocol declares.", "",
        gaps + f"![Costs over the number of validators]({picture})", "",
        *_legend(calibration), *table(HEAD, cost_rows(results)),
        "## Commit delays and the design", "",
        f"Message delays to the commit at the last replica. The design gives two numbers: votes to the next leader / "
        f"broadcast. The HotStuff family broadcasts up to {BROADCAST_VOTES_MAX} validators.", "",
        *table(
            ("protocol", "design", "declared, broadcast", f"measured, n <= {BROADCAST_VOTES_MAX}",
             f"measured, n > {BROADCAST_VOTES_MAX}", "difference"),
            delay_rows(results),
        ),
        *_remarks(),
        "## Checking a certificate", "",
        "CPU time to check a fresh certificate of a quorum, and timeout certificates (TC) whose signers name 1, 4 and "
        "16 different highest certificates; nothing is remembered but the parsed public keys. *Products* are pairing "
        "products, counted at the library of the curve: never more than one per certificate, of g + 1 pairings for g "
        "groups. Ed25519 has no pairings: one verification per signer. A node remembers what it verified, so that the "
        "Ed25519 votes of a certificate that it counted itself cost nothing again.", "",
        *table(CHECK_HEAD, check_rows(results)),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def _legend(calibration: str) -> list[str]:
    return [
        "| column | what it is |", "|---|---|",
        f"| delays | constant links of {DELAY_MS} ms, view timeout {VIEW_TIMEOUT_MS} ms: message delays from the "
        "leader's sending a block to its commit at the last replica, and at its proposer |",
        "| messages | copies on the wire per committed block, block sync included |",
        f"| kB | bytes of their frames, with the signatures of either scheme and a payload of {PAYLOAD_BYTES} bytes; "
        "without TLS and the transport's framing |",
        f"| CPU ms | of the simulation per committed block, signatures simulated; {calibration} |",
        f"| LAN ms, regions ms | median virtual time to the commit at the last replica; links of {LAN.low_ms:g} to "
        f"{LAN.high_ms:g} ms, and between seven cloud regions (view timeout {REGIONS_TIMEOUT_MS} ms). Computing takes "
        "no virtual time |",
        "| F silent | commits per second with F validators silent for good, spread evenly, leaders in turn, whole "
        "rounds; 1 is the run without faults |",
        "| minority back, halves back | view timeouts from the end of a partition to the first new commit at every "
        "validator, the worst of partitions of "
        f"{', '.join(str(each) for each in PARTITIONS_MS)} ms: F validators cut off, or two halves |", "",
    ]  # fmt: skip


def _remarks() -> list[str]:
    return [
        "A delay is the same at the proposer and at the last replica: even the proposer needs the votes of others, and "
        "broadcast votes complete a quorum everywhere in the same instant. Where they go to the next leader, that one "
        "knows a delay earlier than all others.", "",
        "With F silent, evenly spread, two honest leaders follow each other and the third is silent. Protocols that "
        "commit a block by its own votes (Simplex, Tendermint, Jolteon with order votes) lose the silent views alone. "
        "Those that need later blocks need honest leaders in a row: two-chain protocols two with broadcast votes and "
        "three without, three-chain HotStuff three and four. Where the round has no such row nothing commits, and "
        "timers grow; elections by stake, and several views per leader, make the row.", "",
    ]  # fmt: skip


# --- the plot ----------------------------------------------------------------------------------------------------


def plot(results: Results, path: Path) -> None:
    """Six small charts over n, one line per protocol. The same results make the same file."""
    traced = "trace-ed25519"
    charts: list[tuple[str, bool, Callable[[str, int], float | None]]] = [
        ("message delays to a commit", False, lambda p, n: results.number(traced, p, n, "commit_delays", "median")),
        ("messages per block", True, lambda p, n: results.number(traced, p, n, "messages_per_block")),
        ("kB per block, BLS", True, lambda p, n: _kilo(results.number("trace-bls", p, n, "bytes_per_block"))),
        ("CPU ms per block", True, lambda p, n: results.number("cpu", p, n, "cpu_ms_per_block")),
        ("commits with F silent, share", False, results.relative),
        (
            "view timeouts after two halves",
            False,
            lambda p, n: max((each for each in results.recovery(p, n, "half") if each is not None), default=None),
        ),
    ]
    sizes = results.sizes(traced)
    with mpl.rc_context({"svg.hashsalt": "protocol-costs", "svg.fonttype": "none"}):
        figure = Figure(figsize=(11, 6.5), layout="constrained")
        for axes, (title, logarithmic, value) in zip(figure.subplots(2, 3).flat, charts, strict=True):
            names = results.names(traced)
            for number, protocol in enumerate(names):
                points = [(n, found) for n in sizes if (found := value(protocol, n)) is not None]
                width = 1 + 1.2 * (len(names) - 1 - number)  # thinner over thicker: lines that coincide are all seen
                axes.plot(
                    [n for n, _ in points], [found for _, found in points],
                    marker="o", markersize=width + 3, linewidth=width, label=protocol,
                )  # fmt: skip
            _dress(axes, title, sizes, logarithmic)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=max(len(labels), 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def _kilo(size_bytes: float | None) -> float | None:
    return None if size_bytes is None else size_bytes / 1000


def _dress(axes: Axes, title: str, sizes: Sequence[int], logarithmic: bool) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xscale("log")
    if logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("validators")
    axes.grid(alpha=0.3)
