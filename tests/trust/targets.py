"""What hostile input is tried on: a reader, and files that it takes, to be mutated."""

from __future__ import annotations

import gzip
import io
import json
import random
import sqlite3
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pymatgen.core import Lattice, Structure
from safetensors.torch import save as save_tensors

from unimat_search.airss.seed_search import SeedSearch
from unimat_search.eval.hull_sources import load_hull
from unimat_search.eval.patience import Patience
from unimat_search.eval.references import load_references
from unimat_search.files import read_crystals
from unimat_search.formula import parse_formula, parse_units, read_formulas
from unimat_search.plan import CompareSettings
from unimat_search.records import UserError
from unimat_search.refine import RefineSettings
from unimat_search.registry import Spec
from unimat_search.store import Store
from unimat_search.unimat.checkpoint import build, load_model
from unimat_search.unimat.sources import read_parquet
from unimat_search.unimat.train import read_config

EXPECTED = (UserError, ValueError, OSError, ArithmeticError, RecursionError)
"""What the command turns into one line and exit code 2."""

SECONDS = 20.0
"""For one input, at most."""

TOKENS = (
    b"nan", b"-1", b"1e308", b"99999999999999999999", b"0", b"inf", b"\x00", b"\xff\xfe", b"../../x", b"{", b"[" * 50,
    b"1-99999999999", b"\n", b"\r\n", b"=", b"'", b'"', b",", b";", b"%", b"#", b"Xx", b"Zz9", b"()", b"1/0", b" " * 40,
)  # fmt: skip

