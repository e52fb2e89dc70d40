"""In every figure each label can be read, and nothing is drawn over the data."""

import types

import numpy as np
import pytest
from matplotlib.figure import Figure

from rmat_jax import drawing
from rmat_jax.ablate import Variant, report
from rmat_jax.bench import plot, stream, train
from rmat_jax.evals import continuations, plots
from rmat_jax.evals.conditions import Condition
from rmat_jax.evals.means import Mean
from rmat_jax.evals.suites.answers import figures as answers
from rmat_jax.evals.suites.answers.ask import Answer
from rmat_jax.evals.suites.answers.questions import Asked
from rmat_jax.evals.suites.length import figures as length
from rmat_jax.evals.suites.position import figures as position
from rmat_jax.evals.suites.position.gauges import Openness
from rmat_jax.evals.suites.recall import figures as recall
from tests.figures import faults

RNG = np.random.default_rng(0)
PLACES = 2.0 ** np.arange(3, 15)
GAINS = [Mean(0.01 * place, 0.03, 9) for place in range(12)]
# curves that fill their panel up to every corner
HIGH, LOW = 2 + 0.5 * (-1.0) ** np.arange(12), 2 - 0.5 * (-1.0) ** np.arange(12)
# the end of a chunk and the distance at which the queue is full are neighbours
MARKS = {"one chunk": 64, "queue is full": 128}
MODELS = ["base", "queue", "memory off", "no local branch", "memory.gate=none", "transformer-xl"]
PEERS = ["RMAT", "full attention", "GPT-2, DynamicCache", "GPT-2, StaticCache"]


def loss(file, cut=LOW):
    titles = "Loss by position in the document", "position in the document (tokens)"
    position.loss_by_place(file, *titles, PLACES, HIGH, cut, GAINS, marks=MARKS, log=True)


def without_memory(file):
    loss(file, cut=None)


def recovery(file):
    position.recovery(file, PLACES, HIGH, (HIGH + LOW) / 2, LOW, GAINS)


def openness(file):
    opened = Openness(np.array([0.9, 0.5, 1.0]), np.zeros(3), np.ones(3), 7)
    position.gates(file, opened, start=0.98)


def fusion(file):
    weights = np.array([[0.02, 0.97, 0.01], [0.3, 0.3, 0.4]])
    plots.fusion(file, ("full", "local", "memory"), weights)


def reach(file):
    length.reach(file, [0, *PLACES[1:].astype(int)], HIGH, GAINS, {"queue turns over": 4096}, 2.0)


def heat_map(file):
    columns = [drawing.count_name(4080.0)] + [drawing.count_name(64 * 4.0**n) for n in range(10)]
    rows = {f"{depth}%": RNG.random(11) for depth in (0, 25, 50, 75, 100)}
    below = {"4 pairs,\ntold twice": np.ones(11), recall.EMPTIED_ROW: np.zeros(11)}
    plots.heat_map(file, "Recall", rows, columns, "context", below=below, chance=0.1)


def keys(file):
    means = [Mean(share, 0.05, 9) for share in (1, 0.9, 0.5, 0.1)]
    recall.keys(file, [1, 2, 4, 8], means, means[::-1], chance=0.1)


