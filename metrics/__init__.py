"""What `calc_metrics.py` calls: scores with a definition, a range and a protocol."""
