"""The C extension; what else there is to say is in pyproject.toml."""

from setuptools import Extension, setup

import ovengine

setup(
    ext_modules=[
        Extension(
            "ovengine_weighted_fair._policy",
            ["src/ovengine_weighted_fair/_policy.c"],
            include_dirs=[ovengine.get_include()],
        )
    ]
)
