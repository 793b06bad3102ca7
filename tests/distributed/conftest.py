"""The tiny run of the pipeline tests, to compare with."""

from tests.pipeline.conftest import finished

__all__ = ["finished"]
