"""Things built directly on torch that know nothing of heads or cameras.

ops/            custom operators, each with its reference
checkpoints.py  weights as safetensors with JSON, verified at load
train_state.py  any nesting of tensors and values, without pickles
distributed.py  the few collective operations that training needs
gradients.py    their means over the processes, beside the backward pass
doctor.py       what this machine has, what was built, what failed: python -m torch_utils.doctor
"""
