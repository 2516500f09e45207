"""Chat templates of models, rendered in a sandbox and in a limited process."""
