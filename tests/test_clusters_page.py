"""The recipes of docs/clusters.md, as far as one machine can try them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def blocks(root: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (root / "docs" / "clusters.md").read_text(), re.DOTALL)


def test_the_slurm_script_asks_for_what_it_says(root: Path) -> None:
    jobqueue = pytest.importorskip("dask_jobqueue")
    (recipe,) = blocks(root, "python")
    arguments = recipe.partition("SLURMCluster(\n")[2].partition("\n    )\n")[0]
    options: dict[str, Any] = eval(f"dict({arguments})", {})
    options["scheduler_options"]["port"] = 0
    with jobqueue.SLURMCluster(**options) as cluster:
        script = cluster.job_script()
    assert "#SBATCH -p standard" in script
    assert "#SBATCH --cpus-per-task=16" in script
    assert "#SBATCH -t 08:00:00" in script
    assert "source ~/unimat-search/.venv/bin/activate" in script
    assert re.search(r"--nthreads 1 .*--nworkers 16 .*--lifetime 470m", script)


def test_commands_take_the_options_that_the_page_gives_them(root: Path) -> None:
    pytest.importorskip("distributed")
    commands = [
        line.partition("#")[0] for block in blocks(root, "sh") for line in block.splitlines() if "dask " in line
    ]
    assert len(commands) == 4
    for command in commands:
        if command.startswith("dask"):
            name = command.split()[1]
            shown = subprocess.run(
                [sys.executable, "-m", "dask", name, "--help"], capture_output=True, text=True, check=True
            )
            for option in re.findall(r"--[a-z-]+", command):
                assert option in shown.stdout


def test_the_kubernetes_manifest_is_yaml(root: Path) -> None:
    yaml = pytest.importorskip("ruamel.yaml")
    (manifest,) = blocks(root, "yaml")
    cluster = yaml.YAML(typ="safe").load(manifest)
    assert cluster["kind"] == "DaskCluster"
    assert "--nthreads" in cluster["spec"]["worker"]["spec"]["containers"][0]["args"]
