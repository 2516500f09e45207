"""What the figures of a run are called, what they mean, and how they are written.

=================  ===================================================================
module             what it holds
=================  ===================================================================
``names``          the table: trainer's name, our name, range, better, advice; health rules
``progress_line``  one line of progress a step
``validations``    which step was best, and whether it still gets better
=================  ===================================================================
"""
