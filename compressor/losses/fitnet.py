"""FitNet with hints at every stage: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.feature_maps import to_smaller
from zoo.arguments import require_above, require_at_least
from zoo.losses.proxy_anchor import ProxyAnchorLoss


class FitNetLoss(nn.Module):
    """Regresses the teacher's feature maps from the student's, while the labels train the embedding.

    With r a learned 1x1 convolution to the teacher's channels (eq. 3), both maps averaged to the smaller size:

        L = weight * sum_stages mean (r(student map) - teacher map)^2 + label_weight * Proxy-Anchor(student, labels)

    The mean is over images, channels and positions. The paper trains on the hint of one stage first and on the labels
    afterwards. Hints of several stages together with Proxy-Anchor are the baseline of "Embedding Transfer with Label
    Relaxation" (CVPR 2021), whose authors' code gives each the weight 1. The paper's 1/2 is left out here.

    Memory is that of the maps, in float32, plus O(N C) for C classes.

    Args:
        num_classes: classes C, one proxy each.
        student_dim: dimensions of the student's embedding.
        student_channels: channels of its maps, per stage.
        teacher_channels: channels of the teacher's maps, per stage.
        weight: weight of the regression, 0 or more.
        label_weight: weight of Proxy-Anchor, above 0, since nothing else trains the embedding.

    Raises:
        OptionError: a weight is out of its range.
    """

    metric = "cosine"

    def __init__(
        self,
        num_classes: int,
        student_dim: int,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        weight: float = 1.0,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__()
        require_at_least(0, weight=weight)
        require_above(0, label_weight=label_weight)
        self.weight = weight
        self.label_weight = label_weight
        self.proxy_anchor = ProxyAnchorLoss(num_classes, student_dim)
        self.regressors = nn.ModuleList(
            nn.Conv2d(own, other, 1) for own, other in zip(student_channels, teacher_channels, strict=True)
        )

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        image_ids: Tensor | None,
        labels: Tensor,
        student_maps: Sequence[Tensor],
        teacher_maps: Sequence[Tensor],
    ) -> Tensor:
        """Return the loss.

        Args:
            student: ``(N, D)``.
            teacher: ignored.
            image_ids: ignored.
            labels: int64 ``(N,)``.
            student_maps: ``(N, C, H, W)`` for each stage.
            teacher_maps: ``(N, C', H', W')`` for each stage.

        Returns:
            float scalar.
        """
        loss: Tensor = self.label_weight * self.proxy_anchor(student, labels)
        for regressor, *maps in zip(self.regressors, student_maps, teacher_maps, strict=True):
            loss = loss + self.weight * _hint(regressor, *maps)
        return loss


def _hint(regressor: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    with torch.autocast(student.device.type, enabled=False):
        dtype = next(regressor.parameters()).dtype
        student, teacher = to_smaller(student.to(dtype), teacher.detach().to(dtype))
        return functional.mse_loss(regressor(student), teacher)
