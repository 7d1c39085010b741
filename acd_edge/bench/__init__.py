"""Measuring what runs: stages, memory, energy, a soak, two results compared, and the ladder of sizes and precisions."""

from __future__ import annotations

__all__: list[str] = []
