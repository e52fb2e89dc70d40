"""The case of a comparison: weights, and inputs that reach every rule of the model. NumPy only."""

import dataclasses

import numpy as np

from rmat_jax.config import IGNORE, Config, RMATConfig

# rows: one long document; short ones, cut where rules change; documents of random lengths
BATCH = 3
# the chunks that an optimiser step reads; the lanes' memory goes on from step to step
CHUNKS_PER_STEP = 2
# the share of targets that are not scored
IGNORED = 0.05

# results by (quantity, place), in the order in which a model computes them
Results = dict[tuple[str, str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """Everything that a result depends on. Streams begin with the tokens of the call."""

    config: Config
    # tensors by the names of `layout`
    weights: dict[str, np.ndarray]
    # [B, T], the tokens of one call
    tokens: np.ndarray
    # [B, T]
    targets: np.ndarray
    # [B, T]
    documents: np.ndarray
    # [steps, B, T']
    step_tokens: np.ndarray
    step_targets: np.ndarray
    step_documents: np.ndarray
    # [B, T + S]
    stream_tokens: np.ndarray
    stream_documents: np.ndarray
    # [B], how many tokens a stream reads at once; then it reads S more, one by one
    prompt_lengths: np.ndarray

    def check(self) -> None:
        """Raises ValueError where the arrays do not fit each other or the config."""
        c, x = self.config.model, self.arrays()
        shapes = {name: x[name].shape for name in x}
        same = ({"tokens", "targets", "documents"}, {"stream_tokens", "stream_documents"})
        steps = {"step_tokens", "step_targets", "step_documents"}
        rows, length = shapes["tokens"]
        fit = all(len({shapes[name] for name in names}) == 1 for names in (*same, steps))
        fit &= rows > 0 and length > 0 and length % c.chunk_len == 0
        fit &= shapes["stream_tokens"][0] == rows and self.decoded > 0
        fit &= shapes["prompt_lengths"] == (rows,)
        fit &= shapes["step_tokens"][1:] == (self.config.batch_size, self.config.segment_len)
        if not fit:
            raise ValueError("its inputs do not fit each other")
        limits = {name: c.vocab_size for name in x if name.endswith(("tokens", "targets"))}
        limits["prompt_lengths"] = length + 1
        for name, limit in limits.items():
            low = {"prompt_lengths": 1}.get(name, IGNORE if name.endswith("targets") else 0)
            if not (np.issubdtype(x[name].dtype, np.integer) and x[name].size):
                raise ValueError(f"{name} are {x[name].dtype}")
            if x[name].min() < low or x[name].max() >= limit:
                raise ValueError(f"{name} lie outside {low}..{limit - 1}")

    @property
    def num_chunks(self) -> int:
        return self.tokens.shape[1] // self.config.model.chunk_len

    @property
    def decoded(self) -> int:
        """The number of tokens that each stream reads one by one, S."""
        return self.stream_tokens.shape[1] - self.tokens.shape[1]

    def arrays(self) -> dict[str, np.ndarray]:
        """The inputs by name, without config and weights."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: x for name, x in values.items() if isinstance(x, np.ndarray)}


def make_case(
    config: Config,
    weights: dict[str, np.ndarray],
    *,
    steps: int,
    seed: int = 0,
    text: np.ndarray | None = None,
) -> Case:
    """Makes a case for a model: long enough that slots are written over, with documents that end
    wherever a rule changes.

    Args:
        config: the experiment. The case has no dropout, and an AdamW with a cosine schedule that
            goes through warm-up, peak and end within `steps` steps.
        weights: tensors by the names of `layout`.
        steps: the number of optimiser steps, at least 1.
        seed: the seed of tokens, targets and documents.
        text: token ids to read, from a random place in each row; None: random ids.
    """
    model = dataclasses.replace(config.model, dropout=0.0)
    # the only optimiser of `interop/training.py`
    optim = dataclasses.replace(
        config.optim, name="adamw", schedule="cosine", ema=0.0, warmup_steps=steps // 3
    )
    config = dataclasses.replace(
        config,
        model=model,
        optim=optim,
        steps=steps,
        batch_size=BATCH,
        chunks_per_step=CHUNKS_PER_STEP,
        accumulation=1,
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    chunk_len = model.chunk_len
    length = _chunks(model) * chunk_len
    # every stream crosses a border
    decoded = chunk_len + 2

    def tokens(*shape):
        if text is None:
            return rng.integers(model.vocab_size, size=shape)
        starts = rng.integers(len(text), size=shape[:-1])[..., None]
        return np.take(text, starts + np.arange(shape[-1]), mode="wrap").astype(np.int64)

    def targets(inputs):
        following = np.concatenate([inputs[..., 1:], tokens(*inputs.shape[:-1], 1)], axis=-1)
        return np.where(rng.random(inputs.shape) < IGNORED, IGNORE, following)

    stream_tokens = tokens(BATCH, length + decoded)
    stream_documents = _documents(rng, model, length + decoded)
    step_tokens = tokens(steps, BATCH, CHUNKS_PER_STEP * chunk_len)
    step_documents = _documents(rng, model, steps * CHUNKS_PER_STEP * chunk_len)
    return Case(
        config=config,
        weights=weights,
        tokens=stream_tokens[:, :length],
        targets=targets(stream_tokens[:, :length]),
        documents=stream_documents[:, :length],
        step_tokens=step_tokens,
        step_targets=targets(step_tokens),
        step_documents=step_documents.reshape(BATCH, steps, -1).swapaxes(0, 1),
        stream_tokens=stream_tokens,
        stream_documents=stream_documents,
        prompt_lengths=np.array([length, length - chunk_len // 2 - 1, 1]),
    )


def _chunks(model: RMATConfig) -> int:
    """The number of chunks after which written slots have been written over; at least three."""
    return max(3, model.memory.slots // model.memory.writes + 2) if model.memory else 3


def _documents(rng: np.random.Generator, model: RMATConfig, length: int) -> np.ndarray:
    """Makes document ids [B, T]: one document in row 0; in row 1 ends at a border and within a run,
    and a document of one token; random lengths in row 2.
    """
    chunk_len = model.chunk_len
    run_len = model.run_len if model.memory else chunk_len // 2
    cuts = [
        chunk_len,
        chunk_len + run_len // 2 + 1,
        chunk_len + run_len // 2 + 2,
        3 * chunk_len - 1,
        3 * chunk_len + 1,
    ]
    random = np.cumsum(1 + rng.exponential(1.5 * chunk_len, size=length).astype(int))
    ids_BT = np.zeros((BATCH, length), np.int64)
    for row, ends in enumerate([[], cuts, random]):
        for end in ends:
            ids_BT[row, end:] += 1
    # ids need not be consecutive
    return ids_BT * 7 + np.arange(BATCH)[:, None]
