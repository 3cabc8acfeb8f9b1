"""The embedding-transfer losses that train students, and alternatives to them: one loss, one file.

A loss is a module that receives the arguments it names. It is made as ``Loss(**options)``, plus those of these facts
that its ``__init__`` names:

    num_images: images to train on
    num_classes: classes C of these images
    student_dim, teacher_dim: dimensions D and D' of the embeddings
    teacher_sample: a function that returns the teacher's embeddings of some training images, float ``(N, D')``
    student_channels, teacher_channels: channels of the feature maps, a tuple with one number per stage

It is called as ``loss(student, teacher, image_ids)`` with ``(N, D)`` and ``(N, D')`` float embeddings of the same N
views, not normalised, and int64 ``(N,)`` image ids in 0..num_images-1, equal for two views of one image. By keyword it
receives those of these that its ``forward`` names:

    labels: int64 ``(N,)`` in 0..C-1
    student_maps, teacher_maps: lists of float ``(N, C, H, W)``, with the same number of stages, paired from the last on
        (see ``compressor.feature_maps``); C, H and W may differ within a pair

If the data has no labels, ``num_classes`` and ``labels`` are left out if they have a default; otherwise the data is
refused. A loss returns a float scalar. It computes in float32, or in float64 if the student or its own parameters are
float64, holds O(N^2) numbers besides its input, and sends no gradient to the teacher. Two class attributes are
optional: ``metric``, how to compare the student's embeddings, "euclidean" (the default) or "cosine"; and
``loss_lr_factor``, the learning rate of the loss's own parameters as a multiple of the student's, except parameters
whose name ends in ``proxies``, which have the proxies' rate.
"""

from __future__ import annotations

LOSSES: dict[str, str] = {
    "relaxed_contrastive": "compressor.losses.relaxed_contrastive:RelaxedContrastiveLoss",
    "relaxed_multi_similarity": "compressor.losses.relaxed_multi_similarity:RelaxedMultiSimilarityLoss",
    "fitnet": "compressor.losses.fitnet:FitNetLoss",
    "attention": "compressor.losses.attention:AttentionTransferLoss",
    "crd": "compressor.losses.crd:CRDLoss",
    "darkrank": "compressor.losses.darkrank:DarkRankLoss",
    "pkt": "compressor.losses.pkt:PKTLoss",
    "regression": "compressor.losses.regression:RegressionLoss",
    "rkd": "compressor.losses.rkd:RKDLoss",
    "similarity": "compressor.losses.similarity:SimilarityLoss",
}
