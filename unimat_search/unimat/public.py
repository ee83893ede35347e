"""Public data sets by name, downloaded once from their public homes.

The addresses name a commit, which is itself a checksum of what it holds. The sha256 of a file is noted beside it when
it is first downloaded, and held against it ever after.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from unimat_search.disk import cache_folder, write_whole

CDVAE = "https://raw.githubusercontent.com/txie-93/cdvae/f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea/data"
WYCKOFF_TRANSFORMER = "https://raw.githubusercontent.com/SymmetryAdvantage/WyckoffTransformer/507e8f147a0e87905c2574ebfbbfc9fa21c2fb09/data"
SPLITS = ("train", "val", "test")

PUBLIC: dict[str, str] = {
    **{
        f"{name}/{split}": f"{CDVAE}/{name}/{split}.csv"
        for name in ("mp_20", "perov_5", "carbon_24")
        for split in SPLITS
    },
    **{f"mpts_52/{split}": f"{WYCKOFF_TRANSFORMER}/mpts_52/{split}.csv.gz" for split in SPLITS},
}
"""Address of each set: CSV files of the benchmarks of Xie et al. (2110.06197) and Jiao et al. (2309.04475)."""


_downloads = ContextVar("downloads", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """What is not there is an error here, not a download."""
    before = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(before)


def fetch(name: str, *, address: str | None = None, folder: Path | None = None) -> Path:
    """The file of a public set, downloaded if it is not there yet.

    Args:
        name: A key of `PUBLIC`.
        address: Another address for it.
        folder: Where it is kept. [default: the user's cache]

    Returns:
        The file.

    Raises:
        ValueError: If it can't be downloaded, or is not what it was when it was first downloaded.
    """
    import pooch

    address = address or PUBLIC[name]
    folder = folder or cache_folder() / "data"
    file = folder / f"{name}{''.join(Path(address).suffixes[-2 if address.endswith('.gz') else -1 :])}"
    note = file.with_name(file.name + ".sha256")
    known = note.read_text().strip() if note.exists() else None
    if known and file.exists() and pooch.file_hash(str(file)) != known:
        raise ValueError(f"{file} is not what was downloaded; delete it to download it again")
    if not file.exists() and not _downloads.get():
        raise ValueError(
            f"{name} is downloaded at its first use, or read from the folder that UNIMAT_SEARCH_DATA names"
        )
    try:
        pooch.retrieve(
            address,
            known_hash=f"sha256:{known}" if known else None,
            fname=file.name,
            path=file.parent,
            downloader=pooch.HTTPDownloader(progressbar=_has_tqdm(), timeout=60),
        )
    except ValueError as error:
        raise ValueError(
            f"{address} is not what it was when first downloaded; compare the files, or delete {note}"
        ) from error
    except OSError as error:
        raise ValueError(
            f"{name} can't be downloaded from {address} ({type(error).__name__}); "
            "give the folder of a local copy with --data-dir or UNIMAT_SEARCH_DATA"
        ) from error
    if not known:
        write_whole(note, pooch.file_hash(str(file)) + "\n", alone=False)
    return file


def _has_tqdm() -> bool:
    from importlib.util import find_spec

    return find_spec("tqdm") is not None
