"""`--tune` of `train.py` and `pretrain.py`: the fastest way to run a configuration, by short trials. Trains nothing.

tuner.py    passes a step, precision and loader processes, chosen
trial.py    a few steps in a process of their own
"""
