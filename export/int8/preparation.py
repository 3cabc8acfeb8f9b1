"""Inputs of the quantiser, computed once and shared between schemes: the equalised network and activation ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from onnx import ModelProto
from onnxruntime.quantization.calibrate import TensorsData

from export.int8.bias_correction import corrected
from export.int8.equalization import equalized
from export.int8.judge import preprocessed
from export.int8.quantization import calibrate, to_int8
from export.int8.schemes import Scheme
from export.onnx.tracing import Graphs
from zoo.data.image_set import ImageSet
from zoo.progress import progress

_CORRECTED_ON = 64  # images for bias correction; each is run once per layer


class Prepared:
    """Quantises one network by any scheme.

    Args:
        graphs: graphs of the network.
        calibration: images to measure activation ranges on.
    """

    def __init__(self, graphs: Graphs, calibration: ImageSet) -> None:
        self.graphs = graphs
        self.calibration = calibration
        self._equalized: ModelProto | None = None
        self._ranges: dict[tuple[str, bool], TensorsData] = {}

    def quantized(self, scheme: Scheme, in_float: Iterable[str] = ()) -> ModelProto:
        """Return the network quantised by a scheme; nodes with the names ``in_float`` stay in float."""
        network, left = self._network(scheme), list(in_float)
        found = to_int8(network, scheme, self._ranges_for(scheme), left)
        return corrected(network, found, self._to_correct_on) if scheme.bias_corrected else found

    def _network(self, scheme: Scheme) -> ModelProto:
        if not scheme.equalized:
            return self.graphs.network
        if self._equalized is None:
            self._equalized = equalized(self.graphs.network)
        return self._equalized

    def _ranges_for(self, scheme: Scheme) -> TensorsData | None:
        if scheme.kind == "dynamic":
            return None
        key = scheme.ranges, scheme.equalized
        if key not in self._ranges:
            tensors = preprocessed(self.graphs, self.calibration)
            shown = progress(tensors, f"calibrating, {scheme.ranges}", len(self.calibration))
            self._ranges[key] = calibrate(self._network(scheme), scheme.ranges, shown)
        return self._ranges[key]

    def _to_correct_on(self) -> Iterator[np.ndarray]:
        spaced = np.unique(np.linspace(0, len(self.calibration) - 1, _CORRECTED_ON).astype(int))
        return preprocessed(self.graphs, self.calibration.subset(spaced))
