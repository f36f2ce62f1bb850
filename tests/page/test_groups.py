"""Tables and plots of groups: the worst first."""

from pet_calc.page.plots import plot_groups
from pet_calc.page.tables import sort_groups


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
