from unimat_search.eval.published import published_error


def test_known_errors_are_told_and_unknown_ones_admitted() -> None:
    assert "0.048 eV/atom" in published_error("sevennet-7net-0")
    assert "PBE without corrections" in published_error("gpaw-26.7.0-pbe-600eV")
    assert published_error("mine:model") == "No published error of mine:model is known here."
