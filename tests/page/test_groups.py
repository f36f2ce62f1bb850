"""Tables and plots of groups: the worst first."""

from pathlib import Path

from pet_calc.page.plots import plot_groups
from pet_calc.page.read import ReadRun
from pet_calc.page.tables import list_groups, sort_groups


def build_groups(kind, errors):
    return [
        {
            "kind": kind,
            "name": f"g{i}",
            "n_frames": 1,
            "n_atoms": 3,
            "errors": {"forces_mae": error},
            "before": {"forces_mae": 1.0},
        }
        for i, error in enumerate(errors)
    ]


def test_the_worst_group_comes_first():
    groups = sort_groups(build_groups("file", [0.1, 0.3, 0.2]))
    assert [group["name"] for group in groups] == ["g1", "g2", "g0"]


def test_sizes_of_forces_stay_in_their_order():
    groups = build_groups("force", [0.1, 0.3, 0.2])
    assert sort_groups(groups) == groups


def test_of_many_groups_the_worst_are_drawn():
    errors = [0.01 * i for i in range(30)]
    table = {"set": "test", "groups": build_groups("file", errors)}
    plot = plot_groups(table, "file", "By file")
    assert plot.columns["group"] == [f"g{i}" for i in range(29, 9, -1)]
    assert plot.title == "By file, test: the 20 worst of 30"


def test_every_target_has_its_groups_the_main_one_first():
    kept = [
        {"set": "test", "target": target, "groups": build_groups("file", errors)}
        for target, errors in (("energy/b", [0.2]), ("energy/a", [0.1, 0.3]))
    ]
    report = {"kept": kept, "facts": {"provenance": {"target": "energy/a"}}}
    tables = list_groups(ReadRun(Path(), report, is_ended=True))
    assert [table.caption for table in tables] == [
        "By file, test set, energy/a",
        "By file, test set, energy/b",
    ]
    assert [len(table.rows) for table in tables] == [2, 1]
