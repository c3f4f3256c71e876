"""What the prediction heads of a checkpoint say by transformers, in float32."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel


class MtpPeer:
    """A model and its heads."""

    def __init__(self, folder):
        options = {"attn_implementation": "eager", "experts_implementation": "eager"}
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
        layer = self.model.config.num_hidden_layers
        self.model._keys_to_ignore_on_load_unexpected = [
            rf"model\.layers\.{layer}\..*"
        ]  # else those of big models only
        self.heads = MtpModel.from_pretrained(self.model).eval()

    def drafts(self, tokens: list[int], count: int) -> np.ndarray:
        """Logits of the `count` tokens behind known ones, the last of which the model itself has not run yet; each but
        the first follows the likeliest one before it, by the same head on its own hidden state: float32 [count, vocab].
        """
        ids, cache, found = torch.tensor([tokens]), MtpCache(config=self.model.config.get_mtp_config()), []
        with torch.inference_mode():
            hidden = self.model.model(ids[:, :-1]).last_hidden_state
            positions, new = torch.arange(1, len(tokens))[None], ids[:, 1:]
            for _ in range(count):
                hidden = self.heads.forward_layer(0, hidden, positions, cache, input_ids=new)[:, -positions.shape[1] :]
                logits = self.heads._project_to_logits(hidden[:, -1:])
                found.append(logits[0, 0].numpy())
                hidden, positions, new = hidden[:, -1:], positions[:, -1:] + 1, logits.argmax(-1)
        return np.stack(found)
