//! Training of the diffusion model and the classifier: objective, optimiser, EMA, exact resume.
