"""Transformers generates and scores, on the CPU or with CUDA: the rollout server, reward models, evaluation.

=====================  ===================================================================
module                 what it holds
=====================  ===================================================================
``generation``         a batch of answers: KV cache, left padding, one sampler row a request
``sampling``           logits become tokens and log-probabilities
``end_tokens``         the tokens that end an answer
``server``             the rollout server of ``ROLLOUT_ENGINE=hf``
``rollout``            that server registered with verl, and fed with weights
``experts``            weights of experts as transformers 5 holds them
``reward_server``      a reward model behind the routes of vLLM's server
``reward_model``       that server in a Ray actor, for verl
``varlen_attention``   ``sdpa_varlen``: attention over packed sequences
``sequence_parallel``  the same over several GPUs (Ulysses)
=====================  ===================================================================
"""
