"""config.json of published models, the fields that set their size, and the number of weights they are known to have."""

QWEN2 = {"model_type": "qwen2", "max_position_embeddings": 32768}
QWEN3 = {
    "model_type": "qwen3",
    "head_dim": 128,
    "num_key_value_heads": 8,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}


def _qwen2(hidden, intermediate, layers, heads, kv_heads, vocabulary=152064, tied=False):
    return QWEN2 | {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


def _qwen3(hidden, intermediate, layers, heads, tied=False):
    return QWEN3 | {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "tie_word_embeddings": tied,
    }


# Name -> (config, number of weights). The numbers are those of the safetensors files on the hub.
MODELS = {
    "Qwen2.5-0.5B": (_qwen2(896, 4864, 24, 14, 2, 151936, True), 494_032_768),
    "Qwen2.5-1.5B": (_qwen2(1536, 8960, 28, 12, 2, 151936, True), 1_543_714_304),
    "Qwen2.5-3B": (_qwen2(2048, 11008, 36, 16, 2, 151936, True), 3_085_938_688),
    "Qwen2.5-7B": (_qwen2(3584, 18944, 28, 28, 4), 7_615_616_512),
    "Qwen2.5-14B": (_qwen2(5120, 13824, 48, 40, 8), 14_770_033_664),
    "Qwen2.5-32B": (_qwen2(5120, 27648, 64, 40, 8), 32_763_876_352),
    "Qwen2.5-72B": (_qwen2(8192, 29568, 80, 64, 8), 72_706_203_648),
    "Qwen3-0.6B": (_qwen3(1024, 3072, 28, 16, True), 596_049_920),
    "Qwen3-1.7B": (_qwen3(2048, 6144, 28, 16, True), 1_720_574_976),
    "Qwen3-4B": (_qwen3(2560, 9728, 36, 32, True), 4_022_468_096),
    "Qwen3-8B": (_qwen3(4096, 12288, 36, 32), 8_190_735_360),
    "Qwen3-14B": (_qwen3(5120, 17408, 40, 40), 14_768_307_200),
    "Qwen3-32B": (_qwen3(5120, 25600, 64, 64), 32_762_123_264),
    "Qwen3-30B-A3B": (
        QWEN3
        | {
            "model_type": "qwen3_moe",
            "num_key_value_heads": 4,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "tie_word_embeddings": False,
        },
        30_532_122_624,
    ),
}

# Runs of verl's own tuning scripts and documents (examples/tuning, examples/grpo_trainer, docs/perf/device_tuning.rst):
# model, GPUs, LoRA rank, offload, tensor parallel, share of the rollout engine, tokens of a forward pass on a GPU,
# longest sequence. Scripts that count sequences: GSM8K's have about 350 tokens, MATH's about 1500. Those with LoRA took
# the most sequences that went through (their comments list what did and what did not). Of the two 72B runs on 32 GPUs
# only the document was at hand; their tokens are an assumption.
PUBLISHED_RUNS = [
    ("Qwen2.5-3B", "1x80GB", 32, "true", 1, 0.1, 62 * 350, 1536),
    ("Qwen2.5-7B", "1x80GB", 32, "true", 1, 0.2, 64 * 350, 1536),
    ("Qwen2.5-14B", "2x80GB", 32, "true", 2, 0.25, 58 * 350, 1536),
    ("Qwen2.5-32B", "4x80GB", 32, "true", 4, 0.3, 44 * 350, 1536),
    ("Qwen2.5-72B", "8x80GB", 32, "true", 8, 0.4, 22 * 350, 1536),
    ("Qwen2.5-1.5B", "1x80GB", 0, "false", 1, 0.4, 4 * 1500, 4024),
    ("Qwen2.5-7B", "2x80GB", 0, "true", 2, 0.5, 16 * 350, 2048),
    ("Qwen2.5-14B", "4x80GB", 0, "true", 4, 0.5, 16 * 350, 2048),
    ("Qwen2.5-32B", "2x8x80GB", 0, "false", 8, 0.4, 2 * 2048, 2048),
    ("Qwen2.5-72B", "4x8x80GB", 0, "true", 8, 0.5, 4 * 2048, 2048),
    ("Qwen2.5-72B", "4x8x96GB", 0, "true", 8, 0.5, 4 * 2048, 2048),
    ("Qwen3-30B-A3B", "8x80GB", 0, "true", 4, 0.6, 32768, 6144),
]
# "MIN" in device_tuning.rst: the least that was found to do; half of it does not.
PUBLISHED_LEAST = [
    ("Qwen2.5-7B", "1x80GB"),
    ("Qwen2.5-14B", "2x80GB"),
    ("Qwen2.5-32B", "4x80GB"),
    ("Qwen2.5-72B", "8x80GB"),
]
