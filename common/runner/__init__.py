"""Run a training command in its run directory: ``python -m common.runner -- COMMAND``.

=============  ===================================================================
module         what it holds
=============  ===================================================================
``compose``    the command's Hydra config composed without starting verl
``keeper``     the process that holds a run's processes together and ends them
``processes``  how it ends them
``terminal``   what a person sees: phases, steps, warnings, the end
``attempt``    one launch, from run.json's first state to its last
=============  ===================================================================
"""