CRYSTAL = Structure(Lattice.cubic(4.2), ["Na", "Cl"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        suffix: Of the file that it reads.
        seeds: Files that it takes.
        read: Reads a file.
    """

    suffix: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]


def attempt(target: Target, data: bytes, folder: Path) -> bool:
    """Try an input; whether it was taken. Anything but `EXPECTED`, or taking too long, is raised."""
    file = folder / f"input{target.suffix}"
    file.write_bytes(data)
    try:
        with Patience(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(file)
    except EXPECTED:
        return False
    finally:
        left = sorted(one.name for one in folder.iterdir() if one != file)
        assert not left, f"files were left: {left}"
    return True


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file with a few places changed: bytes flipped, tokens put in, parts cut out, doubled or swapped."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        start = rng.randrange(len(out) + 1)
        end = min(len(out), start + rng.choice((1, 2, 4, 16, 64)))
        match rng.randrange(6):
            case 0:
                out[start:end] = rng.randbytes(end - start)
            case 1:
                out[start:end] = rng.choice(TOKENS)
            case 2:
                out[start:start] = rng.choice(TOKENS)
            case 3:
                del out[start:end]
            case 4:
                out[start:start] = out[start:end] * rng.choice((1, 2, 20))
            case _:
                del out[start:]
    return bytes(out)


def _text(read: Callable[[str], object]) -> Callable[[Path], object]:
    return lambda file: read(file.read_text(encoding="utf-8"))


def _crystals(file: Path) -> object:
    return list(read_crystals(file))


def _hull(file: Path) -> object:
    return load_hull(str(file), {frozenset({"Na", "Cl"})}, load_references("chgnet-0.3.0"))


def _rows(file: Path) -> object:
    with Store(file, read_only=True) as store:
        return list(store.records(structures=True))


def _seed(file: Path) -> object:
    return SeedSearch(file).describe()


def _config(file: Path) -> object:
    return read_config(file)


def _parquet() -> bytes:
    table = pa.table(
        {
            "material_id": ["a", "b"],
            "numbers": [[11, 17], [13]],
            "frac_coords": [[0.0, 0, 0, 0.5, 0.5, 0.5], [0.0, 0, 0]],
            "cell": [[4.2, 0, 0, 0, 4.2, 0, 0, 0, 4.2], [2.5, 0, 0, 0, 2.5, 0, 0, 0, 2.5]],
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _samples() -> bytes:
    buffer = io.BytesIO()
    tensors = {
        "num_atoms": torch.tensor([[2]]),
        "atom_types": torch.tensor([[11, 17]]),
        "frac_coords": torch.tensor([[[0.0, 0, 0], [0.5, 0.5, 0.5]]]),
        "lengths": torch.full((1, 1, 3), 4.2),
        "angles": torch.full((1, 1, 3), 90.0),
    }
    torch.save(tensors, buffer)
    return buffer.getvalue()


def _archive(kind: str) -> bytes:
    buffer, content = io.BytesIO(), CRYSTAL.to(fmt="cif").encode()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("folder/a.cif", content)
            archive.writestr("../../b.cif", content)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("folder/a.cif", "../../b.cif"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _model() -> bytes:
    settings = {"network": {"width": 8, "heads": 1, "layers": 1, "frequencies": 1, "distances": 2}}
    model = build("slots", settings)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    header = {"config": {"denoiser": "slots", "model": settings}, "step": 1}
    return save_tensors(tensors, {"json": json.dumps(header)})


def _store() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.sqlite"
        with Store(file):
            pass
        connection = sqlite3.connect(file)
        connection.execute("PRAGMA journal_mode = DELETE")
        structure = '{"lattice":[[3,0,0],[0,3,0],[0,0,3]],"species":["Al"],"frac_coords":[[0,0,0]]}'
        connection.execute(
            'INSERT INTO candidates (key, generator, reduced_formula, formula_units, cell_formula, seed, "index", '
            "valid, outcome, detail, n_steps, generate_seconds, relax_seconds, match, origin, initial_structure, "
            "final_structure, energy) VALUES ('a/Al1/0/0', 'a', 'Al', 1, 'Al1', 0, 0, 1, 'converged', '', 3, 0.1, "
            "0.1, '', '', ?, ?, -1.0)",
            (structure, structure),
        )
        connection.commit()
        connection.close()
        return file.read_bytes()


CELL = b"""%BLOCK LATTICE_CART
3 0 0
0 3 0
0 0 3
%ENDBLOCK LATTICE_CART
%BLOCK POSITIONS_FRAC
Si 0.0 0.0 0.0 # Si1 % NUM=2
O  0.0 0.0 0.0 # O1 % NUM=4 POSAMP=1
%ENDBLOCK POSITIONS_FRAC
#MINSEP=1.5-2.5 Si-O=1.6
#NFORM={1,2}
#SLACK=0.25
#OVERLAP=0.1
#COMPACT
"""
FREE_CELL = b"""#TARGVOL=15-25
#SPECIES=Si%NUM=1,O%NUM=2
#NATOM=3-9
#MINSEP=1.5-2.5 Si-O=1.6
#SYMMOPS=2-4
#ADJGEN=0-1
"""
EXTXYZ = b"""2
Lattice="4.2 0 0 0 4.2 0 0 0 4.2" Properties=species:S:1:pos:R:3 pbc="T T T" name=salt
Na 0 0 0
Cl 2.1 2.1 2.1
"""
RES = b"""TITL salt 0.0 74.1 -6.8 0 0 2 (Pm-3m) n - 3
REM by hand
CELL 1.5418 4.2 4.2 4.2 90 90 90
LATT -1
SFAC Na Cl
Na 1 0.0 0.0 0.0 1.0
Cl 2 0.5 0.5 0.5 1.0
END
"""
TRAIN = b"""denoiser = "slots"
[model.network]
width = 160
[data]
train = ["a.parquet"]
validation = 50
[training]
steps = 2000
lr = 0.001
"""
DICTIONARY = json.dumps(CRYSTAL.as_dict()).encode()
ENTRIES = (
    b'[{"composition": {"Na": 1, "Cl": 1}, "energy": -6.8}, {"composition": {"Na": 1}, "energy": -1}, '
    b'{"composition": {"Cl": 1}, "energy": -1}]'
)
HULL = b"formula,formation_energy_per_atom\nNaCl,-2.1\nNa,0\nCl,0\n"

TARGETS: dict[str, Target] = {
    "formulas": Target(".txt", (b"TiO2", b"Ti4O8", b"TiO2:4", b"Ca(OH)2"), _text(parse_formula)),
    "numbers of formula units": Target(".txt", (b"1-4", b"1,2,4"), _text(parse_units)),
    "files of formulas": Target(".csv", (b"formula\nTiO2\nNaCl\n",), read_formulas),
    "specifications": Target(".txt", (b'airss,operations="1-4",volume=0.9,label=few', b"a:b,c=[1]"), _text(Spec.parse)),
    "AIRSS .cell": Target(".cell", (CELL, FREE_CELL), _seed),
    "AIRSS .res": Target(".res", (RES, RES + RES), _crystals),
    "CIF": Target(".cif", (CRYSTAL.to(fmt="cif").encode(), CRYSTAL.to(fmt="cif", symprec=0.1).encode()), _crystals),
    "extxyz": Target(".extxyz", (EXTXYZ, EXTXYZ + EXTXYZ), _crystals),
    "POSCAR": Target(".vasp", (CRYSTAL.to(fmt="poscar").encode(),), _crystals),
    "JSON structures": Target(".json", (DICTIONARY, b"[" + DICTIONARY + b"]"), _crystals),
    "CSV structures": Target(".csv", (b"material_id,cif\na," + DICTIONARY[:0] + b'"data_x"\n',), _crystals),
    "parquet structures": Target(".parquet", (_parquet(),), _crystals),
    "parquet to train on": Target(".parquet", (_parquet(),), read_parquet),
    "samples in .pt": Target(".pt", (_samples(),), _crystals),
    "zip": Target(".zip", (_archive("zip"),), _crystals),
    "tar.gz": Target(".tar.gz", (_archive("tar"),), _crystals),
    "settings of a run": Target(
        ".toml", (CompareSettings(("NaCl",)).to_toml().encode(),), _text(CompareSettings.from_toml)
    ),
    "settings of a refinement": Target(
        ".toml", (RefineSettings("gpaw").to_toml().encode(),), _text(RefineSettings.from_toml)
    ),
    "settings of a training run": Target(".toml", (TRAIN,), _config),
    "checkpoints": Target(".safetensors", (_model(),), load_model),
    "hulls in CSV": Target(".csv", (HULL,), _hull),
    "hulls in .csv.gz": Target(".csv.gz", (gzip.compress(HULL),), _hull),
    "hulls in JSON": Target(".json", (ENTRIES,), _hull),
    "stores": Target(".sqlite", (_store(),), _rows),
}
