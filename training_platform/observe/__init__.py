"""Files of Prometheus and Grafana; ``python -m training_platform.observe`` writes them from the metric table."""
