"""The method: a room for each part of Export3D, and the loops that train it.

expression/       beta -> beta': CLeBS, its contrastive pre-training, the declared expression spaces
generator/        one portrait and beta' -> tri-plane
rendering/        cameras, rays, tri-plane sampling, volume rendering
superresolution/  raw render -> final image
discriminator/    the dual, camera-conditioned discriminator
losses/           reconstruction, perceptual, identity, adversarial
data/             the dataset on disk, its readers and samplers, EG3D's format
synthesis/        synthetic talking heads with ground truth
checkpoints/      weights as safetensors + JSON, verified at load
"""
