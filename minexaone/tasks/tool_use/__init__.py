"""Using tools: calling them, telling what came back, and chains of calls that need each other's results."""

from minexaone.tasks.base import Task
from minexaone.tasks.tool_use.answers import answer
from minexaone.tasks.tool_use.calls import call
from minexaone.tasks.tool_use.episodes import Episode, episode, multistep
from minexaone.tasks.tool_use.verify import valid_calls, verify

__all__ = ["TASKS", "Episode", "episode", "valid_calls", "verify"]

TASKS = {"call": Task(call, verify, "tool use", 16, 3), "answer": Task(answer, verify, "tool use", 8, 2),
         "multistep": Task(multistep, verify, "tool use", 12, 3)}
