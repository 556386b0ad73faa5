"""TwoChain proves itself."""

from twochain import TWO_CHAIN

from netsim.suite import protocol_suite

test_two_chain = protocol_suite(TWO_CHAIN)
