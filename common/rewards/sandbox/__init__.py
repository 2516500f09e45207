"""Programs that a model wrote run here, confined.

Files whose names begin with ``sandbox_`` are imported in the child, an isolated Python that knows nothing of the kit.

===================  ===================================================================
module               what it holds
===================  ===================================================================
``run``              a program run with all that this machine offers
``execute``          a program run with exactly the given mechanisms
``probe``            every protection tried with a program that attacks it
``attacks``          those programs
``sandbox_child``    the child: confines itself, runs a program against its tests
``sandbox_program``  the process below it, in which the program runs
``sandbox_limits``   namespaces, user, resource limits
``sandbox_kernel``   Landlock and seccomp
``sandbox_bwrap``    the child inside bubblewrap
``sandbox_paths``    what a program may see of the machine's files
===================  ===================================================================
"""
