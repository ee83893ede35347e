"""What is known of potentials' errors, to be printed with their tables."""

from __future__ import annotations

STABILITY = {
    "chgnet-0.3.0": (0.063, 0.613),
    "sevennet-7net-0": (0.048, 0.724),
    "sevennet-7net-l3i5": (0.044, 0.760),
}
"""Mean absolute error of the distance to the hull, eV/atom, and F1 of "is stable", on Matbench Discovery's unique
prototypes (Riebesell et al., Nat. Mach. Intell. 7, 836; its leaderboard of 2025)."""

PBE = "-pbe-"
"""Within the names of potentials that are DFT."""


def published_error(potential: str) -> str:
    """One sentence on a potential's error."""
    if potential in STABILITY:
        error, f1 = STABILITY[potential]
        return (
            f"Published error of {potential}: {error} eV/atom of the distance to the hull on average, "
            f"stable or not by F1 {f1} (Matbench Discovery)."
        )
    if PBE in potential:
        return (
            "PBE without corrections: salts and oxides are bound too weakly, NaCl by 0.26 and MgO by 0.43 eV/atom "
            "against experiment."
        )
    return f"No published error of {potential} is known here."
