"""The one door between the kit and verl: all that is loaded into verl's processes, or relies on its inner parts.

verl imports `plugin` in each of its processes (``VERL_USE_EXTERNAL_MODULES``), which calls `loading.load`. Where verl
has an extension point the kit registers there (`loading.PLUGINS`). Where it has none, one of its functions is replaced;
`table.REPLACEMENTS` lists them all, each with a file of this folder that says why and when it can go, and nothing else
in the kit replaces a function of a library. ``python -m common.verl_ext`` shows the table next to the installed verl.

=====================  ===============================================================================
module                 what it holds
=====================  ===============================================================================
a file per row         what takes the place of a function; see the table
``plugin``             what verl imports
``loading``            what a run of an algorithm needs: extension points filled, functions replaced
``table``              the functions that are replaced, and how
``private``            methods of verl that the kit overrides or calls though they are not a public interface
``source``             finds a definition in the installed files, and stops when it has changed
``version``            verl's version, from requirements.txt
``queue_guard``        keys for TransferQueue's sockets, and when the two rows are put in
``remax``              also the agent loops that write ReMax's greedy answer
``user``               ``ALGORITHM_PATH`` loaded in each process of a run
``registered``         what such a file registers, detected before the start
``tool_loop``          verl's tool agent loop, with limits on what a tool may do (``TOOLS_PATH``)
``tool_process``       the process in which tools run
``tool_descriptions``  the tools of a file, detected before the start
``environment_loop``   verl's agent loop over episodes of an environment (``ENV_PATH``)
``environments``       its end of the episodes, with the limit on each call
``environment_process``  the processes in which they run
=====================  ===============================================================================

What to do when verl's version changes: docs/upgrading-verl.md.
"""
