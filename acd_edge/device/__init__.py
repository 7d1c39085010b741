"""Facts about the machine below us: which Jetson, which JetPack, how fast, how hot, how much power. Never torch."""

from __future__ import annotations

__all__: list[str] = []
