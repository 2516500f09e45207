"""Reward functions in verl's signature, one topic a file, and the bench that tries any reward before a run.

``common.reward_functions`` re-exports them all: set ``REWARD_FUNC_PATH=common/reward_functions.py`` and
``REWARD_FUNC_NAME`` to one of its names.

===============  ===================================================================
module           what it holds
===============  ===================================================================
``gsm8k``        a number behind ``####``
``math_reward``  mathematical answers, compared by value
``math_clean``   how such an answer is written: cleaned and cut into parts
``math_forms``   whether two such answers are the same
``math_worker``  the process that runs math-verify
``choice``       multiple choice, A to J
``match``        texts: exact, normalised, or by a regular expression
``code``         programs, by the share of test cases that they pass
``code_tests``   those test cases, in the shapes of data sets
``sandbox``      where such programs run, confined (package)
``shaping``      length, repetition, language
``compose``      a weighted sum of rewards, or one chosen by data source
``api``          a language model as judge, or a scoring service (package)
``result``       what every reward function here shares
``errors``       answers whose reward raised
``bench``        a reward function tried on real rows (package)
===============  ===================================================================
"""
