"""The folder of a run: what lies in it, and whether a run may begin there or go on."""

from __future__ import annotations

import logging
import shutil
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

from unimat_search.disk import write_whole
from unimat_search.locks import is_empty
from unimat_search.plan import SETTINGS, CompareSettings
from unimat_search.records import UserError
from unimat_search.summary import BEST, SUMMARY, TABLE
from unimat_search.versions import versions

log = logging.getLogger(__name__)

RESULTS = "results.sqlite"
REFINED = "refined"
"""Folder of what was relaxed again, by potential."""


class RunError(UserError):
    """A run that can't be started or resumed; the message is one line."""


def read_settings(out: Path) -> CompareSettings:
    """The settings of the run in a folder.

    Raises:
        RunError: If the folder holds no run.
        ValueError: If its settings are damaged.
    """
    if not (out / SETTINGS).is_file():
        raise RunError(f"{out} holds no run")
    return CompareSettings.from_toml((out / SETTINGS).read_text(encoding="utf-8"))


def check_folder(out: Path, settings: CompareSettings, *, resume: bool, overwrite: bool) -> None:
    """See that a folder is the right one, and change nothing."""
    if resume:
        _check_same(settings, read_settings(out))
    elif out.exists() and not (out.is_dir() and is_empty(out)):
        if not overwrite:
            raise RunError(f"{out} exists; use --resume to go on with it, --overwrite to replace it, or another --out")
        if not (out / SETTINGS).is_file():
            raise RunError(f"{out} is not the folder of a run: it is not overwritten")


def prepare_folder(out: Path, settings: CompareSettings, *, resume: bool) -> None:
    """Note the settings in the run's folder; the results that are in it go, unless the run goes on."""
    if resume:
        _warn_of_versions(out)
        _note(out, settings)
        return
    try:
        for name in (RESULTS, f"{RESULTS}-wal", f"{RESULTS}-shm", SUMMARY, TABLE):
            (out / name).unlink(missing_ok=True)
        for name in (BEST, REFINED):
            shutil.rmtree(out / name, ignore_errors=True)
        write_whole(out / SETTINGS, settings.to_toml())
    except OSError as error:
        raise RunError(f"{out} can't be written: {error}") from error


def move_reference(out: Path, reference: Path) -> None:
    """Note that the known structures of a run, the same as ever, lie elsewhere now."""
    _note(out, replace(read_settings(out), reference=str(reference)))


def _note(out: Path, settings: CompareSettings) -> None:
    """Note the settings of a run that goes on, where they are other ones, with the versions that it began with."""
    if settings != read_settings(out):
        write_whole(out / SETTINGS, settings.to_toml(_stored_versions(out)))


def _check_same(settings: CompareSettings, stored: CompareSettings) -> None:
    """See that a run can be gone on with: generators may join it and get more time, hulls may change."""
    ours, theirs = asdict(settings), asdict(stored)
    ours["generators"] = ours["generators"][: len(theirs["generators"])]
    for name in ours.keys() - {"hull", "generator_time_limit"}:
        if ours[name] != theirs[name]:
            raise RunError(f"the run to resume has {name} = {theirs[name]}, not {ours[name]}; leave the option out")


def _stored_versions(out: Path) -> dict[str, str]:
    found = tomllib.loads((out / SETTINGS).read_text(encoding="utf-8")).get("versions", {})
    return dict(found) if isinstance(found, dict) else {}


def _warn_of_versions(out: Path) -> None:
    stored = _stored_versions(out)
    for package, now in versions().items():
        if stored.get(package) != now:
            log.warning("the run was started with %s %s, this is %s", package, stored.get(package), now)
