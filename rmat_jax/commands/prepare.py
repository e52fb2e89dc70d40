"""Makes the tokens and the vocabulary of a run beforehand, and says how large they are.

    python -m rmat_jax prepare --config=configs/pg19.py --config.data.path=books/
    python -m rmat_jax prepare --config=quickstart --config.data.path=my_texts/ --workdir=runs/mine

Training then starts at once, in any workdir on this machine. The files lie in a folder that all
runs share, ~/.cache/rmat_jax/corpora or RMAT_JAX_CORPORA. With --workdir they lie in that run's
folder alone, where a run of several machines looks for them. The command uses all cores. Set the
same keys of the config as in training; data.*, model.vocab_size, batch_size and eval_tokens matter.
"""

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

from rmat_jax import flags
from rmat_jax.config import Config
from rmat_jax.data import Data, make_data
from rmat_jax.data.shared import VARIABLE, shared_folder
from rmat_jax.data.tokenizer_files import follow_tokenizer
from rmat_jax.errors import UserError
from rmat_jax.progress import say, tell

SETS_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_config(parser)
    flags.add_path(
        parser,
        "--workdir",
        "DIR",
        "the folder of a run, which gets the files instead of the shared folder",
        required=False,
    )


def main(args: argparse.Namespace) -> None:
    prepare(flags.load_config(args.config, args.overrides, args.own), args.workdir)


def prepare(config: Config, workdir: Path | None = None) -> Data:
    """Makes corpus and tokenizer of an experiment, or finds them made, and prints their sizes.

    Args:
        config: the experiment.
        workdir: the folder of a run, which gets them; None: the shared folder gets them.

    Raises:
        UserError: there is no text, no folder to keep it in, or too little for this experiment.
    """
    if config.data.synthetic:
        raise UserError(
            f"data.synthetic={config.data.synthetic} is made while it trains: there is nothing to "
            "prepare"
        )
    folder = workdir or shared_folder()
    if folder is None:
        raise UserError(f"no folder is shared by all runs; give --workdir, or set {VARIABLE}=DIR")
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        place = workdir or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        say(
            f"preparing {config.data.path or config.data.mixture or config.data.tfds or 'the text'}"
        )
        config = follow_tokenizer(config, place / "tokenizer")
        data = make_data(config, place, share=workdir is None)
    for name, corpus in data.corpora.items():
        tell(
            f"{name}: {corpus.describe}, {corpus.num_bytes / corpus.num_tokens:.2f} bytes a token, "
            f"{corpus.size_on_disk / 1e6:,.1f} MB on disk"
        )
    tell(f"tokenizer: {data.tokenizer.describe}")
    tell(f"ready in {folder} after {time.perf_counter() - start:.1f} s")
    return data
