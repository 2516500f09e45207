"""What answers the questions: one module an engine, one that chooses."""
