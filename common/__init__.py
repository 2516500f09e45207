"""What the five algorithm folders, the monitor and the evaluation share, by the stage of a run.

===============  ===================================================================
package          what it holds
===============  ===================================================================
``preflight``    checks before anything is started, and the values of the knobs that are ``auto``
``plan``         what a run will need: memory by part, traffic, a rough time
``data``         data of any common form becomes what verl's trainers read
``demo_model``   the built-in model of a million parameters, and how it is made
``config``       the base YAML files of RL and of supervised training
``runner``       one launch in its run directory, from the first state to the last
``cluster``      the launchers of several machines
``verl_ext``     the one door to verl: what is loaded into it or replaced in it
``cpu_backend``  verl on a machine without a GPU
``hf_engine``    generation and scoring with transformers
``rewards``      reward functions, their bench, the sandbox, API judges
``answers``      the one reader of answers
``trackers``     curves sent to W&B, SwanLab, MLflow, Trackio, ClearML
``notify``       messages to people when a run ends or needs them
``metrics``      what the figures of a run are called and mean
``checkpoints``  checkpoints listed, merged, averaged, pruned, verified
``serving``      a trained model behind an HTTP API
``evaluation``   is the model better: chat, or a file of questions
===============  ===================================================================

The modules next to them are what users name (``reward_functions.py``, ``data_utils.py``, ``test_model.py``) and what
several packages need (``run_dir.py``, ``files.py``, ``tail.py``, ``web.py``, ``worker.py`` and others).
"""

__version__ = "0.2.0"  # the only place; pyproject.toml, run.json and --version read it
