"""beta -> beta' (paper, sec. 3.2).

clebs.py          CLeBS: f_e, and the modes of the expression path
contrastive.py    the contrastive objective
image_encoder.py  f_I, thrown away after pre-training
probes.py         what an expression vector knows of the person and of the expression
"""
