"""Comfort at the shell: completion, settings in a file, near names, lists of plug-ins, tables again, logs."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from unimat_search.cli import main
from unimat_search.cli_plugins import SHELLS
from unimat_search.shell import progress

TINY = ["--formula", "Al", "--generator", "uniform", "-n", "2", "--relaxer", "emt", "--max-steps", "3",
        "--formula-units", "1", "--workers", "1"]  # fmt: skip


def call(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(
        main, [str(argument) for argument in arguments], env=environment, prog_name="unimat-search"
    )


def completions(*words: str, shell: str = "bash") -> list[str]:
    line = " ".join(["unimat-search", *words])
    count = str(len(words))
    result = call(_UNIMAT_SEARCH_COMPLETE=f"{shell}_complete", COMP_WORDS=line, COMP_CWORD=count)
    return [text.rpartition(",")[2] for text in result.stdout.split()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shell") / "run"
    result = call("compare", *TINY, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_are_scripts_of_their_shells(shell: str, tmp_path: Path) -> None:
    result = call("completion", shell)
    assert result.exit_code == 0, result.output
    assert f"_UNIMAT_SEARCH_COMPLETE={shell}_complete" in result.stdout
    if shutil.which(shell):
        (tmp_path / "script").write_text(result.stdout)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_names_with_colons_are_completed_in_bash(tmp_path: Path) -> None:
    """Bash takes a colon for the end of a word; its own completion then sees the rest alone."""
    (tmp_path / "script").write_text(call("completion", "bash").stdout)
    command = f"source {tmp_path / 'script'}; [[ $COMP_WORDBREAKS != *:* ]] && complete -p unimat-search"
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "unimat-search" in shown.stdout
    assert completions("compare", "--generator", "airss:st") == ["airss:standard"]


def test_completion_knows_commands_options_and_plug_ins() -> None:
    assert "compare" in completions("com")
    assert "--generator" in completions("compare", "--gen")
    assert completions("compare", "--generator", "uni") == ["uniform", "unimat", "unimat+airss"]
    assert completions("compare", "--relaxer", "chg") == ["chgnet"]


def test_options_in_a_file_are_the_commands_own(tmp_path: Path) -> None:
    config = tmp_path / "compare.toml"
    config.write_text(
        'formula = "Al"\ngenerator = ["uniform", "airss"]\nn = 3\nformula_units = "1"\nmax-steps = 0\n'
        'relaxer = "emt"\nfixed-cell = true\nworkers = 1\nformat = "json"\n'
    )
    result = call("compare", "--config", config, "-n", "2", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["generators"] == ["uniform", "airss"]
    assert summary["overall"]["airss"]["n_generated"] == 2  # the command line counts more
    assert summary["relax"]["fixed_cell"] is True
    assert summary["relax"]["max_steps"] == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("generatr = 'airss'", "unknown option 'generatr'; did you mean generator?; there are formula, formulas"),
        ("n = [1, 2]", "n takes one value, got [1, 2]"),
        ("n = true", "n must be a number or text, got True"),
        ("n = 2.9", "n must be a whole number, got 2.9"),
        ("fixed-cell = 1", "fixed-cell must be true or false, got 1"),
        ("n = 'many'", "'many' is not a valid integer"),
        ("n = ", "can't be read: Invalid value"),
        ("relax = {fmax = 1}", "unknown option 'relax'"),
        ("formula = [['Al']]", "must be a number or text"),
        ("config = 'other.toml'", "unknown option 'config'"),
    ],
)
def test_a_bad_file_of_options_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    config = tmp_path / "compare.toml"
    config.write_text(text + "\n")
    result = call("compare", "--formula", "Al", "--config", config, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "run").exists()
    assert call("compare", "--config", tmp_path / "none.toml").exit_code == 2


@pytest.mark.parametrize(
    ("option", "given", "meant"),
    [
        ("--generator", "airs", "airss"),
        ("--generator", "Unimat", "unimat"),
        ("--generator", "airss,operatons=2", "operations"),
        ("--generator", "pyxtal,max_trys=2", "max_tries"),
        ("--generator", "unimat,step=2", "steps"),
        ("--relaxer", "chgent", "chgnet"),
        ("--relaxer", "chgnet,modle=r2scan", "model"),
    ],
)
def test_near_names_are_suggested(option: str, given: str, meant: str, tmp_path: Path) -> None:
    result = call("compare", "--formula", "Al", option, given, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert f"did you mean {meant}?" in result.stderr
    assert not (tmp_path / "run").exists()


def test_what_a_plug_in_needs_is_said(tmp_path: Path) -> None:
    result = call("compare", "--formula", "Al", "--generator", "files", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "files needs an option: files,path=..." in result.stderr


def test_generators_and_relaxers_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNIMAT_SEARCH_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lines = {line.split()[0]: line for line in call("generators").stdout.splitlines() if line.split()}
    assert "Random search from dense starts" in lines["airss"]
    assert "unimat-search 0." in lines["airss"]
    assert "files,path=..." in lines
    assert "is downloaded at its first use" in lines["substitution"]
    result = call("relaxers")
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.split()}
    assert "CHGNet" in lines["chgnet"]
    assert "pseudo_dir" in lines["espresso"]
    assert result.stderr == ""


@pytest.mark.parametrize("fmt", ["table", "json", "csv", "markdown"])
def test_show_prints_what_compare_printed(fmt: str, run: Path) -> None:
    printed = call("compare", "--resume", "--out", run, "--format", fmt)
    assert printed.exit_code == 0, printed.output
    shown = call("show", run, "--format", fmt)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == printed.stdout


def test_show_needs_a_run_that_has_ended(run: Path, tmp_path: Path) -> None:
    result = call("show", tmp_path)
    assert (result.exit_code, "holds no finished run" in result.stderr) == (2, True)
    begun = tmp_path / "begun"
    shutil.copytree(run, begun)
    (begun / "summary.json").write_text("{")
    result = call("show", begun)
    assert (result.exit_code, "is damaged" in result.stderr) == (2, True)
    (begun / "summary.json").unlink()
    result = call("show", begun)
    assert (result.exit_code, f"compare --resume --out {begun}" in result.stderr) == (2, True)


def test_show_of_an_experiment_that_keeps_text(tmp_path: Path) -> None:
    (tmp_path / "rq1.md").write_text("### Samples\n\n| a |\n")
    assert call("show", tmp_path).stdout == "### Samples\n\n| a |\n"
    assert call("show", tmp_path, "--format", "csv").exit_code == 2


def test_logs_with_v(run: Path) -> None:
    logger = logging.getLogger("unimat_search")
    before = logger.level
    try:
        quiet = call("compare", "--resume", "--out", run)
        assert quiet.stderr == f"run folder: {run}\n"
        loud = call("compare", "--resume", "--out", run, "-v")
        assert "INFO: 1 compositions, 1 generators, 2 candidates" in loud.stderr
        assert loud.stdout == quiet.stdout
    finally:
        logger.setLevel(before)


@pytest.mark.parametrize("own", [None, "ACTIVE"])
def test_threads_leave_the_cores_to_others_while_they_wait(monkeypatch: pytest.MonkeyPatch, own: str | None) -> None:
    """Unless the user has it otherwise."""
    monkeypatch.setenv("OMP_WAIT_POLICY", own or "")
    if own is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    CliRunner().invoke(main, ["generators"])
    assert os.environ["OMP_WAIT_POLICY"] == (own or "PASSIVE")


def test_a_log_file_gets_a_line_of_progress_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After one minute, two more, four more; at most an hour apart."""
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with progress("candidates") as on_progress:
        for second in range(0, 20_000, 10):
            now = 1000.0 + second
            on_progress(second, 20_000)
    said = [int(line.split()[1]) for line in capsys.readouterr().err.splitlines()]
    assert said == [60, 180, 420, 900, 1860, 3780, 7380, 10980, 14580, 18180]


def test_nothing_is_coloured_where_it_should_not_be(run: Path) -> None:
    """A terminal that can show colours (FORCE_COLOR makes rich think so), and NO_COLOR."""
    environment = os.environ | {"NO_COLOR": "1", "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "unimat_search", "show", str(run)]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "\x1b" not in shown.stdout + shown.stderr


@pytest.mark.parametrize("width", [60, 80, 100, 140, None])
def test_tables_fit_into_the_terminal(width: int | None, run: Path) -> None:
    from unimat_search.eval.report import plain_text
    from unimat_search.stored import read_tables

    stored = read_tables(run)
    text = plain_text(stored.tables, "", width=width)
    assert ("Left out" in text) == (width is not None and width < 140)
    table = text.partition("Left out")[0].splitlines()
    assert max(map(len, table)) <= max(width or 1000, 110)  # numbers are never cut
    assert "1.00 [0." in text or "0.00 [0." in text
