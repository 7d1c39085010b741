"""Labelled pictures, synthetic defects on good ones, and the batches that a training reads."""

from acd_edge.data.samples import Sample, load_data, load_jsonl, load_mvtec, read_sample

__all__ = ["Sample", "load_data", "load_jsonl", "load_mvtec", "read_sample"]
