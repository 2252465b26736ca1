"""The method of `fndm detect --method fndm` with PyTorch, diffusers, nibabel and scipy, one module for each part."""
