"""Raw render -> final image (paper, sec. 3.4).

module.py  plain convolutions, no style code
"""
