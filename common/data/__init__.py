"""Data of any common form becomes what verl's trainers read; the commands are in ``common.data_utils``."""
