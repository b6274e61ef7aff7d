"""smolagents: a CodeAgent whose code runs in a sandbox (``executor_type="e2b"``).

    pip install 'smolagents[e2b]'                                    # the agent plays a script
    pip install 'smolagents[e2b,openai]'; export OPENAI_API_KEY=...  # the same with a real model
"""

import os

from smolagents import ChatMessage, CodeAgent, MessageRole, Model, OpenAIModel

TASK = "What is the median number of days between the visits on 3, 10, 12 and 31 May 2025? Give the number only."
SCRIPT = [
    "Thought: let pandas count.\n<code>\nimport pandas as pd\n"
    "days = pd.to_datetime(['2025-05-03', '2025-05-10', '2025-05-12', '2025-05-31'])\n"
    "gaps = days.diff()[1:]\nprint(list(gaps.days))\n</code>",
    "Thought: the variable is still there.\n<code>\nfinal_answer(float(gaps.days.to_series().median()))\n</code>",
]


class ScriptedModel(Model):
    """Says the script's lines, one a turn."""

    def generate(self, messages, **options):
        return ChatMessage(role=MessageRole.ASSISTANT, content=SCRIPT[sum(m.role == MessageRole.ASSISTANT for m in messages)])


model = OpenAIModel("gpt-5-mini") if os.environ.get("OPENAI_API_KEY") else ScriptedModel()
with CodeAgent(tools=[], model=model, executor_type="e2b", additional_authorized_imports=["pandas"]) as agent:
    print("answer:", agent.run(TASK))
