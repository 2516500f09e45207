r"""The one reader of answers: the rewards, the data door, the bench and test.sh take what an answer says from here.

- ``read_answer`` cuts the thought off and opens the marks (`<answer>`, `####`, `\boxed{}`, "the answer is", bold)
- ``accepted`` lists the answers that a ground truth accepts
- ``number`` reads numbers, ``letters`` the letters of multiple choice
"""

from common.answers.final import Reading, final_answer, last_box, marked_answer, read_answer
from common.answers.thought import behind_thought
from common.answers.truth import accepted

__all__ = ["Reading", "accepted", "behind_thought", "final_answer", "last_box", "marked_answer", "read_answer"]
