"""Checks before anything is started, and the values of the knobs that are ``auto``.

``python -m common.preflight <algorithm>`` reads the knobs from the environment, as a train.sh exports them.

=================  ===================================================================
module             what it holds
=================  ===================================================================
``knobs``          the knobs of a train.sh, their types and choices
``machine``        GPUs, cores and memory of this host
``model``          parameters, tokenizer and chat template, read without torch
``data``           rows and columns of a data file
``launch_data``    the files of TRAIN_DATA and VAL_DATA: found, converted, split, the same as before
``data_split``     a share of the training data for validation
``data_checks``    bad rows, lengths, rows that stand on both sides
``method``         variant, advantage estimator, policy loss and what they set
``extensions``     files of the user's: algorithm, tools, adapter
``self_play``      GSPO's prompts and pairs
``ppo``            the critic's model and tokenizer, the KL
``reward_source``  function, reward model or API
``reward``         the reward function tried on real rows
``auto``           a value and a reason for each ``auto``
``run_name``       the run directory: new, resumed or refused
``checks``         all of it, in order
``report``         what a person reads
``resolved``       what train.sh exports
=================  ===================================================================
"""
