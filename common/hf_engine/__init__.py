"""Transformers generates and scores, on the CPU or with CUDA: the rollout server, reward models, evaluation."""
