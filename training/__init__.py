"""The method: a room for each part of Export3D, and the loop that trains it.

expression/       beta -> beta': CLeBS and its contrastive pre-training
generator/        one portrait and beta' -> tri-plane
rendering/        rays, tri-plane sampling, volume rendering
superresolution/  raw render -> final image
discriminator/    the dual, camera-conditioned discriminator
losses/           reconstruction, adversarial
checkpoints/      a network from its file alone
layers.py         small layers that several rooms share
config.py         every default, once
launch.py         what train.py and pretrain.py share
agreement.py      all processes are about to do the same
preflight.py      what is checked before the first step
start.py          the weights that a run starts from
loop.py           batch -> step -> log -> draw -> evaluate -> save, for every training
trainer.py        what is particular to the generator
anchor.py         weights drawn back to where they started
pretrainer.py     what is particular to CLeBS
objectives.py     what a step of the generator minimises
noise.py          every random number of a step
steps.py          small verbs of a step
heartbeat.py      what a process does, and the end of one that hangs
timing.py         where the time of the steps went
report.py         a run as one page: python -m training.report
precision.py      half precision and its loss scale
history.py        what a run remembers: skipped steps, the best score, leaps of the loss
schedule.py       what changes with the images seen
ema.py            the running average of the weights
states.py         state and network files of a run
saving.py         files written beside the steps
records.py        the run directory
grids.py          pictures of a run
evaluation.py     numbers on unseen clips
"""
