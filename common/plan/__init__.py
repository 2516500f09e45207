"""What a run will need before it is paid for: memory by part, checkpoint size, steps, a rough time.

=============  ===================================================================
module         what it holds
=============  ===================================================================
``weights``    every weight of a model, from its config.json alone
``machine``    GPUs that are there, or planned: ``8x80GB``
``memory``     bytes on a GPU and on the host, part by part
``fit``        the largest settings that fit: offload, tensor parallelism, tokens
``cores``      how many processes Ray starts next to the GPUs' own
``advice``     knobs with values to try after a failure, from the plan
``traffic``    what passes between machines in a step
``duration``   a rough time a step
=============  ===================================================================
"""
