"""The embedding-transfer losses that train students, and their rivals: one loss, one file.

A loss is a module made as ``Loss(**options)`` and called as ``loss(student, teacher, image_ids=None)`` with ``(N, D)``
and ``(N, D')`` float embeddings of the same N images, not normalised, and int64 ``(N,)`` image ids, equal for two views
of one image; most losses ignore them. It returns a float scalar. It computes in float32, or in float64 where the
student is float64, holds O(N^2) numbers, and sends no gradient to the teacher. Its class attribute ``metric`` says how
the student's embeddings are to be compared, "euclidean" (also where there is none) or "cosine".

``compressor.losses.attention`` compares feature maps instead, so it is not among ``LOSSES``.
"""

from __future__ import annotations

LOSSES: dict[str, str] = {
    "relaxed_contrastive": "compressor.losses.relaxed_contrastive:RelaxedContrastiveLoss",
    "relaxed_multi_similarity": "compressor.losses.relaxed_multi_similarity:RelaxedMultiSimilarityLoss",
    "rkd": "compressor.losses.rkd:RKDLoss",
    "pkt": "compressor.losses.pkt:PKTLoss",
    "darkrank": "compressor.losses.darkrank:DarkRankLoss",
}
