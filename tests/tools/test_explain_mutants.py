"""What counts as an explained survivor, on invented output of mutmut; `make mutants` runs the real one."""

from __future__ import annotations

from tools.explain_mutants import Mutant, changed_lines, explained, function_of, unnoticed

DIFF = """\
# consensus.validators.x_quorum__mutmut_3: survived
--- consensus/validators.py
+++ consensus/validators.py
@@ -1,2 +1,2 @@
 def quorum(total_stake: int) -> int:
-    return 2 * total_stake // 3 + 1
+    return 2 * total_stake // 3 + 2
"""
QUORUM = Mutant(
    function="consensus.validators.quorum",
    change=("- return 2 * total_stake // 3 + 1", "+ return 2 * total_stake // 3 + 2"),
)


def test_names_read_as_written_in_the_source() -> None:
    assert function_of("consensus.validators.x_quorum__mutmut_3") == "consensus.validators.quorum"
    assert function_of("consensus.validators.xǁValidatorSetǁstake_of__mutmut_12") == (
        "consensus.validators.ValidatorSet.stake_of"
    )


def test_a_survivor_matches_its_own_entry_and_no_other() -> None:
    mutant = Mutant(
        function=function_of("consensus.validators.x_quorum__mutmut_3"), change=changed_lines(DIFF.splitlines())
    )
    assert mutant == QUORUM
    page = f"# Survivors\n\n{QUORUM.entry()}\n"
    assert explained(page) == {mutant}
    assert mutant not in explained(page.replace("+ 2", "+ 3"))
    assert mutant not in explained(page.replace("quorum", "amplification"))


def test_only_a_failing_test_is_a_proof() -> None:
    results = "    a.x_f__mutmut_1: survived\n    a.x_f__mutmut_2: no tests\n    a.x_f__mutmut_3: killed\n"
    assert unnoticed(results) == ["a.x_f__mutmut_1", "a.x_f__mutmut_2"]
