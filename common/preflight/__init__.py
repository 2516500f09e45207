"""Checks before anything is started, and the values of the knobs that are ``auto``.

``python -m common.preflight <algorithm>`` reads the knobs from the environment, as a train.sh exports them. Knobs are
resolved first, with the checks of what no config has: data, model folder, machine, run name. Everything that reaches
verl is checked once, in the composed config.

=================  ===================================================================
module             what it holds
=================  ===================================================================
``knobs``          the knobs of a train.sh, their types and choices
``findings``       a message with its parts: knob, value, problem, fix
``checks``         all of it, in order
``machine``        GPUs, cores and memory of this host
``machines``       a run on several machines
``gpus``           what nvidia-smi says of the GPUs and who uses them
``model``          parameters, tokenizer and chat template, read without torch
``model_checks``   whether verl can train the model
``megatron``       TRAIN_ENGINE=megatron: what it needs, and how the GPUs share a model
``engine_keys``    Megatron's keys in the place of FSDP's in the command of a train.sh
``attention``      whether the attention computes the model as it was trained
``chat_template``  the chat template and the tokenizer, without transformers
``data``           rows and columns of a data file
``launch_data``    the files of TRAIN_DATA and VAL_DATA: found, converted, split, the same as before
``data_split``     a share of the training data for validation
``data_checks``    bad rows, the number of rows, lengths, rows that are on both sides
``rendering``      the sampled rows as the model will see them
``packing``        DATA_FORM=text: how many packed sequences the texts give
``method``         variant, advantage estimator, policy loss and what they set
``extensions``     user-supplied files: algorithm, tools, adapter
``env_trial``      the environment of ENV_PATH played on real rows
``trainer_mode``   when answers are generated, and the GPUs that only answer
``self_play``      GSPO's prompts and pairs
``optimizers``     what each optimizer needs, and what verl is told
``ppo``            the critic's model and tokenizer, the KL
``reward_source``  function, reward model or API
``reward``         the reward function tried on real rows
``auto``           a value and a reason for each ``auto``
``fused``          whether verl's chunked head is right for the model and its adapter
``sizing``         the memory plan, and the knobs that follow from it
``rates``          usual learning rates
``run_name``       the run directory: new, resumed or refused
``resume``         the checkpoint to resume from
``trackers``       where the run's numbers go next to TensorBoard and the file
``environment``    GPU memory in use, disk, ports, Ray, variables that break a run
``dead_keys``      keys of older verl, and what to write instead
``command``        the command of the train.sh, and the config composed from it
``compose``        Hydra's composition without starting verl
``config_check``   a composed config with what was found in it
``config_checks``  names, files, groups, LoRA, contradictions in it
``config_async``   rules of verl's asynchronous trainers
``config_sizes``   batches, token budgets, parallel parts, lengths in it
``verl_check``     verl's own validation, in a process next to the others
``report``         what a person reads
``resolved``       what train.sh exports
``derived``        the table of variables that follow from the knobs, and who reads each
=================  ===================================================================
"""
