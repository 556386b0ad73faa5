"""Random histories of finality votes without a network: on a tree of checkpoints, where branches exist that no protocol
would let a simulated chain have; and of votes for one tally."""
