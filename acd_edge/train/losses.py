"""The loss (paper, Eq. 7, 8): focal and dice on the map, cross-entropy on the classification.

What the paper leaves open follows the authors' code; `tests/golden/losses.npz` holds their values.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_CLAMP = 1e-5  # of the one-hot target, and added to the probability before the logarithm


def focal_loss(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Focal loss with gamma 2 and no class weights, mean over the pixels.

    Args:
        probabilities: (B, 2, H, W), normal and abnormal.
        mask: (B, H, W), 1 where abnormal.
    """
    one_hot = torch.stack([1 - mask, mask], dim=1).clamp(_CLAMP, 1 - _CLAMP)
    probable = (one_hot * probabilities).sum(dim=1) + _CLAMP
    return (-((1 - probable) ** 2) * probable.log()).mean()


def dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """1 - dice with smooth 1, per picture and averaged: (B, H, W) each."""
    probability, mask = probability.flatten(1), mask.flatten(1)
    overlap = (probability * mask).sum(dim=1)
    return (1 - (2 * overlap + 1) / (probability.sum(dim=1) + mask.sum(dim=1) + 1)).mean()


def map_loss(anomaly_map: Tensor, mask: Tensor) -> Tensor:
    """Focal loss plus the dice losses of both states, weights 1: abnormal probabilities and mask, (B, H, W) each."""
    probabilities = torch.stack([1 - anomaly_map, anomaly_map], dim=1)
    focal = focal_loss(probabilities, mask)
    return focal + dice_loss(probabilities[:, 0], 1 - mask) + dice_loss(probabilities[:, 1], mask)


def class_loss(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of (B, 2) logits, normal and abnormal, against labels (B,) of 0 and 1."""
    return F.cross_entropy(class_logits, labels)
