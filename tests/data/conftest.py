"""Data sets that several test files read, built once per session."""

import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("tensorflow_datasets")


@pytest.fixture(scope="session")
def mnist5k(data_dir):
  from jaxgen.data import load

  return load("mnist5k", "train+test", data_dir)


@pytest.fixture(scope="session")
def openmoji(data_dir):
  from jaxgen.data import load

  return load("openmoji/32", "train+test", data_dir)
