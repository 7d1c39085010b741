"""Zero-shot anomaly detection with ACD-CLIP, from training to the device beside the camera.

A device imports `acd_edge.runtime`; training, export and the command line live beside it and are imported on demand.
"""

__version__ = "0.1.0"
