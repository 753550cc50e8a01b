"""The figure of the curves of several runs."""

from training_fixtures import made_record

from seanet_jax.studies.run_curves import curves_of


def test_more_groups_than_colors_have_lines_of_their_own():
    groups = {f"run {number}": [[made_record(1), made_record(2)]] for number in range(9)}
    (axes,) = curves_of(groups, "test_accuracy", "test error (%)").axes
    lines = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(lines) == 9
    assert axes.lines[0].get_ydata().tolist() == [60, 60]


def test_only_epochs_that_all_runs_of_a_group_measured_are_drawn():
    short = [made_record(1, test_accuracy=0.5), made_record(2, test_accuracy=0.7)]
    long = [made_record(1, test_accuracy=0.3), made_record(2), made_record(3)]
    del long[1]["test_accuracy"]  # not every epoch is evaluated
    (axes,) = curves_of({"a": [short, long]}, "test_accuracy", "test error (%)").axes
    (line,) = axes.lines
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1], [60])
