"""Rewards from an API: a language model as judge, or a scoring service. `ppo.api_reward` is the face of this package.

============  ===================================================================
module        what it holds
============  ===================================================================
``settings``  ``api_reward_config.yaml`` read and checked
``exchange``  the request for an answer, the score in a reply
``verdict``   the verdict in a judge's words
``number``    one score in a text, read whole or not at all
``cache``     scores on disk, by the content of the request
``client``    calls: concurrency, rate limits, time limits, retries, counts
``probe``     ``try``: two answers scored, the exchange shown
============  ===================================================================
"""
