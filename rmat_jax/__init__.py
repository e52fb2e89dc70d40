"""Recurrent Memory-Augmented Transformer with Chunked Attention (arXiv 2507.00453) in JAX."""
