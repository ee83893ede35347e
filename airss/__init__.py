"""Random structure search in the manner of AIRSS (Pickard and Needs, J. Phys.: Condens. Matter 23, 053201)."""

from unimat_search.airss.generator import RandomSearch, dense, paper, standard, wide

__all__ = ["RandomSearch", "dense", "paper", "standard", "wide"]
