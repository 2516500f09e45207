"""Programs that a model wrote run here, confined."""
