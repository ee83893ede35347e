"""CrystalNN fingerprints: matminer's and ours, side by side on the same crystals.

python benchmarks/fingerprints.py DATA_DIR/mp_20/test.parquet 100
"""

from __future__ import annotations

import sys
import time
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
from matminer.featurizers.site.fingerprint import CrystalNNFingerprint
from pymatgen.core import Structure

from unimat_search.eval.crystalnn import crystal_fingerprint
from unimat_search.files import read_structures


def matminers(structure: Structure, fingerprint: CrystalNNFingerprint) -> np.ndarray:
    """The mean of all sites' fingerprints."""
    return np.mean([fingerprint.featurize(structure, site) for site in range(len(structure))], axis=0)


def main() -> None:
    """Print seconds a crystal of both, their ratio and their largest difference."""
    source, count = Path(sys.argv[1]), int(sys.argv[2])
    structures = [structure for _, structure in islice(read_structures(source), count)]
    theirs = CrystalNNFingerprint.from_preset("ops")
    crystal_fingerprint(structures[0])
    seconds = {"matminer": 0.0, "ours": 0.0}
    worst = 0.0
    for structure in structures:
        began = time.process_time()
        expected = matminers(structure, theirs)
        middle = time.process_time()
        found = crystal_fingerprint(structure)
        seconds["matminer"] += middle - began
        seconds["ours"] += time.process_time() - middle
        worst = max(worst, float(np.abs(found - expected).max()))
    for name, total in seconds.items():
        print(f"{name:10} {1000 * total / count:8.1f} ms a crystal")
    print(f"ratio      {seconds['matminer'] / seconds['ours']:8.1f}")
    print(f"largest difference {worst:.1e}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
