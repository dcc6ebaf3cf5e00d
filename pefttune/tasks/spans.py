"""From the scores of a passage's windows to its best span.

Shapes: M marks of a window, the first of them for “no answer”; K tokens of the passage; spans of at most L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import logsumexp

from pefttune.tasks.passage import Window


def best_span(
    windows: Sequence[Window], scores: Sequence[np.ndarray], longest: int, *, can_be_none: bool
) -> tuple[int, int, float]:
    """Where in the passage the most probable span of at most `longest` tokens begins and ends, and its probability;
    0 and 0 for “no answer”, if that is more probable and can be, or if there is no token.

    `scores` are log-probabilities (M, 2) of being the first and the last token of the answer, each window's own.
    """
    odds_KL = span_odds(windows, scores, longest)
    if not odds_KL.size:
        return 0, 0, 1.0
    every = np.append(0.0 if can_be_none else -np.inf, odds_KL)
    best = int(every.argmax())
    probability = float(np.exp(every[best] - logsumexp(every)))
    if best == 0:
        return 0, 0, probability
    first, more = divmod(best - 1, odds_KL.shape[1])
    return _characters(windows, first)[0], _characters(windows, first + more)[1], probability


def span_odds(windows: Sequence[Window], scores: Sequence[np.ndarray], longest: int) -> np.ndarray:
    """(K, L): the log-odds against “no answer” of the span from the k-th token to the l-th after it; -inf where no
    window has the whole of it, the greatest where several have it.

    If windows decide one by one and one at most has the answer, the others say “no answer” to a span as well as to no
    answer at all. So the odds are those in the span's own window, and compare spans of different windows.
    """
    tokens = windows[-1].first + len(windows[-1].characters_M2)
    odds_KL = np.full((tokens, min(longest, tokens)), -np.inf)
    for window, scores_M2 in zip(windows, scores, strict=True):
        if marked := len(window.characters_M2):
            odds_M2 = scores_M2.astype(float) - scores_M2[0]
            ends = np.append(odds_M2[1:, 1], np.full(odds_KL.shape[1] - 1, -np.inf))
            own_KL = odds_KL[window.first : window.first + marked]
            np.maximum(own_KL, odds_M2[1:, :1] + sliding_window_view(ends, odds_KL.shape[1]), out=own_KL)
    return odds_KL


def _characters(windows: Sequence[Window], token: int) -> tuple[int, int]:
    window = next(window for window in windows if 0 <= token - window.first < len(window.characters_M2))
    start, end = window.characters_M2[token - window.first].tolist()
    return start, end
