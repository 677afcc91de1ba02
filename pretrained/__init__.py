"""Frozen networks that others trained, and how their weights are read.

weights.py      finds files of installed packages, reads weights without running code
onnx_module.py  a small ONNX graph as a differentiable torch module
tflite_module.py  the same for TensorFlow Lite
perceptual.py   ST-LPIPS; LPIPS on VGG and plain VGG features by path
lpips.py        LPIPS with the linear weights of torchmetrics, for metrics
identity.py     SFace; ArcFace by path
inception.py    FID's Inception by path
"""
