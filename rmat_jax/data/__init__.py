"""Text and made-up data as batches: sources, tokenizers, and lanes of documents.

`make_data` makes it all from a config. `lanes.py` says what a batch is.

May import: config, errors, files, progress, grain, numpy, pyarrow, sentencepiece,
tensorflow_datasets, tokenizers.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rmat_jax.config import Config
from rmat_jax.data.corpus import Corpus, kept_corpus
from rmat_jax.data.heldout import HeldoutLanes
from rmat_jax.data.lanes import Batch, Lanes
from rmat_jax.data.mixture import MixedLanes
from rmat_jax.data.recall import MadeLanes, PassKeyLanes, RecallLanes
from rmat_jax.data.shared import Shelf
from rmat_jax.data.sources import Documents, Source, make_source
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.data.tokenizer_files import load_tokenizer
from rmat_jax.errors import UserError
from rmat_jax.progress import say


@dataclasses.dataclass(frozen=True)
class Train:
    """Training batches, read ahead by threads."""

    lanes: Lanes | MixedLanes | MadeLanes

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """The batches from `start_step` on, without end. The iterator has no state but the step."""
        # takes half a second, and who only needs a tokenizer does not need it
        import grain

        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
        return iter(grain.MapDataset.source(self.lanes)[start_step:].to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of an experiment. `source` and `tokenizer` are None where it is synthetic."""

    # one line: source, documents, tokens, bytes
    describe: str
    # equal for the same tokens in the same order of documents; it must not change in a resumed run
    identity: str
    train: Train
    heldout: HeldoutLanes | MadeLanes
    tokenizer: Tokenizer | None
    source: Source | None
    # corpora by name: "train" (for a mixture "train-0" and so on) and "heldout"
    corpora: Mapping[str, Corpus] = dataclasses.field(default_factory=dict)

    def check_same(self, trained_on: str | None, workdir: Path) -> None:
        """Raises UserError where this is not the data that a checkpoint was trained on.

        Args:
            trained_on: the identity of the checkpoint's data; None: its weights were imported.
            workdir: the run's folder, for the error.
        """
        if trained_on not in (None, self.identity):
            raise UserError(
                f"the data of {workdir} has changed: it was {trained_on}, is {self.identity}; "
                "bring it back, or choose "
                "another --workdir"
            )


def make_data(
    config: Config, workdir: Path, rows: Sequence[int] | None = None, *, share: bool = True
) -> Data:
    """Makes all data of an experiment, and keeps corpus and tokenizer in `workdir`.

    Args:
        config: the experiment.
        workdir: the folder that keeps corpus/ and tokenizer/.
        rows: the rows of the training batch that this process reads; None: all. The global batch
            does not depend on it. Every process reads all held-out text.
        share: whether other runs on this machine share the corpus and tokenizer, see `shared.py`.

    Raises:
        UserError: bad settings, or nothing to read.
    """
    batch_size, eval_batch_size, length = (
        config.batch_size,
        config.eval_batch_size,
        config.segment_len,
    )
    rows = range(batch_size) if rows is None else rows

    def made(lanes: type[MadeLanes], train: tuple, heldout: tuple) -> tuple[MadeLanes, MadeLanes]:
        """Lanes to train on, and held-out ones of at least one whole document, since the questions
        stand at its end.
        """
        kept = lanes(config, rows, "train", *train)
        tokens = max(config.eval_tokens // eval_batch_size, kept.document_len)
        return kept, lanes(
            config, range(eval_batch_size), "heldout", *heldout, steps=-(-tokens // length)
        )

    if config.data.synthetic:
        train, heldout = made(RecallLanes, (), ())
        describe = (
            f"synthetic recall: documents of {train.document_len} tokens, "
            f"{config.data.recall_pairs} pairs each"
        )
        return Data(describe, "synthetic", Train(train), heldout, tokenizer=None, source=None)

    try:
        source = make_source(config.data)
    except UserError as error:
        source, tokenizer, corpora = _kept(config, workdir, error)
    else:
        shelf = Shelf(share)
        tokenizer = shelf.tokenizer(config, Path(workdir, "tokenizer"), source)
        corpora = {
            name: shelf.corpus(part, documents, tokenizer, Path(workdir, "corpus"), name)
            for name, (part, documents) in _texts(source).items()
        }
    *training, held = corpora.values()
    describe = "{}: {}; held out: {}".format(
        source.describe, "; ".join(corpus.describe for corpus in training), held.describe
    )
    shares = config.data.shares
    text = training[0].digest
    if shares:
        mixed = zip(shares, training, strict=True)
        text = " + ".join(f"{weight!r} {corpus.digest}" for (_, weight), corpus in mixed)
    identity = f"text {text}, held-out text {held.digest}, {tokenizer.describe}"
    if config.data.passkey:
        train, heldout = made(
            PassKeyLanes, *((corpus.tokens, tokenizer) for corpus in corpora.values())
        )
        describe = f"pass keys in documents of {train.document_len} tokens cut from {describe}"
    else:
        how = batch_size, length, config.data.seed, rows
        if shares:
            train = MixedLanes(training, [weight for _, weight in shares], *how)
        else:
            train = Lanes(training[0], *how)
        heldout = HeldoutLanes(held, eval_batch_size, length, config.eval_tokens, tokenizer)
    return Data(describe, identity, Train(train), heldout, tokenizer, source, corpora)


def _texts(source: Source) -> dict[str, tuple[Source, Documents]]:
    """The source and the documents of each corpus, by name: the text to train on, or each part of a
    mixture, and last the held-out text.
    """
    found = {"train": (source, source.train)}
    if source.parts:
        parts = enumerate(part for _, part in source.parts)
        found = {f"train-{index}": (part, part.train) for index, part in parts}
    return found | {"heldout": (source, source.heldout)}


def _kept(
    config: Config, workdir: Path, error: UserError
) -> tuple[Source, Tokenizer, dict[str, Corpus]]:
    """What a run has kept of a text that is gone. Raises `error` where the run has kept nothing."""
    try:
        tokenizer = load_tokenizer(config, Path(workdir, "tokenizer"))
    except UserError:
        raise error from None
    names = [f"train-{index}" for index in range(len(config.data.shares))] or ["train"]
    corpora = {
        name: kept_corpus(Path(workdir, "corpus"), name, tokenizer) for name in [*names, "heldout"]
    }
    if None in corpora.values():
        raise error
    say(f"warning: {error}; going on with the tokens that {workdir} has kept of it")
    *train, heldout = (
        functools.partial(corpus.documents, tokenizer) for corpus in corpora.values()
    )
    chained = functools.partial(_chained, train)
    return Source("tokens kept by the run", "", chained, heldout), tokenizer, corpora


def _chained(several: Sequence[Documents]) -> Iterator[bytes]:
    for documents in several:
        yield from documents()
