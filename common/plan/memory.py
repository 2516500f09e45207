"""Bytes on a GPU and on the host, part by part, for verl's FSDP2 engine with a rollout engine on the same GPUs.

Exact, from the shapes: weights, gradients and optimiser. verl keeps float32 masters (`model_dtype` is fp32 where it
trains, workers/engine/fsdp/transformer_impl.py:_build_module) and computes in bfloat16: 4 bytes a weight, 4 a gradient,
8 for the two moments of Adam (OPTIMIZER has others), split over all ranks (ZeRO, arXiv 1910.02054). LoRA trains its
adapter alone; the base keeps its 4 bytes. Estimated, with the formula at each: activations, logits, gathered layers,
the engine's own.

Three kinds of offloading, of which verl's two behave so (workers/engine/base.py:BaseEngineCtx):

* ``true`` (`param_offload`, `optimizer_offload`): states wait on the host while the engine generates. While training
  all of them are on the GPU, so the peak of training is the same as without.
* ``full`` (`offload_policy`, FSDP2's CPUOffloadPolicy): states stay on the host; only gathered layers visit the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from common.plan import megatron
from common.plan.machine import GIB, Gpus
from common.plan.weights import Model, Weight

MASTER, GRADIENT, MOMENTS, COMPUTE = 4, 4, 8, 2  # bytes a number
MOMENTS_8BIT = 2 * (1 + 4 / 256)  # torchao: a byte each, and a float32 scale for a block of 256
SMALL_8BIT = 4096  # numbers; torchao keeps the moments of smaller weights whole
MOMENTUM = 4  # Muon's, of hidden matrices
CONTEXT = 1.5 * GIB  # CUDA context, cuBLAS and NCCL buffers of a process
FRAGMENTATION = 0.05  # of a GPU: what the allocator holds and cannot hand out
ENGINE_ASLEEP = 2.0 * GIB  # what vLLM keeps while it sleeps: context and CUDA graphs
ENGINE_OWN = 1.2 * GIB  # of its share: activations of a prefill, samplers
SYNC_BUCKET = 2 * GIB  # checkpoint_engine.update_weights_bucket_megabytes
PROCESS = 3 * GIB  # host memory of a training process: Python, torch, CUDA libraries, pinned buffers
FUSED_ROWS = 512  # verl's chunk_size (utils/experimental/torch_functional.py)
FUSED_BYTES = (
    32  # a logit of a chunk, at most: eight float32 numbers in the backward pass of log-probability and entropy
)
NODE = 12 * GIB  # host memory of Ray, TransferQueue, reward workers and the data


@dataclass(frozen=True)
class Setup:
    """What decides the memory of a run.

    Args:
        model: The policy.
        gpus: Where it runs.
        tokens: TOKENS_PER_GPU, of one forward pass on one GPU; padding counts (`common.verl_ext.padded_batches`).
        sequence: Longest prompt and answer together, tokens.
        rollout: Whether answers are generated (RL).
        offload: ``false``, ``true`` or ``full``.
        tensor_parallel: GPUs that hold one copy of the rollout engine.
        utilization: Share of a GPU's memory for the rollout engine.
        lora_rank: 0: all weights train.
        optimizer: OPTIMIZER, of the policy; a critic has AdamW.
        reference: Another copy of the model is asked for log-probabilities (it waits on the host).
        critic: The critic of PPO.
        reward_share: Share of each GPU for a reward model that is served on the same GPUs, 0 without one.
        answers: Answers of a step for each GPU, 0 when that is not known.
        flash: flash-attn is there: its cross entropy writes the gradient of the logits over them.
        keeps_away: The engine can leave all states on the host (``OFFLOAD=full``): FSDP2 can, FSDP1 cannot.
        fused: Logits are made in chunks and never kept (``FUSED_KERNELS``).
        fusable: They may be, with this model.
        sequence_parallel: GPUs that share each sequence; each holds ``tokens`` of them.
        sequence_sizes: What that may be, with this model, its attention and the GPUs.
        checkpointing: Activations are computed again in the backward pass.
        split: How Megatron shares a model among the GPUs; None: FSDP shards it over all of them.
    """

    model: Model
    gpus: Gpus
    tokens: int
    sequence: int
    rollout: bool = True
    offload: str = "false"
    tensor_parallel: int = 1
    utilization: float = 0.5
    lora_rank: int = 0
    optimizer: str = "adamw"
    reference: bool = False
    critic: Model | None = None
    reward_share: float = 0.0
    answers: int = 0
    flash: bool = True
    keeps_away: bool = True
    fused: bool = False
    fusable: bool = False
    sequence_parallel: int = 1
    sequence_sizes: tuple[int, ...] = (1,)
    checkpointing: bool = True
    split: megatron.Split | None = None

    @property
    def share(self) -> int:
        """Tokens of the longest sequence on one GPU."""
        return -(-self.sequence // self.sequence_parallel)


@dataclass
class Memory:
    """Bytes by part.

    Args:
        training: On each GPU, at the peak of training.
        handing_over: On each GPU, while the rollout engine takes the new weights; its cache is not there yet.
        generating: On each GPU, while the rollout engine generates; both are empty without one.
        scoring: On each GPU, while a reward model on the same GPUs reads the answers; empty without one.
        host: On each node.
        checkpoint: On disk, for one checkpoint.
        kv_tokens: Tokens that the rollout engine's cache holds in one copy of it.
    """

    training: dict[str, float] = field(default_factory=dict)
    handing_over: dict[str, float] = field(default_factory=dict)
    generating: dict[str, float] = field(default_factory=dict)
    scoring: dict[str, float] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)
    checkpoint: dict[str, float] = field(default_factory=dict)
    kv_tokens: int = 0

    @property
    def peak(self) -> float:
        """The largest of the phases on a GPU."""
        return max(sum(phase.values()) for phase in (self.training, self.handing_over, self.generating, self.scoring))


def states(model: Model, lora_rank: int, shards: int, optimizer: str = "adamw") -> dict[str, int]:
    """Bytes of weights, gradients and optimiser on the first rank, exactly as FSDP2 holds them."""
    adapter = model.adapter(lora_rank)
    held = _numbers((*model.weights, *adapter), shards)
    trained = adapter if lora_rank else model.weights
    gradients = GRADIENT * _numbers(trained, shards)
    moments = sum(moments_of(weight, optimizer, model) * weight.on_rank_0(shards) for weight in trained)
    return {"weights": MASTER * held, "gradients": gradients, "optimizer": round(moments)}


def moments_of(weight: Weight, optimizer: str, model: Model) -> float:
    """Bytes that an optimiser keeps for each number of a weight."""
    if optimizer == "adamw_8bit" and weight.numbers // weight.times >= SMALL_8BIT:
        return MOMENTS_8BIT
    hidden = len(weight.shape) == 2 and model.vocabulary not in weight.shape and min(weight.shape) > 1
    return MOMENTUM if optimizer == "muon" and hidden else MOMENTS


def _numbers(weights: tuple[Weight, ...], shards: int) -> int:
    return sum(weight.on_rank_0(shards) for weight in weights)


def activations_per_token(model: Model, checkpointing: bool = True) -> float:
    """Bytes that the layers keep for one token.

    With checkpointing: the input of every layer, and one layer computed again with its gradients. Counted from the
    bfloat16 tensors of a layer (norms, q k v o, gate up and their product), as in Korthikanti et al., arXiv 2205.05198.
    """
    wide, narrow = model.heads * model.head_dim, model.kv_heads * model.head_dim
    layer = COMPUTE * (6 * model.hidden + 2 * (wide + narrow) + 4 * model.intermediate)
    return model.layers * model.hidden * COMPUTE + 2 * layer if checkpointing else (model.layers + 1) * layer


def logits_per_token(model: Model, flash: bool) -> float:
    """Bytes for the head's output of one token: bfloat16 logits, their softmax for the entropy, their gradient.

    flash-attn's cross entropy writes the gradient over the logits; without it two more copies are kept.
    """
    return model.vocabulary * COMPUTE * (3 if flash else 5)


def logits_of(setup: Setup) -> float:
    """Bytes for the head's output of a forward pass, and what its gradient takes on top of the plain path's.

    Fused: one chunk at its peak, and the head's gradient twice, its sum and a chunk's share of it.
    """
    if not setup.fused:
        return setup.tokens * logits_per_token(setup.model, setup.flash)
    head = 0 if setup.lora_rank else 2 * COMPUTE * setup.model.vocabulary * setup.model.hidden
    return FUSED_BYTES * FUSED_ROWS * setup.model.vocabulary + head


def gathered(model: Model) -> float:
    """Bytes of what FSDP2 puts together for a moment: two layers, what is outside of them, one layer's gradient."""
    return COMPUTE * (2 * model.layer + model.outside) + (COMPUTE + GRADIENT) * model.layer


