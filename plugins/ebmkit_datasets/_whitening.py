"""The linear map after which rows have unit covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from ebmkit import DataError

# Rounding leaves about 1e-15 of an eigenvalue that is zero, and 1e-14 where columns were worked
# out in float32; what is smaller than this would be rounding, enlarged to unit variance.
_LEAST = 1e-10


def cholesky_factor(path: str, standardised: Tensor, names: list[str]) -> Tensor:
    """The lower factor L (d, d) of the correlation matrix L Lᵀ of standardised rows (rows, d).

    Raises:
        DataError: columns determine one another, or rows are too few to tell.
    """
    rows, width = standardised.shape
    correlations = standardised.T @ standardised / rows
    values, vectors = torch.linalg.eigh(correlations)
    if values[0] < _LEAST:
        if rows <= width:
            why, remedy = (
                f"{rows} training rows of {width} columns have no covariance that can be inverted",
                "give more rows, choose fewer columns",
            )
        else:
            shares = vectors[:, 0].abs()
            involved = [names[i] for i in range(width) if shares[i] > 0.1 * shares.max()][:4]
            why, remedy = (
                f"{' and '.join(involved)} determine one another in the {rows} training rows (least "
                f"eigenvalue of the correlations {values[0]:.1g}, expected at least {_LEAST:.0g})",
                "leave one of them out with columns",
            )
        raise DataError(f"{path}: {why}; {remedy}, or set whiten = false") from None
    factor: Tensor = torch.linalg.cholesky(correlations)
    return factor
