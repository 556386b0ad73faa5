"""Casper FFG over a committed chain: checkpoints that a third of the stake must sign its own conviction to reverse.

::

    checkpoint j    the committed block at height j * E (E: the checkpoint interval); the root is a checkpoint by decree
    vote            one validator's signature over a link (source checkpoint, target checkpoint)
    link            holds at a quorum Q of stake, and counts only if the source is an ancestor of the target
    justified(t)    t is the root, or justified(s) and the link s -> t counts
    finalized(s)    k = 1: justified(s) and the link s -> s + E counts
                    k = 2: s and its next checkpoint s + E justified, and the link s -> s + 2E counts
    slashable       two different votes with one target height, or one that surrounds the other:
                    h(s1) < h(s2) < h(t2) < h(t1); the epoch that a vote names makes no difference

    sign            only if target > last target and source >= last source, durable first; the source is the highest
                    checkpoint whose link certificate the committed chain up to the target holds, so that all honest
                    validators choose the same one

    two sets        until a checkpoint at or above the boundary is finalized by both sets, a link whose target lies
                    above the boundary needs a quorum of both; only links from that checkpoint or its descendants need
                    the new set alone

Sources: V. Buterin and V. Griffith, "Casper the Friendly Finality Gadget"; ethereum/consensus-specs (phase 0,
``weigh_justification_and_finalization``, ``is_slashable_attestation_data``).

Deviations: strictly more than two thirds of the stake, where Ethereum asks for at least two thirds; checkpoints are
committed blocks, so that forks are none of an honest validator's business; stake does not leak away from validators
that are silent.

``types.py`` what is signed and sent, ``rules.py`` the rules above over any tree of checkpoints, ``chain_links.py`` the
same for one chain, ``certificates.py`` checking and counting, ``overlay.py`` the state machine of one node,
``forensics.py`` who is guilty, ``ancestry.py`` proof by headers, ``weak_subjectivity.py`` how old a trusted checkpoint
may be.
"""
