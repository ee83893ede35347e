"""UniMat: diffusion over the periodic table (Yang et al., arXiv:2311.09235), and its models of occupied slots."""
