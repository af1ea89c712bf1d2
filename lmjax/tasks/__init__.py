"""Tasks, one a file. To be imported here is to be selectable as task:LABEL."""

from lmjax.tasks.base import Outcome, Task, Variables
from lmjax.tasks.classification import Classification
from lmjax.tasks.language_model import LanguageModel

__all__ = ["Classification", "LanguageModel", "Outcome", "Task", "Variables"]
