"""Imports every module of an installed jaxgen that the core promises."""

import importlib
import pkgutil

import jaxgen

for module in pkgutil.walk_packages(jaxgen.__path__, "jaxgen."):
  if not module.name.startswith("jaxgen.data.datasets."):
    importlib.import_module(module.name)
print(f"jaxgen {jaxgen.__version__} imports from {jaxgen.__path__[0]}")
