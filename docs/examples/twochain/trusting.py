"""TwoChain that trusts whoever made a timeout certificate: a bug planted for the suite to find."""

from twochain import TwoChain

from consensus.engine import Refusal
from consensus.protocols.chained_family import chained
from consensus.protocols.chained_types import TimeoutCertificate


class Trusting(TwoChain):
    def check_timeout_certificate(self, certificate: TimeoutCertificate) -> Refusal | None:
        return None


TRUSTING = chained("twochain", Trusting())
