"""Registries: names without imports, plug-ins that are broken or claim a name twice, look-ups as in a mapping."""

import sys
import types
from importlib.metadata import Distribution, EntryPoint, PathDistribution
from pathlib import Path

import pytest

from headstart import registry
from headstart.errors import PluginWarning, SettingError
from headstart.records import Refused
from headstart.registry import Declared, Registry


class Red:
    """A member that is made when it is looked up."""


def distribution(folder: Path, name: str) -> Distribution:
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    return PathDistribution(info)


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    """Two of our own, and four entry points of two distributions."""
    paint, ink = distribution(tmp_path, "paint"), distribution(tmp_path, "ink")
    points = [
        EntryPoint("green", "fine_plugin:green", "tests.colours")._for(paint),  # type: ignore[attr-defined]
        EntryPoint("gone", "no_such_module:gone", "tests.colours")._for(paint),  # type: ignore[attr-defined]
        EntryPoint("twice", "fine_plugin:green", "tests.colours")._for(paint),  # type: ignore[attr-defined]
        EntryPoint("twice", "fine_plugin:green", "tests.colours")._for(ink),  # type: ignore[attr-defined]
        EntryPoint("blue", "fine_plugin:green", "tests.colours")._for(ink),  # type: ignore[attr-defined]
    ]
    module = types.ModuleType("fine_plugin")
    module.green = "as grass"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fine_plugin", module)
    monkeypatch.setattr(registry, "points_of", lambda group: [point for point in points if point.group == group])
    members = {"red": f"{__name__}:Red", "blue": "never_imported_before:blue"}
    return Registry("colour", members=members, group="tests.colours", instances=True)


def test_names_are_listed_without_importing_anything(colours: Registry[object]) -> None:
    before = set(sys.modules)
    assert list(colours) == ["red", "blue", "green", "gone", "twice"]
    assert len(colours) == 5
    assert "green" in colours
    assert "grey" not in colours
    assert colours.declared()[:3] == [
        Declared("red", "headstart", f"{__name__}:Red"),
        Declared("blue", "headstart", "never_imported_before:blue"),
        Declared("green", "paint 1.5", "fine_plugin:green"),
    ]
    assert set(sys.modules) == before


def test_members_are_made_once_when_they_are_looked_up(colours: Registry[object]) -> None:
    assert type(colours["red"]) is Red
    assert colours["red"] is colours["red"]
    assert colours["green"] == "as grass"


def test_a_broken_plugin_is_named_and_the_others_work(colours: Registry[object]) -> None:
    said = (
        r"^colour 'gone' of the plug-in paint 1\.5 cannot be loaded from no_such_module:gone "
        r"\(ModuleNotFoundError: .*\); repair, upgrade or uninstall that package$"
    )
    with pytest.raises(SettingError, match=said):
        colours["gone"]
    assert "cannot be loaded" in next(found.problem for found in colours.declared() if found.name == "gone")  # type: ignore[operator]
    assert colours["green"] == "as grass"


