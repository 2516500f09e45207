"""Data of any common form becomes what verl's trainers read; the commands are in ``common.data_utils``.

=================  ===================================================================
module             what it holds
=================  ===================================================================
``cli``            the command line
``convert``        files of any known form become one parquet file for a trainer
``validate``       every bad row of a file, with its place, field and reason
``preview``        rows as the model will see them, and what a file holds
``hub``            models and data sets from Hugging Face or ModelScope
``catalog``        data sets that ``prepare`` knows
``inputs``         the inputs that a command line or a mapping file names
``readers``        files of rows become records (package)
``names``          what columns are called, whatever name or language a file gives them
``row_reader``     which of the common forms a row has, and what it says
``forms``          those forms: conversations, questions with answers, ...
``choices``        questions of multiple choice
``pairs``          preference pairs
``rankings``       two answers and a column that says which is better
``self_play``      rows of GSPO's self-play
``messages``       messages in one form, ``{role, content}``
``rows``           rows as verl's trainers read them
``table``          rows into parquet
``samples``        the command line of the scripts that write the sample data
``checks``         what is wrong with a row in verl's form
``keys``           numbers by which equal prompts and equal rows are known again
``lengths``        token lengths under a model's chat template
``losses``         what of a row does not reach the result
``report``         what became of the rows, for people
``templates``      chat templates, rendered in a limited process (package)
``conversation``   conversations as a chat template writes them, and their learnt tokens
``turns``          where each assistant's turn begins and ends in a rendering
``token_mask``     which tokens of a text are learnt
``verl_datasets``  verl's datasets over such rows
=================  ===================================================================
"""
