"""Attention over packed sequences against transformers' own on padded ones."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import common.hf_engine.varlen_attention  # noqa: F401  (registers sdpa_varlen)

LENGTHS = (5, 17, 1, 9)


def make_model(**settings):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=50, num_hidden_layers=2, **sizes, **settings)).eval()


def padded_and_packed(model):
    """Logits of the same sequences, one behind the other, both ways."""
    sequences = [torch.randint(1, 50, (length,)) for length in LENGTHS]
    padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(s) for s in sequences], batch_first=True)
    model.set_attn_implementation("sdpa")
    alone = model(input_ids=padded, attention_mask=mask).logits[mask.bool()]
    model.set_attn_implementation("sdpa_varlen")
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    packed = model(input_ids=torch.cat(sequences)[None], position_ids=positions[None], use_cache=False).logits[0]
    return alone, packed


SLIDING = {
    "use_sliding_window": True,
    "sliding_window": 4,
    "max_window_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"],
}


@pytest.mark.parametrize("settings", [{}, SLIDING], ids=["full", "sliding"])
def test_packed_sequences_give_the_logits_and_gradients_of_padded_ones(settings):
    model = make_model(**settings)
    alone, packed = padded_and_packed(model)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(out.logsumexp(-1).sum(), list(model.parameters())) for out in (alone, packed)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_padded_batch_is_refused():
    model = make_model()
    model.set_attn_implementation("sdpa_varlen")
    ids = torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="needs sequences without padding.*ATTENTION=sdpa"):
        model(input_ids=ids, attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]))
