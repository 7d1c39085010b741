"""Tests mirror the four folders: tests/export/test_fold.py tests export/fold.py."""
