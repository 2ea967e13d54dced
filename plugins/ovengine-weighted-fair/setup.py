"""The C extension; everything else is in pyproject.toml."""

from setuptools import Extension, setup

# ovengine_policy.h lies beside the source, so that the build needs no ovengine: a copy of ovengine's own, whose version
# the compiled policy carries, and which ovengine compares when it is used.
setup(ext_modules=[Extension("ovengine_weighted_fair._policy", ["src/ovengine_weighted_fair/_policy.c"])])
