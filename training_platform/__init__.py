"""Jobs over HTTP: a queue that starts ``<algorithm>/train.sh``, and the runs' numbers while they come.

``python -m training_platform serve``. Runs do not depend on it: it can be killed at any time and finds them again.
"""
