"""Run a training command in its run directory: ``python -m common.runner -- COMMAND``.

=============  ===================================================================
module         what it holds
=============  ===================================================================
``compose``    the command's Hydra config composed without starting verl
``processes``  start, find and end the processes of a run
``watchdog``   a process that ends the run when the launcher is killed
``follow``     the log and the metrics as they grow
``terminal``   what a person sees: phases, steps, warnings, the end
``attempt``    one launch, from run.json's first state to its last
=============  ===================================================================
"""
