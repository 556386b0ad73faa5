"""Oracles: independent code that judges a run. They read what was sent, stored and committed, re-derive what they
judge, and call nothing of the code under judgement; types and signature schemes are all they take from ``consensus``.

S11 (epochs), V2, L6, L7, A3, A4, O2-O4 judge what does not exist at this level yet:
not built.
"""
