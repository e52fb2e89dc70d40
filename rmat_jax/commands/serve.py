"""Serves a model over HTTP, with the interface that OpenAI's clients expect.

    python -m rmat_jax serve --workdir=runs/quickstart --port=8000
    python -m rmat_jax serve --workdir=runs/mine --sessions_dir=runs/talks --api_key_file=keys

Open http://127.0.0.1:8000 in a browser to try the model. Clients use http://127.0.0.1:8000/v1 for
texts, and for sessions of any length that go on at a constant cost. With --sessions_dir sessions
survive a restart of the server. Ctrl-C ends the server once the texts in progress are written.

It needs the extra `serve`. docs/serving.md has every address, with examples.
"""

import argparse
from pathlib import Path

from rmat_jax import flags
from rmat_jax.errors import UserError
from rmat_jax.progress import say
from rmat_jax.serve.limits import Limits

LIMITS = {
    "rows": ("N", "the number of texts that are written at the same time (default %(default)s)"),
    "waiting": ("N", "the number of further texts that may wait (default %(default)s)"),
    "sessions": ("N", "the most sessions in memory (default %(default)s)"),
    "stored": ("N", "the most sessions in --sessions_dir (default %(default)s)"),
    "prompt_tokens": ("N", "the most tokens that one request may hold (default %(default)s)"),
    "answer_tokens": ("N", "the most tokens that one text may have (default %(default)s)"),
    "body_bytes": ("N", "the most bytes of one request (default %(default)s)"),
    "grace": (
        "SECONDS",
        "the time for unfinished texts to end when the server stops (default %(default)s)",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_weights(parser)
    flags.add_step(parser)
    flags.add_devices(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; 0.0.0.0: all networks (default %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        metavar="N",
        help="the port to listen on; 0: any that is free (default %(default)s)",
    )
    parser.add_argument("--name", help="the model's name for clients (default: the workdir's name)")
    flags.add_path(
        parser,
        "--api_key_file",
        "FILE",
        "a file with the keys of clients, one a line (default: clients need no key)",
        required=False,
    )
    flags.add_path(
        parser,
        "--sessions_dir",
        "DIR",
        "a folder that keeps sessions (default: they end with the server)",
        required=False,
    )
    flags.add_fields(parser, Limits, LIMITS)


def main(args: argparse.Namespace) -> None:
    serve(
        args.workdir,
        step=args.step,
        devices=args.devices,
        host=args.host,
        port=args.port,
        name=args.name,
        api_key_file=args.api_key_file,
        sessions_dir=args.sessions_dir,
        **flags.fields_of(args, Limits),
    )


def serve(
    workdir: Path | None,
    *,
    step: int | str | None = None,
    devices: int = 1,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    api_key_file: Path | None = None,
    sessions_dir: Path | None = None,
    **limits,
) -> None:
    """Serves until a signal ends it.

    Args:
        workdir: a training run, or what `export` wrote; None: the small model of the package.
        step: the checkpoint's step; see `load_run`.
        devices: how many devices read a long prompt together.
        host: the address to listen on.
        port: the port to listen on; 0 takes any that is free.
        name: the model's name for clients; None: the workdir's name.
        api_key_file: a file with keys, one a line; None: clients need no key.
        sessions_dir: the folder that keeps sessions; None: they end with the server.
        limits: the fields of `Limits`.

    Raises:
        UserError: bad input, or an address that the server cannot listen on.
    """
    taken = Limits(**limits)
    if not 0 <= port <= 65535:
        raise UserError(f"port={port} must lie in 0..65535")
    # A missing package of the extra is reported before anything is loaded.
    from rmat_jax.serve import server

    keys, sock = server.read_keys(api_key_file), server.listen(host, port)
    with sock:
        from rmat_jax.interop.trained import DEFAULT
        from rmat_jax.runs import load_engine

        flags.tell_weights(workdir)
        say(f"loading {workdir or DEFAULT}")
        with load_engine(workdir, taken.rows, step, devices) as engine:
            server.serve(
                engine,
                name or Path(workdir or DEFAULT).resolve().name,
                sock,
                taken,
                keys=keys,
                sessions_dir=sessions_dir,
            )
