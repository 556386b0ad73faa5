"""A recorded run as a log with vector clocks, for ShiViz (bestchai.bitbucket.io/shiviz).

The file begins with the regular expression that ShiViz reads it by, :data:`EXPRESSION`, and an empty line (one run,
nothing to split). Each event is then two lines: time and text, then its host with the vector clock as JSON. A host's
own entry counts its events from 1; who hears a message takes the highest of its own clock and of the sender's when it
sent.
"""

from __future__ import annotations

from typing import Final

import msgspec

from netsim.show.recording import Happening, Heard, Message, Recorded, Sent

EXPRESSION: Final = r"(?<at>\d+\.\d+ ms) (?<event>.*)\n(?<host>\S*) (?<clock>{.*})"
"""ShiViz asks for the groups ``event``, ``host`` and ``clock``; ``at`` (virtual time) is one more that it shows."""


def host_name(node: int) -> str:
    """What a node is called in the log."""
    return f"node{node}"


def shiviz(recorded: Recorded) -> str:
    """The log, ready to load."""
    clocks: list[dict[str, int]] = [{} for _ in recorded.nodes]
    sent: dict[int, dict[str, int]] = {}
    lines = [EXPRESSION, ""]
    for each in recorded.happenings:
        clock = clocks[each.node]
        # A message whose sending was forgotten says nothing about its sender's clock.
        if isinstance(each, Heard):
            for host, count in sent.get(each.message.number, {}).items():
                clock[host] = max(clock.get(host, 0), count)
        mine = host_name(each.node)
        clock[mine] = clock.get(mine, 0) + 1
        if isinstance(each, Sent):
            stamp = dict(clock)
            for copy in each.copies:
                sent[copy.number] = stamp
        shown = msgspec.json.encode(dict(sorted(clock.items()))).decode()
        lines += [f"{each.at_ns / 1e6:.6f} ms {_text(each)}", f"{mine} {shown}"]
    return "\n".join(lines) + "\n"


def _text(each: Happening) -> str:
    if isinstance(each, Sent):
        return f"sends {each.kind} of view {each.view} {each.about}".rstrip() + _targets(each)
    if isinstance(each, Heard):
        message = each.message
        return f"hears {message.kind} of view {message.view} {message.about}".rstrip() + f" from {message.source}"
    return " ".join(each.text.split())


def _targets(sent: Sent) -> str:
    def named(copies: list[Message]) -> str:
        return ", ".join(str(copy.target) for copy in copies)

    lost = [copy for copy in sent.copies if copy.fate == "lost"]
    kept = [copy for copy in sent.copies if copy.fate == "kept"]
    gone = [copy for copy in sent.copies if copy.fate not in ("lost", "kept")]
    ends = ((" to ", gone), (", lost to ", lost), (", kept from ", kept))
    return "".join(f"{word}{named(copies)}" for word, copies in ends if copies)
