"""Prompts for agents, and the action read back from a completion.

Two styles of one content. ``chat`` is for instruction-tuned models: plain English, the admissible actions listed, room
to think before ``<action>...</action>``. ``compact`` is for tiny models: a few dozen tokens that end in an open
``<action>``, so that the completion is the bare action and a closing tag; it leaves the admissible actions out.
"""

import re
from collections.abc import Sequence
from typing import Literal

PromptStyle = Literal["chat", "compact"]

ACTION_OPEN, ACTION_CLOSE = "<action>", "</action>"
COMPACT_WORDS = ("goal", "did", "see", ";", ".", ACTION_OPEN, ACTION_CLOSE)
"""The words a compact prompt adds to those of the environment, for a word-level vocabulary."""

_TAGGED = re.compile(re.escape(ACTION_OPEN) + r"(.*?)" + re.escape(ACTION_CLOSE), re.DOTALL)


def render_prompt(
    goal: str,
    history: Sequence[tuple[str, str]],
    observation: str,
    admissible: Sequence[str],
    *,
    history_length: int = 2,
    style: PromptStyle = "chat",
) -> str:
    """Write the prompt of one turn.

    Args:
        goal: the task in words.
        history: all turns so far, oldest first, each ``(observation, action)``; an action is the one that was sent.
        observation: what the environment shows now.
        admissible: the actions it would carry out now.
        history_length: how many of the last turns are shown, at least 0.
        style: ``chat`` or ``compact``; compact shows the actions of the history without their observations.
    """
    recent = list(history[len(history) - history_length :]) if history_length < len(history) else list(history)
    if style == "compact":
        did = " ; ".join(action for _, action in recent)
        parts = [f"goal {goal}", f"did {did}" if did else "", f"see {observation}"]
        return " . ".join(part for part in parts if part) + f" . {ACTION_OPEN}"
    lines = [f"You act in a text world. Your task: {goal}", ""]
    if recent:
        first = len(history) - len(recent) + 1
        lines.append(f"You have taken {len(history)} steps. The last {len(recent)}:")
        for number, (seen, action) in enumerate(recent, start=first):
            lines += [f"[step {number}] you saw: {seen}", f"[step {number}] you did: {action}"]
        lines.append("")
    lines += [f"You now see: {observation}", "", "You can do one of:"]
    lines += [f"- {command}" for command in admissible]
    lines += [
        "",
        "Think about what brings you closer to the goal, then answer with exactly one of these actions between "
        f"{ACTION_OPEN} and {ACTION_CLOSE}.",
    ]
    return "\n".join(lines)


def parse_action(completion: str, *, opened: bool = False) -> str | None:
    """Read the action out of a completion: the text of its last ``<action>...</action>``, or None if it has none.

    Case and runs of white space do not matter. With ``opened`` the prompt already ended in ``<action>``: the action is
    then everything up to ``</action>``, or to the end where the closing tag was the stop token and is not in the text.
    """
    if opened:
        action = completion.split(ACTION_CLOSE, 1)[0]
        if ACTION_OPEN in action:
            return None
    else:
        tagged = _TAGGED.findall(completion)
        if not tagged:
            return None
        action = tagged[-1]
        # An unclosed tag before the last pair is no part of the action: "<action> a <action> b </action>" says b.
        action = action.rsplit(ACTION_OPEN, 1)[-1]
    return " ".join(action.lower().split()) or None
