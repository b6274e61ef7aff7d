"""A Harbor agent that plays a script: its commands run in the task's sandbox.

    harbor run -p task -e e2b -a scripted_agent:ScriptedAgent
"""

from harbor.agents.base import BaseAgent

SCRIPT = [
    "cat text.txt",
    """python3 -c "
import collections, re
words = collections.Counter(re.findall('[a-z]+', open('text.txt').read().lower()))
open('words.txt', 'w').writelines(f'{word} {count}\\n' for word, count in words.most_common(3))
" """,
    "cat words.txt",
]


class ScriptedAgent(BaseAgent):
    """Runs the script's commands, and fails with the first that fails."""

    @staticmethod
    def name():
        return "scripted"

    def version(self):
        return "1"

    async def setup(self, environment):
        pass

    async def run(self, instruction, environment, context):
        for command in SCRIPT:
            result = await environment.exec(command)
            print(f"$ {command}\n{result.stdout}{result.stderr or ''}")
            if result.return_code != 0:
                raise RuntimeError(f"exit code {result.return_code}")
