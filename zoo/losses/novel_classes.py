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
    """Adds generated embeddings, of the real classes and of novel ones, to a loss with proxies.

    A generator learns to make embeddings of a class from noise. Novel classes have conditions in the generator and
    proxies of their own, and no images. With X the batch, L2-normalised, G and G' generated embeddings with the labels
    of X, N as many of novel classes (as many classes as in X, drawn at random), base(.) the loss with the proxies of
    real classes, and base+(.) the loss with the proxies of all classes, real and novel:

        L = base(X) + synthetic_weight * base+(X, G, N) + realism_weight * R + diversity_weight * V

        R = mean over the classes of X of the energy distance between the class in X and in G and G' together
            + the energy distance between X and N, each with all its classes together
        V = mean over the classes of N of |1 - (spread of the class) / (mean spread of the classes in G and G')|

    and in the warm-up without base+.

    What learns from what: R and V move the generator and its conditions only, R towards X, which is held fixed, and V
    with the spread of real classes held fixed. base+ moves everything it sees: the embedding network through X, the
    proxies, and the generator through G and N, whose classes it makes easy to tell apart. No gradient reaches the
    network through generated embeddings: it learns from the proxies that they move, from the proxies of novel classes,
    which its embeddings must stay away from, and, where the base weights the embeddings of a batch by each other as
    Proxy-Anchor does, from having them in the batch.

    From the paper: the generator, conditions and proxies for novel classes, a loss with proxies on real and generated
    embeddings, and generated embeddings that are realistic, discriminative and diverse. Its details are not public.
    Ours:

    * R is an energy distance (see :func:`zoo.losses.novel.energy.energy_distances`), whose gradient is unbiased with
      the few images of a class in a batch. A Sinkhorn divergence was tried: generated classes came out far too narrow.
    * The second part of R keeps novel classes where real ones lie. Without it they are where base+ finds them easiest
      to tell apart, farther from any real class than real classes are from each other, and proxies there teach little.
    * V asks novel classes to be as wide as generated real ones. Like the mode-seeking ratio (Mao et al.,
      arXiv:1903.05628) it keeps the generator from ignoring the noise; it also keeps a novel class from being spread
      over the place of many real ones, as R alone would have it. Real classes need no such term, since R has it.
    * The form of the generator, and base(X) beside base+(X, G, N), so that generated embeddings add to what is learnt
      from the images and do not dilute it: Proxy-Anchor averages over proxies, of which novel classes may have most.
    * The weights, chosen on synthetic vectors.

    A base of one's own must compare by cosine, since generated embeddings have length 1. Parameters other than the
    proxies learn at ``lr * generator_lr_factor``. Noise is drawn from torch's global generator, on the CPU, so it is
    the same on every process and device. Nothing of this is in the model folder but two files that
    :meth:`diagnose` writes. Memory is O(B^2 + B C) for B images and C classes.

    Args:
        num_classes: number of real classes.
        dim: dimensions of the embeddings.
        base: name of a loss with proxies, or ``module:Class``; it must have a parameter ``proxies`` ``(classes, dim)``.
        base_options: options of that loss.
        novel_classes: number of novel classes; None for as many as there are real ones.
        synthetic_weight: of the base loss on real and generated embeddings together.
        realism_weight: of R.
        diversity_weight: of V.
        warmup_epochs: epochs before generated embeddings are used; None for a fifth of all epochs.
        noise_dim: dimensions of the noise.
        hidden_dim: width of the generator.
        generator_lr_factor: how many times the network's learning rate the generator learns with.

    Raises:
        OptionError: an option out of range, or a base without such proxies or with another metric than cosine.
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
        """Learn where training is: epoch 0..epochs-1. Without this, it is past the warm-up."""
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
            ordered = labels.sort().values  # the order of a batch depends on the number of processes, noise must not
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
            embeddings: float ``(N, D)``, of the training images.
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
        """Draw labels of novel classes: as many as ``labels``, of as many classes, but at least two of each."""
        order = torch.randperm(self.novel_classes)[: min(len(labels.unique()), max(len(labels) // 2, 1))]
        if not len(order):
            return labels[:0]
        chosen = order[torch.arange(len(labels)) % len(order)]
        return self.num_classes + chosen.to(labels.device)
