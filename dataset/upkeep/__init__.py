"""What `dataset_tool.py` does with data sets that exist."""