def kv_per_token(model: Model, tensor_parallel: int) -> float:
    """Bytes of keys and values of one token on one GPU; heads that are too few to split are held by several."""
    return 2 * model.layers * max(1, model.kv_heads / tensor_parallel) * model.head_dim * COMPUTE


def reserve(gpus: Gpus) -> float:
    """Bytes of a GPU that cannot be used."""
    return CONTEXT + FRAGMENTATION * gpus.memory


def memory_of(setup: Setup) -> Memory:
    """All of it."""
    memory, shards = Memory(), setup.gpus.count
    own = _held(setup, setup.model, setup.lora_rank, shards)
    critic = _held(replace(setup, optimizer="adamw"), setup.critic, 0, shards) if setup.critic else {}
    tensor = setup.split.tensor if setup.split else 1
    resident = 0 if setup.offload == "full" else 1
    memory.training = {name: resident * size for name, size in own.items()}
    if critic and setup.offload == "false":  # its gradients go before the actor's come
        memory.training["critic"] = critic["weights"] + critic["optimizer"]
    memory.training |= {
        "gathered layers": 0 if setup.split else gathered(setup.model),
        "activations": setup.tokens * activations_per_token(setup.model, setup.checkpointing) / tensor,
        "logits": logits_of(setup) / tensor,
    }
    if setup.rollout:
        memory.training["engine asleep"] = ENGINE_ASLEEP * (2 if setup.reward_share else 1)
        _generating(setup, own, critic, memory)
    memory.training["reserve"] = reserve(setup.gpus)
    _host(setup, own, critic, memory)
    _checkpoint(setup, memory)
    return memory


