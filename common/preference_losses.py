"""Names of the losses of dpo/ for those who must not import torch; dpo/losses.py and dpo/kto.py have the formulas."""

PAIR_LOSSES = (
    *("sigmoid", "hinge", "ipo", "robust", "sppo", "exo_pair", "nca_pair", "bco_pair", "apo_zero", "apo_down"),
    *("discopop", "simpo", "alphapo", "orpo"),
)
ANSWER_LOSSES = ("kto", "apo_zero_unpaired")  # of answers that are each marked as good or bad
WITHOUT_REFERENCE = ("simpo", "alphapo", "orpo")
