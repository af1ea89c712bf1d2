"""lmjax: launch, reproduce to the bit, and fairly compare the training of large models in JAX.

Importing lmjax does nothing: no flags, no environment, no jax.config, no registration.
"""

__version__ = "0.1.0"
