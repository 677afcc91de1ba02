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
keys.py           which of them may change in a run that exists
preflight.py      what is checked before the first step
start.py          the weights that a run starts from
task.py           what is trained, as the loop sees it: objects, a step, what is told of it
batches.py        batches on their way into a step, and the frames they are made of
loop.py           batch -> step -> log -> draw -> evaluate -> save, for every training
cost.py           floating point operations of a step
trainer.py        what is particular to the generator
pretrainer.py     what is particular to CLeBS
objectives.py     what a step of the generator minimises
noise.py          every random number of a step
schedule.py       what changes with the images seen
grids.py          pictures of a run
evaluation.py     numbers on unseen clips
"""
