"""Files of rows become records, one by one, within bounds of memory."""
