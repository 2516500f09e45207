"""``./serve.sh``: a trained model behind the routes of OpenAI's API.

vLLM's or SGLang's own server where one is installed, else the kit's, on transformers.

=============  ===================================================================
module         what it holds
=============  ===================================================================
``cli``        options; which engine; one address
``engines``    the command lines of vLLM and SGLang, adapters of several runs over one base
``wanted``     the body of a request, checked
``worker``     one model in a thread that answers in batches
``replies``    JSON of answers and of pieces of them
``app``        the routes
``guard``      who may ask: the Host, the site, the key, the length
=============  ===================================================================
"""
