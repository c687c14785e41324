"""Packaging: the top-level folders become the package `joey` through the links in src/joey."""

from setuptools import find_packages, setup

setup(
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"joey": ["py.typed", "migrate/fleet/there/*"]},
    scripts=["runtime/bin/joey"],
)