def groups(file):
    bits = {condition: 8 * RNG.random(40) for condition in Condition}
    costs = continuations.Costs(bits, np.full(40, 5), np.arange(40) // 4)
    found = {drawing.count_name(2.0**n): costs.at(RNG.integers(40, size=9)) for n in range(5, 16)}
    continuations.draw(file, "What a name costs", "tokens since the definition", found)


def by_length(file):
    found = [
        Answer(Asked("Who?", ("He",)), n, 64 << n, 9, dict.fromkeys(Condition, 9.0 * n), {})
        for n in range(1, 10)
    ]
    answers.by_length(file, "Questions by length", found, chunk_len=64)


def training(file):
    plots.training(file, list(zip(PLACES, HIGH, strict=True)), [(8192, 2.0)], "bits per token")


def accuracy(file):
    plots.training(file, [(20, 1.0), (40, 1.0)], [(40, 1.0)], "accuracy")


def compared(models):
    """The rows of a comparison, whose curves cross each other."""

    def result():
        offsets = {"edges": [0, *PLACES], "bits": 2 + RNG.random(12), "tokens": [99] * 12}
        return {"score": 2 + RNG.random(), "offsets": offsets}

    results = {name: [result() for _ in range(3)] for name in models}
    return [
        report.Row(Variant(name, {}), of, list(zip(of, results[models[0]], strict=True)), [], 0)
        for name, of in results.items()
    ]


def variants(file):
    report._draw_variants(file, compared(MODELS), "bits per byte")


def offsets(file):
    names = [*MODELS, *(f"model.memory.slots={n}" for n in range(9))]
    assert report._draw_offsets(file, compared(names)[1:])


def bench_stream(file):
    rows = [
        stream.Row(peer, context, [place + context / 9e3] * 3, 1 << 22, 1.0, 1.0, [1.0])
        for place, peer in enumerate(PEERS, 1)
        for context in (512, 1024, 4096, 8192, 16384)
    ]
    plot.plot(types.SimpleNamespace(rows=rows), file)


def bench_train(file, lanes=(1, 8)):
    names = ["ours", "ours, a chunk at a time", "Recurrent Memory Transformer", *PEERS[1:]]
    rows = [
        train.Row(name, many, tokens, 1, 1, 1, 1, 0.0, [place * tokens / 9e3] * 3)
        for place, name in enumerate(names, 1)
        for many in lanes
        for tokens in (512, 2048, 8192)
    ]
    plot.plot_train(types.SimpleNamespace(rows=rows), file)


def one_panel(file):
    bench_train(file, lanes=(1,))


FIGURES = [
    *(loss, without_memory, recovery, openness, fusion, reach, heat_map, keys, groups, by_length),
    *(training, accuracy, variants, offsets, bench_stream, bench_train, one_panel),
]


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_every_label_can_be_read(draw, tmp_path, drawn):
    draw(tmp_path / "figure.png")
    assert len(drawn) == 1


def cluttered():
    """A figure with each fault once."""
    figure = Figure(figsize=(4, 3))
    panel = figure.subplots()
    panel.plot([0, 1, 2], [0, 1, 0], label="a curve")
    panel.errorbar(1.6, 0.8, 0.1, fmt="none")
    panel.set(xticks=[], yticks=[])
    panel.text(0.5, 0.2, "one label")
    panel.text(0.52, 0.21, "another")
    panel.text(1, 1, "a peak", ha="center", va="center")
    panel.text(0.25, 0.25, "slope", ha="center", va="center")
    panel.text(1.6, 0.85, "error", ha="center", va="center")
    panel.text(1.9, 0.5, "a label that is long")
    panel.legend(loc="center left")
    return figure


def test_control_a_figure_with_every_fault(tmp_path):
    figure = cluttered()
    figure.savefig(tmp_path / "figure.png")
    found = [
        "'one label' is on 'another'",
        "'a label that is long' is cut off",
        "a legend is on panel 0",
        "'a peak' is on the data",
        "'slope' is on the data",
        "'error' is on the data",
    ]
    assert faults(figure) == found


def test_a_share_is_all_or_none_only_where_it_is():
    shares = (0, 0.001, 0.499, 0.996, 1 - 1e-9, 1)
    assert list(map(plots.percent, shares)) == ["0%", "1%", "50%", "99%", "100%", "100%"]


def test_a_number_of_tokens_is_told_exactly():
    counts = (64, 1536, 4080, 4096, 1 << 20, 1_000_000)
    told = ["64", "1.5k", "4,080", "4k", "1M", "1,000,000"]
    assert list(map(drawing.count_name, counts)) == told
