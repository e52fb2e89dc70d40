"""The PyTorch reference as a model of the transformers library, for `generate`.

    model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)

The computation is in `reference.py`. `export` copies this file and those that it imports into the
folder that it writes, so the folder needs neither JAX nor rmat_jax; see `hub.py`.
"""

import dataclasses
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

# versions of the library before 5 copy only the files that this file itself imports
from rmat_jax.config import RMATConfig  # noqa: F401
from rmat_jax.errors import UserError
from rmat_jax.interop.configuration_rmat import RMATHubConfig
from rmat_jax.interop.reference import RMAT, State

# the name of the state in `generate`: "past_key_values" in older versions of the library
CACHE = next(
    name
    for name in ("cache", "past_key_values")
    if name in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
)


class RMATCache:
    """What `generate` carries from call to call: the state, which has a fixed size."""

    is_compileable = is_croppable = False
    # one entry a layer; not linear, so the library passes only the new tokens
    is_linear = (False,)

    def __init__(self, state: State, tokens: int):
        """Args: state: the state of the rows; tokens: the number of tokens that each has read."""
        self.state, self.tokens = state, tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Counts the tokens that each row has read."""
        return self.tokens

    def get_max_cache_shape(self, layer_idx: int = 0) -> None:
        """Says that there is no limit."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Gives each row the state of the row at its index, for beam search."""

        def pick(part):
            if isinstance(part, tuple):
                return tuple(map(pick, part))
            return part if part is None else part.index_select(0, beam_idx.to(part.device))

        self.state = State(*map(pick, self.state))


@dataclasses.dataclass
class RMATOutput(ModelOutput):
    """What a call returns. The state stands under the name that `generate` looks for."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: RMATCache | None = None
    past_key_values: RMATCache | None = None


class RMATForCausalLM(PreTrainedModel, GenerationMixin):
    """The language model.

    Rows of a batch must be equally long, since padding would move the borders of a row's chunks. An
    end token begins a new document, as in training: the tokens after it see nothing before it.
    """

    config_class = RMATHubConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]

    def __init__(self, config: RMATHubConfig):
        super().__init__(config)
        self.model = RMAT(config.settings())
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        cache: RMATCache | None = None,
        past_key_values: RMATCache | None = None,
        **unused: Any,
    ) -> RMATOutput | tuple:
        """Reads tokens after those of the state.

        Args:
            input_ids: [B, T], any T >= 1.
            attention_mask: ones, or None.
            labels: [B, T] the tokens themselves; -100 is not scored. Each is compared with the
                prediction of the token before it.
            use_cache: whether the state is returned; None: yes.
            return_dict: whether an RMATOutput is returned, else a tuple; None: yes.
            cache: the state that an earlier call returned; it is not changed.
            past_key_values: the same, for older versions of the library.
            unused: what the library passes to all models.

        Raises:
            UserError: there are no ids, or the mask hides tokens.
        """
        if input_ids is None:
            raise UserError("input_ids are missing; this model takes no inputs_embeds")
        if attention_mask is not None and not bool(torch.all(attention_mask == 1)):
            raise UserError(
                "attention_mask hides tokens; rows of a batch must be equally long, without "
                "padding: generate longer and shorter prompts in calls of their own"
            )
        past = cache if cache is not None else past_key_values
        state = self.model.initial_state(len(input_ids)) if past is None else past.state
        logits, state = self.model(input_ids, state, self.documents(input_ids, state))
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten().to(logits.device)
            )
        output = RMATOutput(loss=loss, logits=logits)
        if use_cache is not False:
            tokens = input_ids.shape[1] + (past.tokens if past is not None else 0)
            output[CACHE] = RMATCache(state, tokens)
        return output.to_tuple() if return_dict is False else output

    def documents(self, tokens_BT: Tensor, state: State) -> Tensor:
        """Numbers the documents of tokens [B, T]: each end token begins the next."""
        read_BS = torch.cat([state.document_B[:, None], state.documents_BS], dim=1)
        return read_BS[:, -1:] + (tokens_BT == self.config.eos_token_id).cumsum(1)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # `generate` starts with no state, and passes on the one that it gets
        return False

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Does nothing, since the reference initialises its weights itself."""

    def get_input_embeddings(self) -> torch.nn.Module:
        """Returns the table of tokens."""
        return self.model.embed
