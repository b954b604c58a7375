"""Tests; a package, so that child processes can import what lies here."""
