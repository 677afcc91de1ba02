"""What `dataset_tool.py` does with data sets that exist.

cli.py        the commands
validate.py   describes and checks a data set
checks.py     labels against landmarks, pictures that occur twice, a contact sheet
rearrange.py  joins data sets, and divides people among splits
"""
