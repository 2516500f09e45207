"""Methods that verl's RL trainers learn here: ReMax's greedy baseline, and the user's own estimators and losses.

=============  ===================================================================
module         what it holds
=============  ===================================================================
``remax``      the greedy answer of ReMax, which verl's v1 trainer lacks
``user``       ``ALGORITHM_PATH`` loaded in each process of a run
``check``      what a file of the user's registers, found out before the start
=============  ===================================================================
"""
