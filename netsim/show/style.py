"""Style and script of the page and of the pictures. Colours are variables, so that dark pages only change these.

The colours of message kinds are apart for colour-blind eyes too (blue, green, orange, purple); red is kept for what
goes wrong.
"""

from __future__ import annotations

from typing import Final

_LIGHT: Final = (
    "--ground:#fff;--ink:#1b1f24;--soft:#5c6570;--line:#d5dae0;--panel:#f5f7f9;--Proposal:#1766d1;--Vote:#1a8f5c;"
    "--Timeout:#c4700b;--Certificates:#8442c8;--Other:#7b8590;--bad:#d01f2e;--badwash:#fdecee;--good:#187a45;"
    "--goodwash:#e7f5ec;--warn:#b06f00;--warnwash:#f0a53033;--live0:#c3cad2;--live1:#8d98a5"
)
_DARK: Final = (
    "--ground:#14171b;--ink:#e4e8ec;--soft:#98a2ad;--line:#343b43;--panel:#1c2126;--Proposal:#5aa2ff;--Vote:#3fc489;"
    "--Timeout:#f0a044;--Certificates:#b98aef;--Other:#8b95a0;--bad:#ff6470;--badwash:#3b1a1e;--good:#4fcf8a;"
    "--goodwash:#14301f;--warn:#e0a94a;--warnwash:#e0a94a2b;--live0:#454d57;--live1:#6d7885"
)
THEMES: Final = f":root{{color-scheme:light dark;{_LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{_DARK}}}}}"

DIAGRAM: Final = (
    ".dia text{font:11px/1 system-ui,sans-serif;fill:var(--ink)}.dia .ground{fill:var(--ground)}"
    ".dia .name{font-size:14px;font-weight:600;text-anchor:middle}.dia .role{text-anchor:middle;fill:var(--soft)}"
    ".dia .bad{fill:var(--bad)}.dia .tick{text-anchor:end;fill:var(--soft);font-size:10px}"
    ".dia .grid{stroke:var(--line);stroke-width:.6}.dia .cut{fill:var(--panel)}"
    ".dia .cutword{fill:var(--soft);font-style:italic}.dia .lane{fill:none;stroke-width:5}"
    ".dia .live0{stroke:var(--live0)}.dia .live1{stroke:var(--live1)}"
    ".dia .dead{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:2 5}"
    ".dia .m path{fill:none;stroke-width:1.1}.dia .m.kProposal path{stroke-width:1.9}"
    ".dia .kProposal path{stroke:var(--Proposal)}.dia .kProposal .tip{stroke:none;fill:var(--Proposal)}"
    ".dia .kVote path{stroke:var(--Vote)}.dia .kVote .tip{stroke:none;fill:var(--Vote)}"
    ".dia .kTimeout path{stroke:var(--Timeout)}.dia .kTimeout .tip{stroke:none;fill:var(--Timeout)}"
    ".dia .kCertificates path{stroke:var(--Certificates)}.dia .kCertificates .tip{stroke:none;fill:var(--Certificates)}"
    ".dia .kOther path{stroke:var(--Other)}.dia .kOther .tip{stroke:none;fill:var(--Other)}"
    ".dia .m .open{stroke-dasharray:7 4}.dia .m .gone,.dia .m .kept{stroke-dasharray:3 3}"
    ".dia .m path.cross{stroke:var(--bad);stroke-width:1.8;stroke-dasharray:none}"
    ".dia .m:hover path{stroke-width:3.4}.dia .m.dim{opacity:.08}.dia .m.off{display:none}"
    ".dia .said{text-anchor:end;fill:var(--Proposal);font-weight:600;paint-order:stroke;stroke:var(--ground);"
    "stroke-width:3px}.dia .view{text-anchor:end;fill:var(--soft);font-size:10px;"
    "paint-order:stroke;stroke:var(--ground);stroke-width:3px}"
    ".dia .commit path{fill:var(--good);stroke:var(--ground)}"
    ".dia .commit text{fill:var(--good);font-weight:600;paint-order:stroke;stroke:var(--ground);stroke-width:3px}"
    ".dia .split path{fill:var(--bad)}.dia .split text{fill:var(--bad)}"
    ".dia .timer path{fill:none;stroke:var(--Timeout);stroke-width:1.4}"
    ".dia .timer.sync path{stroke:var(--Other)}"
    ".dia .epoch text{fill:var(--good);font-weight:600;paint-order:stroke;stroke:var(--ground);stroke-width:3px}"
    ".dia .epoch path{stroke:var(--good);stroke-width:2.5}"
    ".dia .evidence text{fill:var(--warn);font-weight:600;paint-order:stroke;stroke:var(--ground);stroke-width:3px}"
    ".dia .crash .cross{stroke:var(--bad);stroke-width:3}.dia .crash text{fill:var(--bad);font-weight:600}"
    ".dia .restart circle{fill:var(--ground);stroke:var(--good);stroke-width:2.5}"
    ".dia .span .wash{fill:var(--warnwash);opacity:.45}.dia .span .bar{fill:var(--warn)}"
    ".dia .span text{fill:var(--ground);font-size:10px}.dia .s-disk .wash{fill:none}"
    ".dia .violation path{stroke:var(--bad);stroke-width:2}"
    ".dia .violation circle{fill:none;stroke:var(--bad);stroke-width:3}"
    ".dia .violation text{fill:var(--bad);font-size:13px;font-weight:700;paint-order:stroke;stroke:var(--ground);"
    "stroke-width:4px}"
)


