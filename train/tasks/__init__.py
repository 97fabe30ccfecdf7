"""Tasks by name: what `stages.<name>.task` of a method can say. Each is made from (model, settings, teacher or None)."""

from collections.abc import Callable

from train.tasks.distill import Distill
from train.tasks.identify import Identify
from train.tasks.task import Task

TASKS: dict[str, Callable[..., Task]] = {"identify": Identify, "distill": Distill}

__all__ = ["TASKS", "Distill", "Identify", "Task"]
