"""What will transfer, told before any training: bases, layers and adapters judged by a sample of rows."""

from pefttune.evaluation.transfer.answers import score_answers
from pefttune.evaluation.transfer.asking import asked
from pefttune.evaluation.transfer.control import Control
from pefttune.evaluation.transfer.figure import draw_transfer
from pefttune.evaluation.transfer.forecast import Forecast, Point
from pefttune.evaluation.transfer.judging import Judged, Training, judge
from pefttune.evaluation.transfer.report import (
    AnswerScores,
    BaseFound,
    SourceFound,
    TextLoss,
    TransferReport,
    ViewScores,
    label_entropy,
    ranked_bases,
    ranked_sources,
)
from pefttune.evaluation.transfer.sample import Sample
from pefttune.evaluation.transfer.sources import judge_source
from pefttune.evaluation.transfer.texts import text_loss

__all__ = [
    "AnswerScores",
    "BaseFound",
    "Control",
    "Forecast",
    "Judged",
    "Point",
    "Sample",
    "SourceFound",
    "TextLoss",
    "Training",
    "TransferReport",
    "ViewScores",
    "asked",
    "draw_transfer",
    "judge",
    "judge_source",
    "label_entropy",
    "ranked_bases",
    "ranked_sources",
    "score_answers",
    "text_loss",
]
