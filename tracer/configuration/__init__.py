"""What layers are set to, in words that all frameworks share, and how two layers' settings differ.

:func:`settings` reads one node: the canonical words are listed in :data:`WORDS`. :func:`apart` compares those of a pair
and says what each difference means. :func:`differences` is the quick look at two nodes alone, without their graphs,
by which the alignment tells likely pairs from unlikely ones.
"""

from tracer.configuration.apart import Difference, apart
from tracer.configuration.canonical import settings
from tracer.configuration.stated import differences
from tracer.configuration.vocabulary import WORDS, Settings, Word

__all__ = ["WORDS", "Difference", "Settings", "Word", "apart", "differences", "settings"]
