"""CHGNet, evaluated lean: its own weights, the same numbers, a fraction of the work."""

from unimat_search.eval.chgnet.potential import MAX_Z, ChgnetPotential, chgnet_relaxer

__all__ = ["MAX_Z", "ChgnetPotential", "chgnet_relaxer"]
