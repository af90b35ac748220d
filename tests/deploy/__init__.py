"""Tests of the package `deploy`; the whole installation is tested in tests/e2e."""
