"""Labels and legends of the figures stand where nothing else is."""

import itertools

import numpy as np

from rmat_jax.evals import plots


def panels():
    figure, (upper, lower) = plots.new_figure("A title", panels=2)
    places = 2.0 ** np.arange(2, 14)
    for label in ("memory emptied before each chunk", "with memory", "something else"):
        upper.plot(places, np.sin(places), "o-", label=label)
    lower.errorbar(places, np.ones(12), np.full(12, 0.5))
    plots.token_axis(lower, places)
    return figure, upper, lower


def boxes(figure, artists):
    figure.canvas.draw()
    return [artist.get_window_extent() for artist in artists]


def collide(found):
    return any(a.overlaps(b) for a, b in itertools.combinations(found, 2))


def test_labels_of_near_marks_do_not_collide():
    figure, upper, lower = panels()
    plots.mark(upper, lower, {"one chunk": 64, "queue is full": 128, "the end": 8000, "gone": 1})
    labels = boxes(figure, lower.texts)
    assert len(labels) == 3 and not collide(labels)
    # above the data, and inside the panel
    assert min(box.y0 for box in labels) > lower.transData.transform((4, 1.5))[1]
    assert max(box.x1 for box in labels) <= lower.get_window_extent().x1
    # a control: all on one line
    for text in lower.texts:
        text.xy = (text.xy[0], 0.98)
    assert collide(boxes(figure, lower.texts))


def test_the_legend_stands_above_the_panels():
    figure, upper, lower = panels()
    plots.legend(upper)
    plots.legend(upper)
    (legend,) = figure.legends
    found = boxes(figure, [legend, upper.title, upper, lower])
    assert not collide(found) and found[0].x0 >= 0
    # a control: a legend in the panel
    assert collide(boxes(figure, [upper.legend(), upper]))
