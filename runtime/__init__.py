"""Anomaly detection on a device: load a bundle, look at pictures. No torch anywhere.

>>> import numpy as np
>>> from acd_edge.runtime import Detector
>>> detector = Detector.load()                        # the model that the package carries; or a path to a bundle
>>> picture = np.full((480, 640, 3), 128, np.uint8)   # a path to a picture file is as good
>>> result = detector.predict(picture)
>>> 0 <= result.score <= 1, result.anomaly_map.shape, result.product
(True, (480, 640), 'object')
>>> detector.close()
"""

from acd_edge.runtime.bundle import Bundle, builtin_bundle
from acd_edge.runtime.detector import Detector, Result
from acd_edge.runtime.picture import read_picture

__all__ = ["Bundle", "Detector", "Result", "builtin_bundle", "read_picture"]
