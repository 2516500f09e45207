"""Is the model better? Chat with it, or ask it a file of questions, score the answers and write them down.

The commands are in ``common.test_model`` (``./test.sh``).
"""
