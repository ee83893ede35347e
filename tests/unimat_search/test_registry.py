from __future__ import annotations

import pytest

from unimat_search.registry import PluginError, Spec, UnknownPluginError, load, names


def test_built_ins_are_entry_points() -> None:
    assert {"airss", "pyxtal"} <= set(names("generators"))
    assert {"chgnet", "emt"} <= set(names("relaxers"))


def test_options_are_read_as_toml_and_else_as_text() -> None:
    spec = Spec.parse("airss, max_operations=4,separation=0.7 ,on=true,model=r2scan,name=a b")
    assert spec.name == "airss"
    assert Spec.parse('a,layers=[1,2],name="a,b"').options == {"layers": [1, 2], "name": "a,b"}
    assert spec.options == {"max_operations": 4, "separation": 0.7, "on": True, "model": "r2scan", "name": "a b"}


def test_a_label_is_not_the_factorys() -> None:
    spec = Spec.parse("airss,patience=3,label=my airss")
    assert (spec.options, spec.label, spec.text) == ({"patience": 3}, "my airss", "airss,patience=3,label=my airss")
    assert Spec.parse("airss,patience=3").label == "airss,patience=3"
    with pytest.raises(ValueError, match="must be text"):
        Spec.parse("airss,label=3")


@pytest.mark.parametrize("text", ["", ",a=1", "airss,4", "airss,=4", "airss,a b=3"])
def test_bad_specifications(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no plug-in|not key=value"):
        Spec.parse(text)


def test_what_is_not_packaged_is_imported() -> None:
    from tests.plugins import Uniform

    assert isinstance(load("generators", Spec.parse("tests.plugins:Uniform")), Uniform)


def test_options_reach_the_factory() -> None:
    assert load("generators", Spec.parse("airss,patience=3")).settings.patience == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tests.plugins:Missing", "can't be imported: AttributeError"),
        ("no.such.module:Class", "can't be imported: ModuleNotFoundError"),
        ("tests.plugins:broken_factory", "OSError: weights not found"),
        ("airss,no_such_option=1", "unknown option 'no_such_option'"),
        ("airss,patience=0", "patience must be 1 or more"),
    ],
)
def test_what_cannot_be_built(text: str, says: str) -> None:
    with pytest.raises(PluginError, match=says) as caught:
        load("generators", Spec.parse(text))
    assert not isinstance(caught.value, UnknownPluginError)
    assert len(str(caught.value).splitlines()) == 1


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UnknownPluginError, match="airss, airss:dense, airss:paper"):
        load("generators", Spec.parse("airs"))
