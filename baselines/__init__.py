"""What the searches are compared with."""

from unimat_search.baselines.samples import StructureFiles
from unimat_search.baselines.substitution import TemplateSubstitution
from unimat_search.baselines.symmetric import PyxtalRandom
from unimat_search.baselines.uniform import UniformRandom

__all__ = ["PyxtalRandom", "StructureFiles", "TemplateSubstitution", "UniformRandom"]
