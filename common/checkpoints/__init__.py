"""Checkpoints of verl: ``python -m common.checkpoints list|merge|average|export|publish|prune|select|verify RUN``.

For other parts of the kit there is one function::

    from common.checkpoints import hugging_face_folder
    folder = hugging_face_folder("outputs/RUN")   # or a global_step_N folder, or a model folder

It returns a plain Hugging Face folder (``AutoModelForCausalLM.from_pretrained`` and vLLM load it) of whatever a person
may name, and merges shards and LoRA first where that was not done yet.

================  ===================================================================
module            what it holds
================  ===================================================================
``layout``        which checkpoints a run has, and their files
``integrity``     complete or not: the marker, torn and missing files, the newest whole one
``shards``        shards of all ranks joined to whole tensors
``pickles``       what a foreign checkpoint would run when it is loaded
``lora``          an adapter folded into its base weights
``merge``         a checkpoint as a Hugging Face folder
``model_class``   which class of transformers a folder is loaded with
``proof``         a folder loaded, a few tokens generated
``average``       several models mixed
``mixing``        the arithmetic of a mix, on one weight
``weight_files``  weights read one at a time, written shard by shard
``export``        a model in the formats of other programs
``ollama``        its Modelfile: the chat template in Ollama's language
``publish``       a model on a hub
``card``          what the model card says of it
``hub_upload``    the folder sent file by file
``prune``         old checkpoints removed
``selected``      the one that a person has chosen
================  ===================================================================
"""

from common.checkpoints.merge import hugging_face_folder

__all__ = ["hugging_face_folder"]
