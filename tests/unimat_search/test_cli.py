from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from unimat_search.cli import main, run_name

SMALL = ["compare", "--formula", "AlCu", "--generator", "airss", "--generator", "tests.plugins:Uniform",
         "-n", "2", "--formula-units", "1", "--relaxer", "emt", "--workers", "1"]  # fmt: skip


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "small"
    result = call(*SMALL, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_json_is_one_document_and_nothing_else(tmp_path: Path) -> None:
    result = call(*SMALL, "--out", tmp_path / "run", "--format", "json")
    summary = json.loads(result.stdout)
    values = summary["compositions"][0]["generators"]["airss"]
    assert {"formation_energy_per_atom", "convergence_rate", "n_generated", "delta_e_f"} <= set(values)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())


@pytest.mark.parametrize(
    ("fmt", "mark"),
    [
        ("table", "composition   generator "),
        ("markdown", "| composition |"),
        ("csv", "formula,generator,formula_units,n_generated"),
    ],
)
def test_formats(fmt: str, mark: str, run: Path) -> None:
    result = call("compare", "--resume", "--out", run, "--format", fmt)
    assert result.exit_code == 0, result.output
    assert mark in result.stdout
    assert "AlCu" in result.stdout


def test_resume_needs_only_the_folder_and_refuses_other_settings(run: Path) -> None:
    assert call("compare", "--resume", "--out", run).exit_code == 0
    result = call("compare", "--resume", "--out", run, "--seed", "5")
    assert result.exit_code == 2
    assert "seed = 0, not 5" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--formula", ""], "the formula is empty"),
        (["--formula", "Xx2"], "dummy species"),
        (["--formula", "Na0.5Cl"], "fractional amount"),
        (["--formula", "Na0Cl"], "zero amount"),
        (["--formula", "Na-1Cl"], "negative amount"),
        (["--formula", "D2O"], "isotope"),
        (["--formula", "Ti8O16"], "more than the 20 allowed"),
        (["--formula", "TiO2", "--formula-units", "9"], "more than the 20 allowed"),
        (["--formula", "TiO2", "--formula-units", "x"], "no number of formula units"),
        (["--formula", "Ti4O8", "--formula-units", "1"], "fixes the cell"),
        (["--formula", "TiO2", "--formula", "Ti2O4"], "are one composition"),
        ([], "no formula is given"),
        (["--formulas", "no/such/file"], "can't be read"),
        (["--formula", "NaCl", "--generator", "airs"], "none of the generators airss, airss:dense, airss:paper"),
        (["--formula", "NaCl", "--generator", "airss,oops"], "not key=value"),
        (["--formula", "NaCl", "--generator", "airss", "--generator", "airss"], "given twice"),
        (["--formula", "NaCl", "--relaxer", "magic"], "none of the relaxers chgnet, emt"),
        (["--formula", "NaCl", "--fmax", "-1"], "fmax must be positive"),
        (["--formula", "NaCl", "--fmax", "nan"], "fmax must be positive"),
        (["--formula", "NaCl", "-n", "0"], "n must be a whole number from 1"),
        (["--formula", "NaCl", "--seed", "-1"], "seed must be a whole number from 0"),
        (["--formula", "NaCl", "--seed", "9" * 20], "seed must be a whole number from 0"),
        (["--formula", "NaCl", "--max-atoms", "3000000000"], "max_atoms must be a whole number from 1 to 1000"),
        (["--formula", "NaCl", "--max-steps", "-1"], "max_steps must be 0 or more"),
        (["--formula", "NaCl", "--time-limit", "0"], "time_limit must be positive"),
        (["--formula", "NaCl", "--matcher", "0.3"], "is not LTOL,STOL,ANGLE_TOL"),
        (["--formula", "NaCl", "--matcher", "1,nan,1"], "tolerances must be positive"),
        (["--formula", "NaCl", "--matcher", "0,0,0"], "tolerances must be positive"),
        (["--formula", "NaCl", "--reference", "missing.cif"], "missing.cif does not exist"),
        (["--formula", "NaCl", "--resume", "--overwrite"], "exclude each other"),
        (["--resume"], "holds no run"),
        (["--formula", "NaCl", "--format", "xml"], "xml"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], says: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = call("compare", "--out", out, *arguments)
    assert result.exit_code == 2
    message = result.stderr.strip().splitlines()[-1]
    assert says in message
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert not out.exists()


def test_resume_finds_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = call(
        "compare", "--formula", "Al", "--generator", "airss", "-n", "1", "--relaxer", "emt", "--format", "json"
    )
    assert first.exit_code == 0, first.output
    again = call("compare", "--formula", "Al", "--resume", "--format", "json")
    assert again.exit_code == 0, again.output
    assert again.stdout == first.stdout


