"""The dataset on disk: writers, readers, samplers, and EG3D's own format."""
