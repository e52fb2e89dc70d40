"""The data room: sources, tokenizers, and lanes of documents as batches.

`make_data` is the door. `lanes.py` says what a batch is.

May import: config, errors, files, progress, grain, numpy, pyarrow, sentencepiece,
tensorflow_datasets, tokenizers.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from rmat_jax.config import Config
from rmat_jax.data.corpus import Corpus, build_corpus, kept_corpus
from rmat_jax.data.heldout import HeldoutLanes
from rmat_jax.data.lanes import Batch, Lanes
from rmat_jax.data.recall import MadeLanes, PassKeyLanes, RecallLanes
from rmat_jax.data.sources import Source, make_source
from rmat_jax.data.tokenizer import Tokenizer
from rmat_jax.data.tokenizer_files import load_tokenizer, make_tokenizer
from rmat_jax.errors import UserError
from rmat_jax.progress import say

# of a text: a corpus each
SIDES = ("train", "heldout")


@dataclasses.dataclass(frozen=True)
class Train:
    """Training batches, read ahead by threads."""

    lanes: Lanes | MadeLanes

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """The batches from `start_step` on, without end. The step is all there is to remember of
        the iterator.
        """
        # half a second, which those who only need a tokenizer save
        import grain

        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
        return iter(grain.MapDataset.source(self.lanes)[start_step:].to_iter_dataset(options))


@dataclasses.dataclass(frozen=True)
class Data:
    """What an experiment reads. `source` and `tokenizer` are None where the data is synthetic."""

    # one line: source, documents, tokens, bytes
    describe: str
    # the same for the same tokens in the same order of documents: what a resumed run must find
    # again
    identity: str
    train: Train
    heldout: HeldoutLanes | MadeLanes
    tokenizer: Tokenizer | None
    source: Source | None

    def check_same(self, trained_on: str | None, workdir: Path) -> None:
        """Raises UserError where this is not the data of a checkpoint, by its identity; None: of
        weights that were imported.
        """
        if trained_on not in (None, self.identity):
            raise UserError(
                f"the data of {workdir} has changed: it was {trained_on}, is {self.identity}; "
                "bring it back, or choose "
                "another --workdir"
            )


def make_data(config: Config, workdir: Path, rows: Sequence[int] | None = None) -> Data:
    """All data of an experiment; corpus and tokenizer are kept in `workdir` and found there again.

    Args:
        config: the experiment.
        workdir: gets corpus/ and tokenizer/.
        rows: of the training batch that this process reads; None: all. The batch is the same
            whoever reads what. Held-out text is read whole by everybody.

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
        """Lanes to train on and held-out ones, which ask once at least: the questions stand at a
        document's end.
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
        tokenizer = make_tokenizer(config, Path(workdir, "tokenizer"), source.train)
        corpora = [
            build_corpus(documents, tokenizer, Path(workdir, "corpus"), name, source.key)
            for name, documents in zip(SIDES, (source.train, source.heldout), strict=True)
        ]
    describe = "{}: {}; held out: {}".format(
        source.describe, *(corpus.describe for corpus in corpora)
    )
    identity = "text {}, held-out text {}, {}".format(
        *(corpus.digest for corpus in corpora), tokenizer.describe
    )
    if config.data.passkey:
        train, heldout = made(PassKeyLanes, *((corpus.tokens, tokenizer) for corpus in corpora))
        describe = f"pass keys in documents of {train.document_len} tokens cut from {describe}"
    else:
        train = Lanes(corpora[0], batch_size, length, config.data.seed, rows)
        heldout = HeldoutLanes(corpora[1], eval_batch_size, length, config.eval_tokens, tokenizer)
    return Data(describe, identity, Train(train), heldout, tokenizer, source)


def _kept(
    config: Config, workdir: Path, error: UserError
) -> tuple[Source, Tokenizer, list[Corpus]]:
    """What a run has kept of a text that is no longer there. Raises `error` where it has not."""
    try:
        tokenizer = load_tokenizer(config, Path(workdir, "tokenizer"))
    except UserError:
        raise error from None
    corpora = [kept_corpus(Path(workdir, "corpus"), name, tokenizer) for name in SIDES]
    if None in corpora:
        raise error
    say(f"warning: {error}; going on with the tokens that {workdir} has kept of it")
    train, heldout = (functools.partial(corpus.documents, tokenizer) for corpus in corpora)
    return Source("tokens kept by the run", "", train, heldout), tokenizer, corpora
