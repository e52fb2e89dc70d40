"""The settings of a model as the transformers library keeps them, in config.json.

`export` copies this file into the folder that it writes; see `hub.py`.
"""

from typing import Any

from transformers import PretrainedConfig

from rmat_jax.config import RMATConfig, from_saved, to_saved

# versions of the library before 5 copy only the files that this file itself imports
from rmat_jax.errors import UserError  # noqa: F401


class RMATHubConfig(PretrainedConfig):
    """Holds a model's settings under the key `rmat`, and some of them under the library's names."""

    model_type = "rmat"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]

    def __init__(self, rmat: dict[str, Any] | None = None, **kwargs):
        """Takes the settings of a model.

        Args:
            rmat: what `to_saved` makes of an RMATConfig; None: the default model.
            kwargs: the library's own keys.

        Raises:
            UserError: the settings are of another version, or break a rule.
        """
        self.rmat = rmat or to_saved(RMATConfig())
        model = self.settings()
        names = {
            "vocab_size": model.vocab_size,
            "hidden_size": model.width,
            "num_hidden_layers": model.num_layers,
            "num_attention_heads": model.num_heads,
            # the model ties its embeddings itself
            "tie_word_embeddings": False,
        }
        super().__init__(**kwargs | names)

    def settings(self) -> RMATConfig:
        """Returns the settings of the model."""
        return from_saved(RMATConfig, self.rmat, "config.json")
