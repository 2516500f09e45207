"""``--suite lm-eval:TASKS``: tasks of lm-evaluation-harness, asked through the kit's engine.

``model``: the harness's interface over the engine. ``run``: the command. ``results``: what it found, as a report.
"""
