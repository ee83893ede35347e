"""Inputs of DFT codes for structures of a run, to be calculated elsewhere."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.units import Bohr, Ry
from pymatgen.core import Structure

from unimat_search.eval.dft.espresso import write_input
from unimat_search.eval.dft.point import Setup, to_atoms
from unimat_search.eval.dft.primitive import Primitive
from unimat_search.eval.dft.settings import DftSettings
from unimat_search.records import RelaxSettings

KBAR = 10.0
"""In a GPa."""

VASP_SCRIPT = """#!/bin/sh
# VASP="mpirun vasp_std" sh run.sh, once each folder has its POTCAR
set -e
for stage in relax-1 relax-2 static; do
    [ -z "$before" ] || cp "$before/CONTCAR" "$stage/POSCAR"
    (cd "$stage" && ${VASP:-vasp_std} > vasp.out)
    before=$stage
done
"""


def write_vasp(structures: Mapping[str, Structure], path: Path, relax: RelaxSettings) -> None:
    """The Materials Project's two relaxations and static run of each structure, as pymatgen's sets say.

    POTCAR.spec names the POTCARs, which need a licence. The second relaxation and the static run start from the
    CONTCAR of what is before them: `run.sh` copies it.

    Args:
        structures: By the name of their folder.
        path: The folder to make.
        relax: What else is said of their relaxation: pressure, fixed cell.

    Raises:
        ValueError: If pymatgen's set lacks an element; nothing is written then.
    """
    from pymatgen.io.vasp.sets import MPRelaxSet, MPStaticSet, VaspInputSet

    moved: dict[str, Any] = {"ISIF": 2} if relax.fixed_cell else {}
    pressed: dict[str, Any] = {"PSTRESS": KBAR * relax.pressure} if relax.pressure else {}
    relaxation = moved | pressed
    stages: dict[str, tuple[type[VaspInputSet], dict[str, Any]]] = {
        "relax-1": (MPRelaxSet, relaxation),
        "relax-2": (MPRelaxSet, relaxation),
        "static": (MPStaticSet, {}),
    }
    try:
        for name, structure in structures.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of POTCARs that are not at hand
                for stage, (rules, more) in stages.items():
                    inputs = rules(structure, user_incar_settings=more)
                    inputs.write_input(str(path / name / stage), potcar_spec=True)
            (path / name / "run.sh").write_text(VASP_SCRIPT, encoding="utf-8", newline="\n")
    except KeyError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise ValueError(f"the Materials Project's sets have no {error.args[0]}: leave {name} out") from error


def write_espresso(structures: Mapping[str, Structure], path: Path, relax: RelaxSettings) -> None:
    """An input of pw.x for each structure: its relaxation, by the usual `DftSettings`.

    Pseudopotentials are named ELEMENT.UPF, in `pseudo`.

    Args:
        structures: By the name of their file.
        path: The folder to make.
        relax: What else is said of their relaxation: pressure, fixed cell.
    """
    settings = DftSettings()
    control: dict[str, Any] = {
        "calculation": "relax" if relax.fixed_cell else "vc-relax",
        "forc_conv_thr": 0.02 / (Ry / Bohr),
        "pseudo_dir": "pseudo",
    }
    cell = {} if relax.fixed_cell else {"press": KBAR * relax.pressure}
    path.mkdir()
    for name, whole in structures.items():
        structure = Primitive.of(whole, 0 if relax.fixed_cell else settings.symprec).structure
        setup = Setup.of(structure, settings.kspacing, settings, lambda: math.inf)
        files = {site.specie.symbol: f"{site.specie.symbol}.UPF" for site in structure}
        write_input(path / f"{name}.in", to_atoms(structure), setup, files, {"control": control, "cell": cell})
