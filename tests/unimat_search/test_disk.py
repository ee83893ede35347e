from __future__ import annotations

from pathlib import Path

import pytest

from unimat_search.disk import named_by_content, whole, whole_new, write_whole


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_whole_or_not_at_all(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "made"

    def make(partial: Path) -> None:
        if kind == "folder":
            partial.mkdir()
            partial /= "inside"
        partial.write_text("half")

    context = whole if kind == "file" else whole_new

    def fail() -> None:
        with context(path) as partial:
            make(partial)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert not list(tmp_path.iterdir())
    with context(path) as partial:
        make(partial)
    assert [one.name for one in tmp_path.iterdir()] == ["made"]


def test_names_by_content_differ_with_it(tmp_path: Path) -> None:
    names = set()
    for folder, text in (("a", "x"), ("b", "y"), ("c", "x")):
        (tmp_path / folder).mkdir()
        write_whole(tmp_path / folder / "best.pt", text)
        names.add(named_by_content(tmp_path / folder / "best.pt"))
    assert len(names) == 2
    assert all(name.startswith("best-") for name in names)
