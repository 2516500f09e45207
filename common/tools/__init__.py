"""Tools in the loop: functions that the model may call while it answers (``TOOLS_PATH``).

=============  ===================================================================
module         what it holds
=============  ===================================================================
``loop``       verl's tool agent loop, with limits on what a tool may do
``process``    the process in which tools run
``metrics``    calls and turns of each step
``check``      the tools of a file, found out before the start
=============  ===================================================================
"""
