"""Checkpoints of verl: ``python -m common.checkpoints list|merge|average|export|publish|prune|verify RUN``.

For other parts of the kit there is one function::

    from common.checkpoints import hugging_face_folder
    folder = hugging_face_folder("outputs/RUN")   # or a global_step_N folder, or a model folder

It returns a plain Hugging Face folder (``AutoModelForCausalLM.from_pretrained`` and vLLM load it) of whatever a person
may name, and merges shards and LoRA first where that was not done yet.

=============  ===================================================================
module         what it holds
=============  ===================================================================
``layout``     which checkpoints a run has, and their files
``integrity``  complete or not: the marker, torn and missing files, the newest whole one
``shards``     shards of all ranks joined to whole tensors
``lora``       an adapter folded into its base weights
``merge``      a checkpoint as a Hugging Face folder
``proof``      a folder loaded, a few tokens generated
``average``    several models mixed, ``mixing`` how, ``weight_files`` a weight at a time
``export``     for other programs; ``ollama`` its Modelfile
``publish``    a model on a hub: ``card`` what is said of it, ``hub_upload`` file by file
``prune``      old checkpoints removed
=============  ===================================================================
"""

from common.checkpoints.merge import hugging_face_folder

__all__ = ["hugging_face_folder"]