def test_plug_ins_may_print_and_lie_in_the_working_folder(tmp_path: Path) -> None:
    """The installed command, whose folder is not on the module path by itself."""
    (tmp_path / "mine.py").write_text(
        "from unimat_search.airss import RandomSearch\nprint('IMPORTING')\n"
        "class Noisy(RandomSearch):\n    def __init__(self):\n        print('LOADING')\n        super().__init__()\n"
    )
    (tmp_path / "script.py").write_text("import sys\nsys.exit('usage: script.py FILE')\n")
    command = Path(sys.executable).with_name("unimat-search")
    options = "--formula Al -n 1 --generator mine:Noisy --generator script:X --relaxer emt --format json"
    result = subprocess.run(
        [command, "compare", *options.split()], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    overall = json.loads(result.stdout)["overall"]
    assert overall["mine:Noisy"]["n_converged"] == 1
    assert overall["script:X"]["failures"] == {"generator_failed": 1}
    assert "usage: script.py" in result.stderr


def test_formulas_may_stand_without_their_option(tmp_path: Path) -> None:
    result = call("compare", "Al", "--formula", "Cu", *SMALL[3:], "--out", tmp_path / "run", "--format", "json")
    assert result.exit_code == 0, result.output
    assert [entry["formula"] for entry in json.loads(result.stdout)["compositions"]] == ["Al", "Cu"]
    (tmp_path / "c.toml").write_text('formula = ["Ni"]\nformat = "json"\n')
    result = call("compare", "Al", *SMALL[3:], "--config", tmp_path / "c.toml", "--out", tmp_path / "other")
    assert [entry["formula"] for entry in json.loads(result.stdout)["compositions"]] == ["Al"], "the line counts more"
    assert call("compare", "Al", "--resume", "--out", tmp_path / "other").exit_code == 0
    assert call("compare", "Cu", "--resume", "--out", tmp_path / "other").exit_code == 2


def test_formula_files_join_formulas(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("formula\nAl\nCu\n")
    result = call("compare", "--formulas", tmp_path / "f.csv", "--formula", "AlCu", "--generator", "airss",
                  "-n", "1", "--formula-units", "1", "--relaxer", "emt", "--max-steps", "0",
                  "--out", tmp_path / "run", "--format", "json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [entry["formula"] for entry in json.loads(result.stdout)["compositions"]] == ["AlCu", "Al", "Cu"]


def test_an_existing_folder_needs_a_word(run: Path) -> None:
    result = call(*SMALL, "--out", run)
    assert result.exit_code == 2
    assert "--resume" in result.stderr
    assert call(*SMALL, "--out", run, "--overwrite").exit_code == 0


def test_run_names() -> None:
    assert run_name(("NaCl", "TiO2")) == "NaCl-TiO2"
    assert run_name(("Ca(OH)2",)) == "Ca_OH_2"
    assert run_name(tuple(f"Al{n}" for n in range(1, 8))) == "Al1-and-6-more"


@pytest.mark.parametrize("target", ["extxyz", "cif", "parquet", "ase-db", "res"])
def test_export(target: str, run: Path, tmp_path: Path) -> None:
    from ase.io import read
    from pymatgen.core import Structure

    out = tmp_path / f"export.{'db' if target == 'ase-db' else target}"
    result = call("export", run, "--to", target, "--out", out)
    assert result.exit_code == 0, result.output
    assert "4 structures" in result.stdout
    files = sorted(out.iterdir()) if out.is_dir() else [out]
    match target:
        case "parquet":
            import pyarrow.parquet as pq

            assert pq.read_table(out).num_rows == 4
            from unimat_search.files import read_structures

            assert len(list(read_structures(out))) == 4
        case "cif":
            assert [Structure.from_file(file).composition.reduced_formula for file in files] == ["AlCu"] * 4
        case "res":
            formulas = [read(file).get_chemical_formula() for file in files]
            assert formulas == ["AlCu"] * len(formulas)
        case _:
            images = read(out, index=":")
            assert len(images) == 4
            assert all(abs(image.get_potential_energy()) < 20 for image in images)
    again = call("export", run, "--to", target, "--out", out)
    assert again.exit_code == 2
    assert "exists" in again.stderr


def test_export_of_what_converged(run: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    assert call("export", run, "--to", "parquet", "--converged", "--out", tmp_path / "c.parquet").exit_code == 0
    outcomes = pq.read_table(tmp_path / "c.parquet")["outcome"].to_pylist()
    assert set(outcomes) == {"converged"}


def test_export_needs_a_run(tmp_path: Path) -> None:
    result = call("export", tmp_path, "--to", "cif")
    assert result.exit_code == 2
    assert "holds no results" in result.stderr


def test_references_are_built_where_asked(tmp_path: Path) -> None:
    file = tmp_path / "emt.json"
    result = call("references", "build", "--relaxer", "emt", "--element", "Cu", "--out", file, "--workers", "1")
    assert result.exit_code == 0, result.output
    element = json.loads(file.read_text())["elements"]["Cu"]
    assert element["source"] in ("fcc", "hcp")
    assert element["n_candidates"] == 5
    for symbol in ("Ag", "Au"):  # into the cache, one beside the other
        kept = call("references", "build", "--relaxer", "emt", "--element", symbol, "--workers", "1")
        assert kept.exit_code == 0, kept.output
    from unimat_search.eval.references import load_references

    assert {"Ag", "Au"} <= set(load_references("ase-emt").elements)
    wrong = call("references", "build", "--relaxer", "emt", "--element", "Xx")
    assert wrong.exit_code == 2
    assert "'Xx' is no element" in wrong.stderr


def test_doctor_finds_everything() -> None:
    result = call("doctor")
    assert result.exit_code == 0, result.output
    for subject in (
        "python",
        "torch",
        "devices",
        "generator airss",
        "relaxer chgnet",
        "references chgnet",
        "data folder",
    ):
        assert subject in result.stdout
    assert "broken" not in result.stdout
    assert "89 elements" in result.stdout


def test_importing_and_help_load_nothing_heavy() -> None:
    """The weight of an import is its modules; seconds depend on the machine."""
    heavy = "{m for m in sys.modules if m.split('.')[0] in ('torch', 'pymatgen', 'ase', 'numpy', 'scipy', 'chgnet')}"
    for code in (
        f"import sys, unimat_search; assert not {heavy}, {heavy}",
        "import sys, unimat_search.cli as c; sys.argv = ['unimat-search', 'compare', '--help']\n"
        f"try: c.main()\nexcept SystemExit: assert not {heavy}, {heavy}",
    ):
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_public_names_are_there() -> None:
    import unimat_search

    for name in unimat_search.__all__:
        assert getattr(unimat_search, name)
    with pytest.raises(AttributeError, match="no_such_name"):
        unimat_search.no_such_name  # noqa: B018


def test_inputs_of_dft_codes(run: Path, tmp_path: Path) -> None:
    """VASP: the Materials Project's three stages; Quantum ESPRESSO: one relaxation; the lowest structures alone."""
    assert call("export", run, "--to", "vasp", "--top", "1", "--out", tmp_path / "vasp").exit_code == 0
    folders = sorted((tmp_path / "vasp").iterdir())
    assert len(folders) == len(list((run / "best").glob("*.cif")))
    for folder in folders:
        assert {file.name for file in folder.iterdir()} == {"relax-1", "relax-2", "static", "run.sh"}
        for stage in ("relax-1", "relax-2", "static"):
            files = {file.name for file in (folder / stage).iterdir()}
            assert files == {"INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"}
        assert "ISIF = 3" in (folder / "relax-1" / "INCAR").read_text()
        assert "NSW = 0" in (folder / "static" / "INCAR").read_text()
    assert call("export", run, "--to", "espresso", "--top", "1", "--out", tmp_path / "espresso").exit_code == 0
    inputs = sorted((tmp_path / "espresso").iterdir())
    assert len(inputs) == len(folders)
    for file in inputs:
        text = file.read_text()
        assert "'vc-relax'" in text
        assert "ecutwfc          = 44.0" in text  # 600 eV
        assert "Al.UPF" in text


def test_a_stage_of_vasp_starts_where_the_one_before_it_ended(run: Path, tmp_path: Path) -> None:
    call("export", run, "--to", "vasp", "--top", "1", "--out", tmp_path / "vasp")
    folder = next((tmp_path / "vasp").iterdir())
    stand_in = "sh -c 'echo moved > CONTCAR; pwd | xargs basename >> ../order'"
    done = subprocess.run(["sh", "run.sh"], cwd=folder, env=os.environ | {"VASP": "./vasp"}, check=False)
    assert done.returncode != 0  # there is none
    for stage in ("relax-1", "relax-2", "static"):
        program = folder / stage / "vasp"
        program.write_text(f"#!/bin/sh\n{stand_in}\n")
        program.chmod(0o755)
    subprocess.run(["sh", "run.sh"], cwd=folder, env=os.environ | {"VASP": "./vasp"}, check=True)
    assert (folder / "order").read_text().split() == ["relax-1", "relax-2", "static"]
    assert (folder / "static" / "POSCAR").read_text() == "moved\n"


def test_pressure_and_a_fixed_cell_reach_the_dft_codes(tmp_path: Path) -> None:
    from pymatgen.core import Lattice, Structure

    from unimat_search.eval.dft.inputs import write_espresso, write_vasp
    from unimat_search.records import RelaxSettings

    salt = {"salt": Structure.from_spacegroup("Fm-3m", Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])}
    for relax, incar, pw in (
        (RelaxSettings(pressure=50), "PSTRESS = 500.0", "press            = 500.0"),
        (RelaxSettings(fixed_cell=True), "ISIF = 2", "'relax'"),
    ):
        folder = tmp_path / incar
        folder.mkdir()
        write_vasp(salt, folder / "vasp", relax)
        write_espresso(salt, folder / "espresso", relax)
        assert incar in (folder / "vasp" / "salt" / "relax-2" / "INCAR").read_text()
        assert pw in (folder / "espresso" / "salt.in").read_text()
    polonium = {**salt, "Po": Structure(Lattice.cubic(3.3), ["Po"], [[0, 0, 0]])}
    with pytest.raises(ValueError, match="the Materials Project's sets have no Po: leave Po out"):
        write_vasp(polonium, tmp_path / "po", RelaxSettings())
    assert not (tmp_path / "po").exists()
