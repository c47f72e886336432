"""A small network, its gradient, and Adam, over flat arrays that lie elsewhere. Pure numpy.

Two hidden layers with rectifiers and a mean squared error. All parameters are one flat float32
array, so that they, and Adam's moments beside them, can be views of a machine's memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

INPUTS: Final = 64
OUTPUTS: Final = 16

_LEARNING_RATE: Final = 1e-3
_BETA_1: Final = 0.9
_BETA_2: Final = 0.999
_EPSILON: Final = np.float32(1e-8)
_CHUNK: Final = 32_768
"""Elements that Adam updates at once: its operands stay in the processor's cache."""


def _shapes(hidden: int) -> tuple[tuple[int, int], ...]:
    return (INPUTS, hidden), (hidden, hidden), (hidden, OUTPUTS)


def parameter_count(hidden: int) -> int:
    """Return how many parameters a network with ``hidden`` units a layer has."""
    return sum(rows * columns + columns for rows, columns in _shapes(hidden))


def _layers(flat: Floats, hidden: int) -> list[tuple[Floats, Floats]]:
    layers, begin = [], 0
    for rows, columns in _shapes(hidden):
        middle = begin + rows * columns
        end = middle + columns
        layers.append((flat[begin:middle].reshape(rows, columns), flat[middle:end]))
        begin = end
    return layers


class Network:
    """A network over ``parameters``, a flat array of ``parameter_count(hidden)`` numbers."""

    def __init__(self, parameters: Floats, hidden: int) -> None:
        self._layers = _layers(parameters, hidden)
        self.gradient: Floats = np.zeros_like(parameters)
        """What ``loss`` computed last: scratch, laid out as the parameters, not a lasting state."""
        self._gradients = _layers(self.gradient, hidden)

    def initialise(self, noise: Floats) -> None:
        """Set the weights to ``noise`` (uniform in [-1, 1), flat) in He's scale; biases to zero."""
        begin = 0
        for weight, bias in self._layers:
            part = noise[begin : begin + weight.size].reshape(weight.shape)
            weight[...] = part * np.float32((6 / weight.shape[0]) ** 0.5)
            bias[...] = 0
            begin += weight.size + bias.size

    def loss(self, inputs: Floats, targets: Floats) -> float:
        """Return the mean squared error on a batch and leave its gradient in ``gradient``.

        ``inputs`` has shape (batch, INPUTS), ``targets`` (batch, OUTPUTS).
        """
        activations = [inputs]
        for weight, bias in self._layers[:-1]:
            activations.append(np.maximum(activations[-1] @ weight + bias, np.float32(0)))
        weight, bias = self._layers[-1]
        error = activations[-1] @ weight + bias - targets
        self._back_propagate(activations, error * np.float32(2 / error.size))
        return float(np.square(error).mean())

    def _back_propagate(self, activations: list[Floats], delta: Floats) -> None:
        for index in reversed(range(len(self._layers))):
            weight_gradient, bias_gradient = self._gradients[index]
            np.matmul(activations[index].T, delta, out=weight_gradient)
            np.sum(delta, axis=0, out=bias_gradient)
            if index:
                delta = (delta @ self._layers[index][0].T) * (activations[index] > 0)


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) on three flat arrays of one length."""

    parameters: Floats
    first: Floats
    """First moments."""
    second: Floats
    """Second moments."""

    def update(self, gradient: Floats, step: int) -> None:
        """Write every parameter and both of its moments anew; ``step`` counts from 1."""
        rate = np.float32(_LEARNING_RATE * (1 - _BETA_2**step) ** 0.5 / (1 - _BETA_1**step))
        for begin in range(0, len(gradient), _CHUNK):
            self._update(slice(begin, begin + _CHUNK), gradient, rate)

    def _update(self, part: slice, gradient: Floats, rate: np.float32) -> None:
        slope, first, second = gradient[part], self.first[part], self.second[part]
        first *= np.float32(_BETA_1)
        first += np.float32(1 - _BETA_1) * slope
        second *= np.float32(_BETA_2)
        second += np.float32(1 - _BETA_2) * np.square(slope)
        self.parameters[part] -= rate * first / (np.sqrt(second) + _EPSILON)
