from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unimat.crystals import TINY, random_set
from unimat_search.scaling import BASE, Variant, reproduce, sections
from unimat_search.unimat.sources import write_parquet

TRAINING = replace(BASE.training, steps=2, sites=60, accumulate=1, validate_every=1)
SMALL = replace(
    BASE, model=TINY["slots"], data=replace(BASE.data, train=("mp_20/train",), validation=10), training=TRAINING
)
VARIANTS = (
    Variant("width", width=16),
    Variant("width", width=32),
    Variant("data", width=32, share=0.5),
    Variant("data", width=32),
    Variant("cells", width=32, max_sites=4),
)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "data" / "mp_20").mkdir(parents=True)
    write_parquet(random_set(1, 60), tmp_path / "data" / "mp_20" / "train.parquet")
    write_parquet(random_set(2, 40), tmp_path / "data" / "mp_20" / "val.parquet")
    return tmp_path / "data"


def test_each_variant_is_trained_once_and_measured(data_dir: Path, tmp_path: Path) -> None:
    said: list[str] = []
    rows = reproduce(tmp_path / "out", data_dir, base=SMALL, variants=VARIANTS, count=6, say=said.append)
    by_width = [row["parameters"] for row in rows if row["axis"] == "width"]
    assert by_width[0] < by_width[1]
    whole, half, cells = rows[3], rows[2], rows[4]
    assert half["structures"] < whole["structures"]
    assert cells["structures"] < whole["structures"]
    assert rows[1] | {"axis": ""} == whole | {"axis": ""}  # one run serves both axes
    assert all(0 <= row["match_rate"] <= 1 and row["known"] == 6 for row in rows)
    assert [title for title, _ in sections(rows)] == ["By width", "By data", "By cells"]
    again = reproduce(tmp_path / "out", data_dir, base=SMALL, variants=VARIANTS, count=6, say=said.append)
    assert json.dumps(again) == json.dumps(rows)
    fewer = reproduce(tmp_path / "out", data_dir, base=SMALL, variants=VARIANTS[:1], count=4, say=said.append)
    assert fewer[0]["known"] == 4
    longer = replace(SMALL, training=replace(TRAINING, steps=3))
    more = reproduce(tmp_path / "out", data_dir, base=longer, variants=VARIANTS[:1], count=6, say=said.append)
    assert more[0]["steps"] == 3
