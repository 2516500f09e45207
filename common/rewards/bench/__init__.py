"""The bench: a reward function is tried on real rows before a run depends on it.

============  ===================================================================
module        what it holds
============  ===================================================================
``report``    the command line, the table, JSON
``trial``     the function run in a process that can be killed
``child``     that process
``data``      what it is fed: rows with answers good, bad and odd
``findings``  does the function work where verl calls it?
``scores``    can a policy learn the right thing from its scores?
============  ===================================================================
"""
