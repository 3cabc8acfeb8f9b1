"""Novel classes: Lee et al., "Learning to Generate Novel Classes for Deep Metric Learning", BMVC 2021.

arXiv:2201.01008.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.arguments import require_above, require_at_least
from zoo.errors import OptionError
from zoo.losses import create_loss
from zoo.losses.directions import unit
from zoo.losses.novel.energy import energy_distances, spreads
from zoo.losses.novel.generator import EmbeddingGenerator
from zoo.losses.novel.report import report_generated


class NovelClassesLoss(nn.Module):
    """Adds generated embeddings of real and novel classes to a loss with proxies.

    A generator learns to make embeddings of a class from noise. Novel classes have their own conditions in the
    generator and their own proxies, but no images. X is the batch, L2-normalised. G and G' are generated embeddings
    with the labels of X, and N as many of novel classes (as many classes as in X, drawn at random). base(.) is the loss
    with the proxies of real classes, and base+(.) the loss with the proxies of all classes, real and novel:

        L = base(X) + synthetic_weight * base+(X, G, N) + realism_weight * R + diversity_weight * V

        R = mean over the classes of X of the energy distance between the class in X and in G and G' together
            + the energy distance between X and N, each with all its classes together
        V = mean over the classes of N of |1 - (spread of the class) / (mean spread of the classes in G and G')|

    During the warm-up, base+ is left out.

    What learns from what: R and V train the generator and its conditions only; R holds X fixed, and V the spread of
    real classes. base+ trains everything it sees: the embedding network through X, the proxies, and the generator
    through G and N, whose classes it makes easy to separate. No gradient reaches the network through generated
    embeddings. It learns from the proxies that they move, from the proxies of novel classes, which its embeddings must
    avoid, and, if the base weights the embeddings of a batch by each other as Proxy-Anchor does, from having them in
    the batch.

    From the paper: the generator, conditions and proxies for novel classes, a loss with proxies on real and generated
    embeddings, and generated embeddings that are realistic, discriminative and diverse. Its details are not public.
    Ours:

    * R is an energy distance (see :func:`zoo.losses.novel.energy.energy_distances`), whose gradient is unbiased even
      with the few images of a class in a batch. With a Sinkhorn divergence, generated classes were far too narrow.
    * The second part of R keeps novel classes in the region of real ones. Without it they move to where base+ separates
      them most easily, farther from any real class than real classes are from each other, and proxies there teach
      little.
    * V makes novel classes as wide as generated real ones. Like the mode-seeking ratio (Mao et al., arXiv:1903.05628)
      it keeps the generator from ignoring the noise. It also keeps a novel class from spreading over the region of many
      real ones, as R alone would allow. Real classes need no such term, since R includes their spread.
    * The form of the generator, and base(X) beside base+(X, G, N), so that generated embeddings add to what is learnt
      from the images and do not dilute it: Proxy-Anchor averages over proxies, most of which may be novel classes'.
    * The weights, chosen on synthetic vectors.

    Your own base must compare by cosine, since generated embeddings have length 1. Parameters other than the proxies
    train at ``lr * generator_lr_factor``. Noise is drawn from torch's global generator, on the CPU, so it is the same
    on every process and device. The model folder contains only the two files that :meth:`diagnose` writes. Memory is
    O(B^2 + B C) for B images and C classes.

    Args:
        num_classes: number of real classes.
        dim: dimensions of the embeddings.
        base: name of a loss with proxies, or ``module:Class``; it must have a parameter ``proxies`` ``(classes, dim)``.
        base_options: options of that loss.
        novel_classes: number of novel classes; None for as many as real ones.
        synthetic_weight: weight of the base loss on real and generated embeddings together.
        realism_weight: weight of R.
        diversity_weight: weight of V.
        warmup_epochs: epochs before generated embeddings are used; None for a fifth of all epochs.
        noise_dim: dimensions of the noise.
        hidden_dim: width of the generator.
        generator_lr_factor: the generator's learning rate, as a multiple of the network's.

    Raises:
        OptionError: an option is out of range, or the base has no such proxies or a metric other than cosine.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        base: str = "proxy_anchor",
        base_options: dict[str, Any] | None = None,
        novel_classes: int | None = None,
        synthetic_weight: float = 1.0,
        realism_weight: float = 5.0,
        diversity_weight: float = 1.0,
        warmup_epochs: int | None = None,
        noise_dim: int = 64,
        hidden_dim: int = 512,
        generator_lr_factor: float = 3.0,
    ) -> None:
        super().__init__()
        weights = {"realism_weight": realism_weight, "diversity_weight": diversity_weight}
        counts = {"novel_classes": novel_classes, "warmup_epochs": warmup_epochs}
        known = {name: value for name, value in counts.items() if value is not None}
        require_at_least(0, synthetic_weight=synthetic_weight, **weights, **known)
        require_at_least(1, noise_dim=noise_dim, hidden_dim=hidden_dim)
        require_above(0, generator_lr_factor=generator_lr_factor)
        self.num_classes = num_classes
        self.novel_classes = num_classes if novel_classes is None else novel_classes
        classes = num_classes + self.novel_classes
        self.base = create_loss(base, num_classes=classes, dim=dim, **(base_options or {}))
        proxies = getattr(self.base, "proxies", None)
        if not isinstance(proxies, nn.Parameter) or proxies.shape != (classes, dim):
            raise OptionError(f"Base loss {base!r} has no parameter proxies of shape (classes, dim). Choose another.")
        if getattr(self.base, "metric", "cosine") != "cosine":
            raise OptionError(f"Base loss {base!r} compares by another metric than cosine. Choose another.")
        self.generator = EmbeddingGenerator(classes, dim, noise_dim, hidden_dim)
        self.synthetic_weight, self.realism_weight = synthetic_weight, realism_weight
        self.diversity_weight, self.warmup_epochs = diversity_weight, warmup_epochs
        self.loss_lr_factor = generator_lr_factor
        self._warming_up = False

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Set the current epoch, 0..epochs-1. If this is never called, there is no warm-up."""
        self._warming_up = epoch < (epochs // 5 if self.warmup_epochs is None else self.warmup_epochs)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

        Args:
            embeddings: ``(N, D)``, need not be normalised.
            labels: int64 ``(N,)`` in 0..num_classes-1.

        Returns:
            float scalar.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(self.generator.conditions.dtype)
            real = unit(embeddings)
            ordered = labels.sort().values  # noise must not depend on the batch's order, which varies with processes
            twice = ordered.repeat(2)  # a class with one image in the batch needs two for a spread
            generated = self._generate(twice)
            realism = energy_distances(real.detach(), labels, generated, twice).diagonal().mean()
            proxies = {"proxies": self.base.proxies[: self.num_classes]}  # type: ignore[index]
            loss: Tensor = functional_call(self.base, proxies, (embeddings, labels))
            novel_labels = self._some_novel(labels)
            novel = self._generate(novel_labels)
            if self.novel_classes:
                one, other = torch.zeros_like(labels), torch.zeros_like(novel_labels)
                realism = realism + energy_distances(real.detach(), one, novel, other).squeeze()
                wanted = spreads(generated.detach(), twice).mean()
                ratios = spreads(novel, novel_labels) / wanted.clamp(min=1e-6)
                loss = loss + self.diversity_weight * (1 - ratios).abs().mean()
            loss = loss + self.realism_weight * realism
            if self._warming_up:
                return loss
            return loss + self.synthetic_weight * self.base(
                torch.cat([real, generated[: len(labels)], novel]), torch.cat([labels, ordered, novel_labels])
            )

    @torch.no_grad()
    def diagnose(self, embeddings: np.ndarray, labels: np.ndarray, folder: Path) -> None:
        """Write ``generated.json`` and ``generated.png``: how generated embeddings compare with real ones.

        Args:
            embeddings: embeddings of the training images, float ``(N, D)``.
            labels: int64 ``(N,)`` in 0..num_classes-1.
            folder: where to write.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            report_generated(embeddings, labels, self._generate, self.num_classes, self.novel_classes, folder)

    def _generate(self, labels: Tensor) -> Tensor:
        conditions = self.generator.conditions
        noise = torch.randn(len(labels), self.generator.noise_dim, dtype=conditions.dtype)
        generated: Tensor = self.generator(labels.to(conditions.device), noise.to(conditions.device))
        return generated

    def _some_novel(self, labels: Tensor) -> Tensor:
        """Draw as many labels of novel classes as ``labels``, of as many classes, but at least two of each."""
        order = torch.randperm(self.novel_classes)[: min(len(labels.unique()), max(len(labels) // 2, 1))]
        if not len(order):
            return labels[:0]
        chosen = order[torch.arange(len(labels)) % len(order)]
        return self.num_classes + chosen.to(labels.device)
