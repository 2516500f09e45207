"""A language model as the user: ``ENV_PATH=grpo/environments/chat_user.py``, behind any OpenAI-compatible API.

    export USER_API_URL=http://127.0.0.1:8000/v1 USER_API_MODEL=Qwen3-8B   # and USER_API_KEY, where the server asks
    ENV_PATH=grpo/environments/chat_user.py ENV_TIMEOUT=120 ./grpo/train.sh

The row's ``extra_info`` holds ``goal``, what the user wants, which the model must find out; its ``prompt`` may be a
system turn alone. The user writes ``[solved]`` when it has what it wants and ``[gave up]`` when it sees no way.
"""

from __future__ import annotations

import os
from typing import Any

import openai

ROLE = (
    "You play a person who talks to an assistant. What you want: {goal}\n"
    "Say it in your own words and a little at a time, in one or two sentences a turn; never play the assistant. When "
    "you have what you want write only {solved}. When the assistant cannot help you write only {gave_up}."
)
SOLVED, GAVE_UP = "[solved]", "[gave up]"
MAX_TOKENS = 200  # of one turn of the user
ATTEMPTS = 3  # the client waits between them; all of them count in ENV_TIMEOUT


class Environment:
    """One conversation."""

    def reset(self, row: dict[str, Any]) -> str:
        """Start a conversation about the row's goal; returns what the user says first.

        Raises:
            KeyError: If a variable is not set, or the row has no goal.
        """
        goal = row["extra_info"]["goal"]
        self.client = openai.OpenAI(
            base_url=os.environ["USER_API_URL"],
            api_key=os.environ.get("USER_API_KEY", "none"),
            max_retries=ATTEMPTS - 1,
        )
        role = ROLE.format(goal=goal, solved=SOLVED, gave_up=GAVE_UP)
        self.turns = [{"role": "system", "content": role}, {"role": "user", "content": "Hello, how can I help you?"}]
        return self.speak()

    def speak(self) -> str:
        """The user's next turn, from the API, whose roles are the other way round."""
        asked = {"model": os.environ["USER_API_MODEL"], "messages": self.turns, "max_tokens": MAX_TOKENS}
        said = self.client.chat.completions.create(**asked).choices[0].message.content or ""
        self.turns.append({"role": "assistant", "content": said})
        return said.strip()

    def step(self, action: str) -> tuple[str, float, bool, dict[str, Any]]:
        """Let the user read the model's answer.

        Returns:
            What it says, 1 when it has what it wants and else 0, whether the conversation is over, and the success.
        """
        self.turns.append({"role": "user", "content": action or "(silence)"})
        said = self.speak()
        solved = SOLVED in said.lower()
        return said, float(solved), solved or GAVE_UP in said.lower(), {"success": solved}
