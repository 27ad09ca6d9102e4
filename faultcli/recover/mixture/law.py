"""What training learned about a law of damage: how it moves the classes of the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.align import Alignment
from faultcli.recover.base import Array
from faultcli.recover.mixture.class_distances import DistanceLaw, log_distances
from faultcli.recover.mixture.class_volumes import VolumeLaw, log_volumes
from faultcli.recover.mixture.cluster_matching import SHRINKAGE, Labels, MeanStructure
from faultcli.recover.mixture.gaussians import Rows
from faultcli.recover.parts import array, precision
from faultcli.recover.reference import MOST_CLASSES, Reference, class_means

_FARTHEST = 1e6  # spreads, of a class mean from the mean
_PLACE_SHRINKAGE = 0.1  # of the covariance between classes
_ARRAYS = (("structure", "names"), ("places", "places"))


@dataclass(frozen=True)
class MovedClasses:
    """Where a copy's classes are: means [K, K], two ways, log volumes [K] and log distances [K, K].

    `standard`: of logits standardised over the inputs. `placed`: less the clean mean, in clean spreads; an offset or a
    stretch that damage gave a logit is still in them.
    """

    standard: Array
    placed: Array
    volumes: Array
    distances: Array

    @classmethod
    def of(cls, logits: Array, labels: NDArray[np.int64], alignment: Alignment, reference: Reference) -> MovedClasses:
        """Measure finite logits [n, K]; every class has to occur."""
        means = class_means(logits, labels, reference.classes)
        placed = (means - reference.mean) / reference.spread
        components = Rows(alignment.standardise(logits)).maximise(np.eye(reference.classes)[:, labels])
        return cls(alignment.standardise(means), placed, log_volumes(components[1]), log_distances(*components))


@dataclass(frozen=True)
class DamageLaw:
    """How damage of a law moves classes.

    Attributes:
        names: of logits that are standardised over a window: which cluster is which class.
        places: of logits as they come, in clean spreads, but for an offset of every logit: which part of the classes a
            window holds, and where the others are. The spread of a window in which classes are missing says little
            about the others; in this law it need not be taken out first.
        volumes: how much room the classes take up.
        distances: how far apart they lie.
    """

    names: MeanStructure
    places: MeanStructure
    volumes: VolumeLaw
    distances: DistanceLaw

    @classmethod
    def learn(cls, reference: Reference, clean: MovedClasses, damaged: Sequence[MovedClasses]) -> Self:
        """Learn it from the clean model and damaged copies; without any of these, all covariances are the identity."""
        means = reference.standard_means

        def contrasts(placed: Array) -> Array:
            result: Array = placed - placed.mean(axis=0)
            return result

        places = MeanStructure.learn(contrasts(means), [contrasts(one.placed) for one in damaged], _PLACE_SHRINKAGE)
        names = MeanStructure.learn(means, [one.standard for one in damaged], SHRINKAGE)
        volumes = VolumeLaw.learn(clean.volumes, [one.volumes for one in damaged])
        return cls(names, replace(places, means=means), volumes, DistanceLaw(clean.distances))

    def name_clusters(self, means: Array, covariances: Array) -> tuple[Labels, float]:
        """Return for every class the cluster [K] that is it, and how well means [K, K] and covariances [K, K, K] of
        standardised logits agree with that."""
        return self.names.name_clusters(means, self.volumes.of_all(log_volumes(covariances)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the inverse covariances; the means come from the reference."""
        found = {prefix: getattr(self, name) for prefix, name in _ARRAYS}
        classes = {f"{prefix}.classes": one.class_precision for prefix, one in found.items()}
        logits = {f"{prefix}.logits": one.logit_precision for prefix, one in found.items()}
        volumes = {"volumes.clean": self.volumes.clean, "volumes.variance": np.array([self.volumes.variance])}
        return classes | logits | volumes | {"distances.clean": self.distances.clean}

    @classmethod
    def from_arrays(cls, reference: Reference, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build it from what `arrays` returned. KeyError or ValueError where that is damaged."""
        k = reference.classes
        if reference.class_means is None or k > MOST_CLASSES:
            raise ValueError(f"it has no class means for a mixture, or too many classes: {k}")
        means = reference.standard_means
        if not 0 < np.abs(means).max() < _FARTHEST:
            raise ValueError("its class means lie absurdly far apart, or all at one place")
        parts = ("classes", "logits")
        names, places = (
            MeanStructure(means, *(precision(arrays, f"{prefix}.{part}", k) for part in parts)) for prefix, _ in _ARRAYS
        )
        variance = float(array(arrays, "volumes.variance", 1, positive=True)[0])
        volumes = VolumeLaw(array(arrays, "volumes.clean", k), variance)
        return cls(names, places, volumes, DistanceLaw(array(arrays, "distances.clean", k, k)))
