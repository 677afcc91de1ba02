"""One portrait and beta' -> tri-plane (paper, sec. 3.3).

model.py   Export3D: everything together, as three verbs
stem.py    what is read from the source, once
vit.py     EAdaLN-ViT, and cross-attention as its ablation
planes.py  from tokens to the tri-plane
motion.py  what an expression does to the surface, place by place   [ours]
"""
