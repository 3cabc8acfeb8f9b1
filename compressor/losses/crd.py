"""Contrastive representation distillation: Tian, Krishnan and Isola, ICLR 2020, arXiv:1910.10699."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.arguments import require_above, require_at_least
from zoo.errors import OptionError
from zoo.losses.directions import unit
from zoo.losses.proxy_anchor import ProxyAnchorLoss

log = logging.getLogger(__name__)


class CRDLoss(nn.Module):
    """Contrasts a view's embedding in the other network with those of other images, stored in a memory.

    With s and t the embeddings of a view by student and teacher, each projected linearly to ``projection_dim``
    dimensions and L2-normalised, and M_t the stored projections of other images, the student is the anchor of

        l(s, t, M_t) = -log h(s, t) - sum_{m in M_t} log(1 - h(s, m)),
        h(s, m) = p(s, m) / (p(s, m) + |M_t| / num_images),  p(s, m) = exp(s . m / temperature) / Z

    and the teacher of the reverse term: L = weight * mean over views of (l(s, t, M_t) + l(t, s, M_s)). This is
    noise-contrastive estimation. Its Z is num_images times the mean of exp(s . m / temperature), estimated on the first
    batch and then fixed, one for each direction, as in Wu et al. (arXiv:1805.01978), whose memory the paper follows.
    After each batch an image's row of a memory becomes momentum * row + (1 - momentum) * the mean of its views,
    normalised. With labels, label_weight * Proxy-Anchor(student, labels) is added.

    From the paper: the linear projections, the temperature, the momentum, the weight, and negatives of other classes if
    classes are known. From "Embedding Transfer with Label Relaxation" (CVPR 2021): 4096 negatives, and Proxy-Anchor.
    Ours: the features are the embeddings, which every teacher has; the positive is the other network's current
    embedding of the same view, not the memory's, which is noise until an image was seen once; and one draw of negatives
    serves all views of a batch. So memory is O(N * negatives + num_images * projection_dim).

    The memories are buffers, so they are part of checkpoints. They are equal on all processes, since each sees the
    whole batch.

    Args:
        num_images: training images, one row of the memories each; image ids are the rows' indices.
        student_dim: dimensions of the student's embedding.
        teacher_dim: dimensions of the teacher's embedding.
        num_classes: classes, one proxy each; None without labels.
        negatives: number of negatives; all images if there are fewer.
        temperature: temperature of the similarities, above 0.
        momentum: momentum of the memories, in [0, 1).
        projection_dim: dimensions of the projections.
        weight: weight of the contrastive term.
        label_weight: weight of Proxy-Anchor.

    Raises:
        OptionError: an option is out of its range.
    """

    metric = "cosine"

    def __init__(
        self,
        num_images: int,
        student_dim: int,
        teacher_dim: int,
        num_classes: int | None = None,
        negatives: int = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
        projection_dim: int = 128,
        weight: float = 0.8,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__()
        require_at_least(1, negatives=negatives, projection_dim=projection_dim)
        require_at_least(0, weight=weight, label_weight=label_weight)
        require_above(0, temperature=temperature)
        if not 0 <= momentum < 1:
            raise OptionError(f"momentum is {momentum}; it must lie in [0, 1).")
        if num_images < negatives:
            log.info("crd: using all %d images as negatives; %d were requested", num_images, negatives)
        self.negatives = min(negatives, num_images)
        self.temperature = temperature
        self.momentum = momentum
        self.weight = weight
        self.label_weight = label_weight
        self.proxy_anchor = None if num_classes is None else ProxyAnchorLoss(num_classes, student_dim)
        self.student_projection = nn.Linear(student_dim, projection_dim)
        self.teacher_projection = nn.Linear(teacher_dim, projection_dim)
        self.student_memory: Tensor
        self.teacher_memory: Tensor
        self.classes: Tensor
        self.log_z: Tensor
        self.batches: Tensor
        self.register_buffer("student_memory", unit(torch.randn(num_images, projection_dim)))
        self.register_buffer("teacher_memory", unit(torch.randn(num_images, projection_dim)))
        self.register_buffer("classes", torch.full((num_images,), -1))  # -1 for images not seen yet
        self.register_buffer("log_z", torch.full((2,), torch.nan))
        self.register_buffer("batches", torch.tensor(0))

    def forward(self, student: Tensor, teacher: Tensor, image_ids: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the loss, and store the batch in the memories in training mode.

        Args:
            student: ``(N, D)``.
            teacher: ``(N, D')``.
            image_ids: int64 ``(N,)`` in 0..num_images-1.
            labels: int64 ``(N,)``, or None.

        Returns:
            float scalar.
        """
        with torch.autocast(student.device.type, enabled=False):
            dtype = self.student_memory.dtype
            own = unit(self.student_projection(student.to(dtype)))
            other = unit(self.teacher_projection(teacher.detach().to(dtype)))
            # Seeded by the number of the batch, so that all processes draw the same, also after a resume.
            generator = torch.Generator().manual_seed(int(self.batches))
            drawn = torch.randperm(len(self.classes), generator=generator)[: self.negatives].to(own.device)
            different = drawn != image_ids[:, None]
            if labels is not None:
                different &= self.classes[drawn] != labels[:, None]
            student_way = self._contrast(own, other, self.teacher_memory[drawn], different, 0)
            teacher_way = self._contrast(other, own, self.student_memory[drawn], different, 1)
            loss = self.weight * (student_way + teacher_way)
            if self.training:
                self._remember(own.detach(), other.detach(), image_ids, labels)
        if self.proxy_anchor is not None:
            loss = loss + self.label_weight * self.proxy_anchor(student, labels)
        return loss

    def _contrast(self, anchors: Tensor, positives: Tensor, memory: Tensor, different: Tensor, way: int) -> Tensor:
        """Return the mean loss of anchors and positives ``(N, P)`` against memory ``(K, P)``, masked by ``(N, K)``."""
        near = (anchors * positives).sum(dim=1) / self.temperature
        far = anchors @ memory.T / self.temperature
        counts = different.sum(dim=1).to(near.dtype)
        if self.log_z[way].isnan():  # the first batch
            seen = torch.cat([near[:, None], far.masked_fill(~different, -torch.inf)], dim=1).detach()
            mean = seen.logsumexp(dim=(0, 1)) - (counts + 1).sum().log()
            self.log_z[way] = mean + math.log(len(self.classes))
        shift = self.log_z[way] + torch.log(counts.clamp(min=1) / len(self.classes))
        # log h and log(1 - h): h is the sigmoid of log p - log(|M| / num_images).
        rejected = functional.logsigmoid(shift[:, None] - far).masked_fill(~different, 0).sum(dim=1)
        return -(functional.logsigmoid(near - shift) + rejected).mean()

    def _remember(self, own: Tensor, other: Tensor, image_ids: Tensor, labels: Tensor | None) -> None:
        rows, place = image_ids.unique(return_inverse=True)
        views = functional.one_hot(place).T.to(own.dtype)  # (rows, N): which views show an image
        views = views / views.sum(dim=1, keepdim=True)
        for memory, seen in ((self.student_memory, own), (self.teacher_memory, other)):
            memory[rows] = unit(self.momentum * memory[rows] + (1 - self.momentum) * (views @ seen))
        if labels is not None:
            self.classes[image_ids] = labels
        self.batches += 1
