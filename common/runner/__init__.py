"""Run a training command in its run directory: ``python -m common.runner -- COMMAND``.

==================  ===================================================================
module              what it holds
==================  ===================================================================
``attempt``         one launch, from run.json's first state to its last
``follower``        the part of a machine that is not the first of several
``supervisor``      the process that holds a run's processes together and ends them
``processes``       how it ends them
``terminal``        what a person sees: phases, steps, warnings, the end
``failures``        why a run failed, from its log
``known_failures``  causes and fixes, by the text of an error
``heartbeat``       the file that is touched while the launcher lives
``ray_folder``      where Ray keeps logs and sockets
==================  ===================================================================
"""
