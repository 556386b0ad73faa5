"""Signature schemes behind one contract: Ed25519, BLS12-381 multi-signatures, and a simulated one for simulation
only."""