def in_light(style: str) -> str:
    """A style with the colours of light pages written out: many programs that read SVG know no variables."""
    for rule in _LIGHT.split(";"):
        name, _, colour = rule.partition(":")
        style = style.replace(f"var({name})", colour)
    return style


CHARTS: Final = (
    ".chart text{font:11px/1 system-ui,sans-serif;fill:var(--soft)}.chart .axis{stroke:var(--line);fill:none}"
    ".chart .bars rect{fill:var(--Proposal)}.chart .p{stroke:var(--bad);stroke-dasharray:3 3}"
    ".chart .step{fill:none;stroke-width:1.8}.chart .block rect{fill:var(--panel);stroke:var(--soft);"
    "stroke-dasharray:3 2}.chart .certified rect{stroke:var(--Proposal);stroke-dasharray:none;stroke-width:1.6}"
    ".chart .committed rect{fill:var(--goodwash);stroke:var(--good);stroke-dasharray:none;stroke-width:2}"
    ".chart .split rect{fill:var(--badwash);stroke:var(--bad);stroke-dasharray:none;stroke-width:2.6}"
    ".chart .block .id{fill:var(--ink);font-weight:600}.chart .link{stroke:var(--soft);fill:none;stroke-width:1.4}"
    ".chart .link.far{stroke:var(--bad)}"
)

PAGE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:0;padding:20px 24px 60px;color:var(--ink);"
    "background:var(--ground)}main{max-width:1400px;margin:auto}h1{font-size:22px;margin:0 0 10px}"
    "h2{font-size:17px;margin:34px 0 8px;border-bottom:1px solid var(--line);padding-bottom:4px}p{margin:6px 0}"
    ".verdict{padding:12px 16px;border-radius:6px;border-left:6px solid;margin:0 0 14px}"
    ".verdict.bad{background:var(--badwash);border-color:var(--bad)}"
    ".verdict.good{background:var(--goodwash);border-color:var(--good)}.verdict b{font-size:17px}"
    ".soft{color:var(--soft)}.facts{display:flex;flex-wrap:wrap;gap:4px 26px;margin:8px 0}"
    ".facts b{font-variant-numeric:tabular-nums}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "th,td{text-align:left;padding:3px 14px 3px 0;border-bottom:1px solid var(--line)}th{font-weight:600;"
    "color:var(--soft)}code{font:13px ui-monospace,monospace;background:var(--panel);padding:1px 4px;"
    "border-radius:3px;overflow-wrap:anywhere}pre{font:12px/1.35 ui-monospace,monospace;background:var(--panel);"
    "padding:10px;overflow:auto;max-height:420px}.wide{overflow-x:auto}.pair{display:flex;flex-wrap:wrap;gap:10px 40px}"
    ".sticky{position:sticky;top:0;background:var(--ground);z-index:1;border-bottom:1px solid var(--line)}"
    ".keys{display:flex;flex-wrap:wrap;gap:6px 10px;align-items:center;padding:6px 0}"
    "button{font:13px system-ui,sans-serif;color:var(--ink);background:var(--panel);border:1px solid var(--line);"
    "border-radius:12px;padding:2px 10px;cursor:pointer}button[aria-pressed=false]{opacity:.45}"
    "button .dot{display:inline-block;width:14px;height:3px;margin:0 6px 4px 0}.kProposal .dot{background:"
    "var(--Proposal)}.kVote .dot{background:var(--Vote)}.kTimeout .dot{background:var(--Timeout)}"
    ".kCertificates .dot{background:var(--Certificates)}.kOther .dot{background:var(--Other)}"
    "select{font:13px system-ui,sans-serif;color:var(--ink);background:var(--panel);border:1px solid var(--line)}"
    "svg.dia{display:block;max-width:none}svg.chart{display:block}.num{text-align:right}.badtext{color:var(--bad);"
    "font-weight:600}ol{margin:6px 0;padding-left:26px}"
)

SCRIPT: Final = """
const all = [...document.querySelectorAll('#messages .m')];
document.querySelectorAll('button[data-kind]').forEach(button => button.addEventListener('click', () => {
  const shown = button.getAttribute('aria-pressed') === 'false';
  button.setAttribute('aria-pressed', shown);
  all.filter(m => m.classList.contains(button.dataset.kind)).forEach(m => m.classList.toggle('off', !shown));
}));
const pick = document.getElementById('pick');
pick.addEventListener('change', () => {
  all.forEach(m => m.classList.toggle('dim', pick.value !== '' && m.dataset.v !== pick.value));
});
"""
