"""The one kind of error that a user can mend, and what to install where a package is missing.

May import: nothing.
"""

# package -> the extra of pyproject.toml that brings it
EXTRAS = {
    "tokenizers": "text",
    "sentencepiece": "text",
    "tensorflow_datasets": "tfds",
    "pyarrow": "parquet",
    "matplotlib": "report",
    "tensorboardX": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "starlette": "serve",
    "uvicorn": "serve",
    "h11": "serve",
    "prometheus_client": "serve",
    "torch": "torch",
    "libtpu": "tpu",
    "gcsfs": "gcs",
    "lm_eval": "lm_eval",
}


def install(package: str) -> str:
    """The command that installs a package of EXTRAS."""
    return f"pip install 'rmat_jax[{EXTRAS[package]}]'"


class UserError(ValueError):
    """Bad input. The message is one line: the value, the rule, what to do.

    Commands print it and exit with code 2.
    """
