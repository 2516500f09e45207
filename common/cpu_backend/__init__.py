"""verl on a machine with no GPU, through verl's own plug-in points.

``common.verl_ext`` imports these modules in every process of verl that needs them:

==========================================  ==============================================================
module                                      what it adds to verl
==========================================  ==============================================================
``common.cpu_backend.platform``             the device ``cpu`` (``PlatformRegistry``), chosen by ``VERL_PLATFORM=cpu``
``common.cpu_backend.engine``               FSDP2 and FSDP1 training on it (``EngineRegistry``)
``common.cpu_backend.checkpoint_engine``    weights to separate rollout servers (``TRAINER_MODE=separate``)
``common.hf_engine.rollout``                ``ROLLOUT_ENGINE=hf``, generation on transformers, CPU or CUDA
==========================================  ==============================================================

``common.cpu_backend.sampler`` is named in the configuration (``trainer.v1.sampler.custom_sampler``).
On a GPU with ``ROLLOUT_ENGINE=hf`` only the rollout module is loaded.
"""
