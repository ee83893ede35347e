"""What the searches are compared with."""

from unimat_search.baselines.symmetric import PyxtalRandom

__all__ = ["PyxtalRandom"]
