"""The tiny run of the pipeline tests, to disturb copies of it."""

from tests.pipeline.conftest import finished

__all__ = ["finished"]