def _held(setup: Setup, model: Model, lora_rank: int, shards: int) -> dict[str, int]:
    """Bytes of weights, gradients and optimiser on a GPU."""
    return (
        megatron.states(model, setup.split, shards)
        if setup.split
        else states(model, lora_rank, shards, setup.optimizer)
    )


def _generating(setup: Setup, own: dict[str, int], critic: dict[str, int], memory: Memory) -> None:
    stays, visits = setup.offload == "false", setup.offload != "full"
    others = own["optimizer"] + (critic["weights"] + critic["optimizer"] if critic else 0)
    weights = COMPUTE * setup.model.parameters / setup.tensor_parallel
    share = setup.utilization * setup.gpus.memory
    cache = max(0.0, share - weights - ENGINE_OWN)
    largest = max(weight.numbers // weight.times for weight in setup.model.weights)
    engine = {"engine weights": weights, "engine own": ENGINE_OWN, "reserve": reserve(setup.gpus)}
    memory.generating = {"trainer": stays * (own["weights"] + others), "KV cache": cache, **engine}
    memory.handing_over = {
        "trainer": visits * own["weights"] + stays * others,
        "weight sync": SYNC_BUCKET + MASTER * largest,
        **engine,
    }
    if setup.reward_share:
        asleep = {"engine asleep": ENGINE_ASLEEP}
        memory.generating |= asleep
        memory.handing_over |= asleep
        memory.scoring = {
            "trainer": memory.generating["trainer"],
            "reward model": setup.reward_share * setup.gpus.memory,
            **asleep,
            "reserve": engine["reserve"],
        }
    memory.kv_tokens = int(cache / kv_per_token(setup.model, setup.tensor_parallel))


def _host(setup: Setup, own: dict[str, int], critic: dict[str, int], memory: Memory) -> None:
    ranks = setup.gpus.per_node
    memory.host = {"processes": NODE + PROCESS * ranks}
    if setup.offload != "false":
        waits = sum(size for name, size in own.items() if setup.offload == "full" or name != "gradients")
        memory.host["offloaded"] = ranks * (waits + sum(critic.values()))
    if setup.reference and not setup.lora_rank:
        memory.host["reference"] = ranks * COMPUTE * _numbers(setup.model.weights, setup.gpus.count)
    # verl loads a model with a tied head on every rank, another on the first (get_init_weight_context_manager).
    copies = ranks if setup.model.tied else 1
    loading = copies * MASTER * setup.model.parameters
    memory.host["loading"] = max(0.0, loading - memory.host.get("offloaded", 0))


def _checkpoint(setup: Setup, memory: Memory) -> None:
    setup = replace(setup, split=megatron.Split() if setup.split else None)  # the parts of all GPUs
    own = _held(setup, setup.model, setup.lora_rank, 1)
    memory.checkpoint = {"weights": own["weights"], "optimizer": own["optimizer"]}
    if setup.critic:
        critic = _held(replace(setup, optimizer="adamw"), setup.critic, 0, 1)
        memory.checkpoint["critic"] = critic["weights"] + critic["optimizer"]
