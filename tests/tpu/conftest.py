"""Fixtures of these tests."""

import pytest

from tests.tpu.fake import Cloud


@pytest.fixture
def cloud(tmp_path):
    """A fake gcloud on the PATH of the scripts."""
    return Cloud(tmp_path)
