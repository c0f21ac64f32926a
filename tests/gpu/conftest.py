"""Collected with ``HALLO3_TEST_DEVICE`` only (``make test-gpu``)."""

import os

collect_ignore_glob = [] if "HALLO3_TEST_DEVICE" in os.environ else ["test_*.py"]