@pytest.mark.parametrize(
    ("instances", "name", "said"),
    [
        (True, "green", "must lead to an instance of test_registry.Red, and leads to a value of type str"),
        (False, "green", "must lead to a class derived from test_registry.Red, and leads to a value of type str"),
        (False, "red", None),
        (False, "int", "must lead to a class derived from test_registry.Red, and leads to the class int"),
        (True, "red", None),
        (True, "int", "must lead to an instance of test_registry.Red, and leads to a value of type int"),
    ],
)
def test_a_plugin_of_the_wrong_type_is_named(
    instances: bool, name: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("fine_plugin")
    vars(module).update(green="as grass", red=Red, int=int)
    monkeypatch.setitem(sys.modules, "fine_plugin", module)
    point = EntryPoint(name, f"fine_plugin:{name}", "tests.colours")
    paint = point._for(distribution(tmp_path, "paint"))  # type: ignore[attr-defined]
    monkeypatch.setattr(registry, "points_of", lambda group: [paint])
    colours: Registry[object] = Registry(
        "colour", group="tests.colours", contract=f"{__name__}:Red", instances=instances
    )
    if said is None:
        assert colours[name] is Red or type(colours[name]) is Red
        return
    with pytest.raises(SettingError) as raised:
        colours[name]
    assert str(raised.value) == (
        f"colour '{name}' of the plug-in paint 1.5 cannot be used: its entry point {name} = fine_plugin:{name} {said}; "
        "correct the entry point, or uninstall that package"
    )
    assert colours.declared()[0].problem == str(raised.value)
    assert [problem.reason for problem in colours.problems()] == [str(raised.value)]


def test_a_plugin_that_ends_the_program_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving_plugin.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "stopped_plugin.py").write_text("raise KeyboardInterrupt\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = ("leaving", "stopped")
    points = [EntryPoint(name, f"{name}_plugin:colour", "tests.colours") for name in names]
    monkeypatch.setattr(registry, "points_of", lambda group: points)
    colours: Registry[object] = Registry("colour", group="tests.colours")
    with pytest.raises(SettingError, match=r"'leaving' of the plug-in .* \(SystemExit: 3\); repair, upgrade or"):
        colours["leaving"]
    with pytest.raises(KeyboardInterrupt):
        colours["stopped"]


def test_a_name_that_two_packages_claim_is_named(colours: Registry[object]) -> None:
    message = "colour 'twice' is declared by paint 1.5 and by ink 1.5; uninstall one of the packages"
    with pytest.raises(SettingError, match=message):
        colours["twice"]
    problems = {found.source: found.problem for found in colours.declared() if found.name == "blue"}
    assert problems["headstart"] is None
    assert "by headstart and by ink 1.5; Headstart's own is used" in str(problems["ink 1.5"])


def test_items_leave_out_what_is_broken_and_say_so(monkeypatch: pytest.MonkeyPatch, colours: Registry[object]) -> None:
    blue = types.ModuleType("never_imported_before")
    blue.blue = "as the sky"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "never_imported_before", blue)
    with pytest.warns(PluginWarning) as said:
        found = dict(colours.items())
    assert list(found) == ["red", "blue", "green"]
    assert found["blue"] == "as the sky"
    assert [str(warning.message).partition("'")[2].partition("'")[0] for warning in said] == ["twice", "blue", "gone"]
    assert {problem.name for problem in colours.problems()} == {"blue", "twice", "gone"}
    assert all(isinstance(problem, Refused) for problem in colours.problems())


def test_get_is_a_mapping_s() -> None:
    colours: Registry[int] = Registry("colour")
    colours.add("red", 1)
    assert colours.get("red") == 1
    assert colours.get("grey") is None
    assert colours.get("grey", 7) == 7


def test_two_members_of_one_name_are_refused() -> None:
    colours: Registry[int] = Registry("colour", members={"blue": "somewhere:blue"})
    colours.register("red")(1)
    colours.add("red", 1)
    for name in ("red", "blue"):
        with pytest.raises(SettingError, match=f"two members of family 'colour' are named '{name}'; rename one"):
            colours.add(name, 2)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("rde", "choose one of: red, Green, blue; did you mean 'red'?"),
        ("GREEN", "; did you mean 'Green'?"),
        ("xyz", "choose one of: red, Green, blue"),
        ("red,blue", "; give several one by one (on the command line, repeat the option)"),
        ("red,grey", "choose one of: red, Green, blue"),
    ],
)
def test_an_unknown_name_is_answered_with_what_may_be_meant(name: str, ending: str) -> None:
    colours: Registry[int] = Registry("colour")
    for known in ("red", "Green", "blue"):
        colours.add(known, 1)
    with pytest.raises(SettingError) as said:
        colours[name]
    assert str(said.value).startswith(f"unknown colour '{name}'; choose one of: ")
    assert str(said.value).endswith(ending)


def test_its_repr_is_one_line_of_names() -> None:
    from headstart.tuning.recipes import RECIPES

    assert repr(RECIPES) == "Registry(4 recipes: few-shot, full, tupate, quick)"
