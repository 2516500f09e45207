"""Reward functions in verl's signature, one topic a file, and the bench that tries any reward before a run.

``common.reward_functions`` re-exports them all: set ``REWARD_FUNC_PATH=common/reward_functions.py`` and
``REWARD_FUNC_NAME`` to one of its names.
"""
