"""Puts configs/ into the package, where `--config=quickstart` finds it.

pyproject.toml has the rest.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["rmat_jax*"]), "rmat_jax.configs"],
    package_dir={"rmat_jax.configs": "configs"},
)
