"""Training of Poly-INR generators: a projected GAN on any image dataset."""
