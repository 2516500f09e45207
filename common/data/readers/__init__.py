"""Files of rows become records, one by one, within bounds of memory.

==================  ===================================================================
module              what it holds
==================  ===================================================================
``records``         rows of a data file, whatever its kind
``record``          one row and its place; how columns are named
``files``           bytes of a data file, also of compressed ones
``depth``           how deep the values of a row may be nested
``json_reader``     JSON and JSON lines
``json_object``     the rows that one JSON object holds
``csv_reader``      CSV and TSV
``excel_reader``    one sheet of an Excel file
``parquet_reader``  parquet, decoded in a separate process
``parquet_child``   that process
==================  ===================================================================
"""
