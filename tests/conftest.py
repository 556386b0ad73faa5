"""What every test shares: hypothesis without chance.

The default profile derives its examples from the test itself, so a run is the same on every machine and in every order,
and a failure is repeated by running the test again. ``make sweep`` searches further with the profile ``explore``; what
it finds is printed as a ``@reproduce_failure`` line, to become an ``@example`` or a test of its own.

No deadline in either: the time of an example depends on the machine, and correctness does not.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", max_examples=2_000, deadline=None, database=None, print_blob=True)
settings.load_profile("deterministic")
