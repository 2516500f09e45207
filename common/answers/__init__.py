r"""The one reader of answers: the rewards, the data door, the bench and test.sh take what an answer says from here.

===========  ===================================================================
module       what it holds
===========  ===================================================================
``thought``  where the thought of an answer ends
``final``    what an answer marks as final (`<answer>`, `####`, `\boxed{}`, "the answer is", bold)
``truth``    what a row accepts as right
``number``   numbers in text, read exactly
``letters``  the letters of multiple choice
``words``    texts compared as SQuAD compares them
===========  ===================================================================
"""

from common.answers.final import Reading, final_answer, last_box, marked_answer, read_answer
from common.answers.thought import behind_thought
from common.answers.truth import accepted

__all__ = ["Reading", "accepted", "behind_thought", "final_answer", "last_box", "marked_answer", "read_answer"]
