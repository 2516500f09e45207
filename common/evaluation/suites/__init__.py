"""``test.sh --suite``: the benchmarks that people quote, asked and scored as their papers say, into one Excel file.

=============  ===================================================================
module         what it holds
=============  ===================================================================
``catalog``    the sets: source, revision, licence, prompt, settings, metric
``published``  scores of well-known models, with their sources
``rows``       a row of each set as a question with its answer
``load``       the files, from a hub or a local copy
``ifeval``     IFEval's own grader, as a reward
``run``        every set to every model
``workbook``   one file: an overview, a sheet for each set
=============  ===================================================================
"""
