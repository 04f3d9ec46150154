"""How the axes of an ONNX value lie in a tensor (channels, height, width) of the accelerator: reshapes and transposes only rename them."""

from dataclasses import dataclass
from math import prod

import numpy as np

from hw.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Atom:
    """A piece of one of the tensor's axes ("n", "c", "h", "w"): index = sum over its pieces of (index in piece) * inner."""

    axis: str
    size: int
    inner: int = 1


@dataclass(frozen=True, kw_only=True)
class View:
    """An ONNX value: which tensor it is, and for each of its axes the pieces that make it, the slowest first. Axes of size 1 have none."""

    tensor: str
    axes: tuple[tuple[Atom, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(atom.size for atom in axis) for axis in self.axes)

    @property
    def letters(self) -> tuple[str, ...]:
        """The tensor's axes in each of the value's: ("n", "c", "h", "w") for an image."""
        return tuple("".join(atom.axis for atom in axis) for axis in self.axes)

    def transpose(self, order: tuple[int, ...]) -> "View":
        return View(tensor=self.tensor, axes=tuple(self.axes[i] for i in order))

    def reshape(self, shape: tuple[int, ...], where: str) -> "View":
        """The same values in row-major order with other axes."""
        if prod(shape) != prod(self.shape):
            raise ConfigError(f"reshape must keep {prod(self.shape)} values, not make {shape} ({where})")
        atoms = _joined([atom for axis in self.axes for atom in axis])
        axes = []
        for size in shape:
            axis: list[Atom] = []
            while (have := prod(atom.size for atom in axis)) < size:
                missing, atom = size // have, atoms.pop(0)
                if size % have or (atom.size > missing and atom.size % missing) or (atom.size < missing and missing % atom.size):
                    raise ConfigError(f"reshape must split and join whole axes, not make {shape} of {self.shape} ({where})")
                if atom.size > missing:  # the slow part belongs to this axis
                    rest = atom.size // missing
                    atoms.insert(0, Atom(axis=atom.axis, size=rest, inner=atom.inner))
                    atom = Atom(axis=atom.axis, size=missing, inner=atom.inner * rest)
                axis.append(atom)
            axes.append(tuple(axis))
        return View(tensor=self.tensor, axes=tuple(axes))

    def array(self, values: np.ndarray) -> np.ndarray:
        """The ONNX value, from the tensor's values (batch, channels, height, width)."""
        atoms, order = self._order()
        split = values.reshape([atom.size for atom in atoms])
        return split.transpose(order).reshape(self.shape)

    def tensor_values(self, array: np.ndarray, shape: tuple[int, int, int, int]) -> np.ndarray:
        """The inverse of `array`: the tensor's values in `shape`."""
        atoms, order = self._order()
        split = array.reshape([atoms[i].size for i in order])
        return split.transpose(np.argsort(order)).reshape(shape)

    def _order(self) -> tuple[list[Atom], list[int]]:
        """All pieces in the tensor's order, and the positions there of the value's pieces in its own."""
        mine = [atom for axis in self.axes for atom in axis]
        atoms = sorted(mine, key=lambda atom: ("nchw".index(atom.axis), -atom.inner))
        return atoms, [atoms.index(atom) for atom in mine]


def _joined(atoms: list[Atom]) -> list[Atom]:
    """Pieces of one axis that follow on each other as one."""
    result: list[Atom] = []
    for atom in atoms:
        if result and result[-1].axis == atom.axis and result[-1].inner == atom.inner * atom.size:
            atom = Atom(axis=atom.axis, size=result.pop().size * atom.size, inner=atom.inner)
        result.append(atom)
    return result


def view(tensor: str, shape: tuple[int, ...], letters: str) -> View:
    """A plain view: one letter an axis."""
    return View(tensor=tensor, axes=tuple((Atom(axis=letter, size=size),) if size > 1 else () for letter, size in zip(letters, shape, strict=True)))
